"""Linear layers on the processor as oneDNN has them, weights packed once: what torch's compiler does as it freezes.

torch multiplies by MKL, which is up to three times slower for the few rows of a step on processors that are not
Intel's (`make bench-serving`).
"""

from __future__ import annotations

from collections import Counter
from typing import TypeGuard

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmops_trainer.log import log

EXAMPLE = [[1, 2, 3, 4, 5]]
TOLERANCE = 1e-3
"""By how much the scores may differ, as a share of the largest."""


Layer = nn.Linear | Conv1D


class Packed(nn.Module):
    """A linear layer whose weight is packed: [*, inputs] to [*, outputs]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, self._packed, self._bias, "none", [], "")
        return found


@torch.inference_mode()
def pack(model: PreTrainedModel) -> bool:
    """Packs every linear layer in fp32, in place, and frees the weights that nothing else uses.

    False, and the model is as it was, where this build of torch cannot, or the scores are not the same.
    """
    layers = [module for module in model.modules() if fits(module)]
    weights = [layer.weight.data for layer in layers]
    uses = Counter(parameter.data_ptr() for _, parameter in model.named_parameters(remove_duplicate=False))
    try:
        ids = torch.tensor(EXAMPLE)
        wanted = model(input_ids=ids)[0]
        for layer, weight in zip(layers, weights, strict=True):
            outputs_first = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
            layer.forward = Packed(outputs_first, layer.bias).forward  # type: ignore[method-assign]
            if uses[weight.data_ptr()] == 1:
                layer.weight.data = weight.new_empty(0)
        found = model(input_ids=ids)[0]
        if torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(wanted.abs().max())):
            return True
        log.info("packed weights give other scores: they stay as they are")
    except Exception as error:  # the operators are for torch's compiler, and a model of somebody's own may read weights
        log.info("weights cannot be packed: %s", str(error).splitlines()[:1])
    for layer, weight in zip(layers, weights, strict=True):
        layer.__dict__.pop("forward", None)
        layer.weight.data = weight
    return False


def fits(module: nn.Module) -> TypeGuard[Layer]:
    """Whether a module is a linear layer that could be packed; others inherit from these and read their weights."""
    if type(module) not in (nn.Linear, Conv1D):
        return False
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.dtype == torch.float32 and weight.is_cpu
