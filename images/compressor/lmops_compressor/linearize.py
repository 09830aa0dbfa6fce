"""GPT-2's `Conv1D` is a linear layer whose weight lies the other way round, which tools do not know; this turns it."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

NAMES = "_linearized"
"""The attribute of a model that remembers which of its layers were turned, whatever has replaced them since."""


def linearize(model: PreTrainedModel, views: bool = False) -> PreTrainedModel:
    """Makes every `Conv1D` ([inputs, outputs]) an `nn.Linear` ([outputs, inputs]) in place; others stay.

    With `views` no weight is copied: the new ones are the old ones read the other way round, not contiguous.
    Such a model must not be saved: its configuration still says that the weights lie the other way round.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name in found:
        conv = model.get_submodule(name)
        linear = nn.Linear(conv.weight.shape[0], conv.weight.shape[1], device="meta")  # type: ignore[index, arg-type]
        model.set_submodule(name, _turned(conv, linear, views))
    setattr(model, NAMES, (*getattr(model, NAMES, ()), *found))
    return model


def delinearize(model: PreTrainedModel) -> PreTrainedModel:
    """Undoes `linearize` in place, to the bit; layers that have become smaller meanwhile keep their size."""
    for name in getattr(model, NAMES, ()):
        linear = model.get_submodule(name)
        outputs, inputs = linear.weight.shape  # type: ignore[misc]
        conv = Conv1D(0, 0)  # type: ignore[no-untyped-call]  # empty: weights of its own would be drawn at random
        conv.nf, conv.nx = outputs, inputs
        model.set_submodule(name, _turned(linear, conv))
    setattr(model, NAMES, ())
    return model


def _turned(old: nn.Module, new: nn.Module, views: bool = False) -> nn.Module:
    """`new` with the weight of `old` transposed, in the memory order that a fresh layer has unless it is a view."""
    weight, bias = old.weight, old.bias
    turned = weight.detach().t()  # type: ignore[operator]
    new.weight = nn.Parameter(turned if views else turned.contiguous(), weight.requires_grad)  # type: ignore[arg-type]
    new.bias = bias
    return new.train(old.training)
