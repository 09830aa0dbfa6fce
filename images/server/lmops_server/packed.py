"""Linear layers on the processor as oneDNN has them, weights packed once: what torch's compiler does as it freezes.

torch multiplies by MKL, which is up to three times slower for the few rows of a step on processors that are not
Intel's (`make bench-serving`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TypeGuard

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmops_trainer.log import log

EXAMPLE = [[1, 2, 3, 4, 5]]
TOLERANCE = 1e-3
"""By how much scores may differ, as a share of the largest."""
Layer = nn.Linear | Conv1D


class Packed(nn.Module):
    """A linear layer whose weight, [outputs, inputs], is packed: [*, inputs] to [*, outputs]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, self._packed, self._bias, "none", [], "")
        return found


@torch.inference_mode()
def pack(model: PreTrainedModel) -> int:
    """Packs the linear layers in fp32, in place, one by one, and frees the weights that nothing else uses.

    How many: 0, and the model is as it was, where this build of torch cannot, or a model reads its weights by itself.
    A table that embeds and scores alike is there twice.
    """
    layers = [module for module in model.modules() if fits(module)]
    if not layers:
        return 0
    weights = [layer.weight.data for layer in layers]
    uses = Counter(parameter.data_ptr() for _, parameter in model.named_parameters(remove_duplicate=False))
    try:
        _packed(layers[0], weights[0])
        if not _unread(model, layers, weights, uses):
            log.info("%s reads weights by itself: they are not packed", type(model).__name__)
            return 0
    except Exception as error:  # the operators are for torch's compiler, and a model of somebody's own does anything
        log.info("weights are not packed: %s", str(error).splitlines()[:1])
        return 0
    for layer in layers:
        weight = weights.pop(0)
        layer.forward = _packed(layer, weight).forward  # type: ignore[method-assign]
        if uses[weight.data_ptr()] == 1:
            layer.weight.data = weight.new_empty(0)
    return len(layers)


def fits(module: nn.Module) -> TypeGuard[Layer]:
    """Whether a module is a linear layer that can be packed: others inherit from these, or are told another way."""
    if type(module) not in (nn.Linear, Conv1D) or "forward" in module.__dict__:
        return False
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.dtype == torch.float32 and weight.is_cpu


def _packed(layer: Layer, weight: torch.Tensor) -> Packed:
    """The layer, packed; a RuntimeError where it then gives something else."""
    outputs_first = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
    found = Packed(outputs_first, layer.bias)
    given = torch.linspace(-1, 1, 3 * outputs_first.shape[1]).reshape(3, -1)
    if not _same(found(given), nn.functional.linear(given, outputs_first, layer.bias)):
        raise RuntimeError("oneDNN gives other numbers")
    return found


def _unread(model: PreTrainedModel, layers: list[Layer], weights: list[torch.Tensor], uses: Mapping[int, int]) -> bool:
    """Whether the model does without the weights in its layers, as long as these compute as they do."""
    ids = torch.tensor(EXAMPLE)
    wanted = model(input_ids=ids)[0]
    try:
        for layer, weight in zip(layers, weights, strict=True):
            outputs_first = weight.t() if isinstance(layer, Conv1D) else weight
            layer.forward = partial(nn.functional.linear, weight=outputs_first, bias=layer.bias)  # type: ignore[method-assign]
            if uses[weight.data_ptr()] == 1:
                layer.weight.data = weight.new_empty(0)
        return _same(model(input_ids=ids)[0], wanted)
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            del layer.forward
            layer.weight.data = weight


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(wanted.abs().max()))
