"""Which weights go: the least of a layer, of each row, or of each group along the inputs; and how many went."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmops.api.compression import Prune, Step
from lmops.api.compressionreport import Change
from lmops_compressor import methods
from lmops_trainer.failures import Refusal

Layers = Mapping[str, nn.Module]


def matrix(layer: nn.Module) -> torch.Tensor:
    """The weights of a layer, [outputs, inputs]: a view, so that what is written into it is written into the layer.

    GPT-2's `Conv1D` holds them the other way round.
    """
    weight = layer.get_parameter("weight").data
    return weight.T if isinstance(layer, Conv1D) else weight


def prunable(model: PreTrainedModel, how: Prune) -> dict[str, nn.Module]:
    """The layers whose weights go; refused where there are none, or where a pattern does not divide their inputs."""
    found = methods.layers(model, how.exclude)
    if not found:
        raise nothing_left(how)
    if how.pattern:
        stay, of = groups(how.pattern)
        if stay >= of:
            raise Refusal(
                "Settings",
                "PatternUnfit",
                f"pattern: {how.pattern} lets {stay} of {of} weights stay, so that none goes.",
                "Write fewer that stay than there are in a group, as 2:4.",
            )
        for name, layer in found.items():
            outputs, inputs = matrix(layer).shape
            if inputs % of:
                raise Refusal(
                    "Settings",
                    "PatternUnfit",
                    f"pattern: {how.pattern} needs groups of {of}; the inputs of {name} are {inputs} "
                    f"({outputs} x {inputs}).",
                    f"Take a pattern whose groups divide {inputs}, a sparsity, or name the layer in exclude.",
                )
    return found


def groups(pattern: str) -> tuple[int, int]:
    """How many weights stay, of how many: 2 and 4 of `2:4`."""
    stay, of = pattern.split(":")
    return int(stay), int(of)


def lowest(scores: torch.Tensor, how: Prune, by_row: bool) -> torch.Tensor:
    """True where a weight goes, by scores of [outputs, inputs]: in each group of a pattern, in each row, or overall."""
    if how.pattern:
        stay, of = groups(how.pattern)
        compared, count = scores.reshape(-1, of), of - stay
    else:
        compared = scores if by_row else scores.reshape(1, -1)
        count = round(how.share * compared.shape[1])
    goes = torch.zeros_like(compared, dtype=torch.bool)
    goes.scatter_(1, compared.topk(count, dim=1, largest=False).indices, True)
    return goes.view(scores.shape)


def zeros(layers: Layers) -> dict[str, int]:
    """How many weights of each layer are exactly zero."""
    return {name: int((matrix(layer) == 0).sum()) for name, layer in layers.items()}


def counted(how: Prune, layers: Layers, before: Mapping[str, int]) -> Change:
    """What was changed, counted in the layers themselves; refused where any has fewer zeros than was asked for."""
    after, step = zeros(layers), Step(prune=how).words
    done = [name for name, layer in layers.items() if after[name] > before[name] and _is_sparse(matrix(layer), how)]
    if len(done) < len(layers):
        raise methods.unchanged(step, len(layers), len(done))
    weights = sum(matrix(layer).numel() for layer in layers.values())
    share = sum(after.values()) / weights
    detail = f"{share:.1%} of {weights / 1e6:.1f} M weights are zero in {len(layers)} layers".replace("%", " %", 1)
    return Change(step=step, layers=len(done), detail=detail)


def nothing_left(how: Prune) -> Refusal:
    """A method that has no layer to work on."""
    excluded = f": exclude names all of them ({', '.join(how.exclude)})" if how.exclude else ""
    return Refusal(
        "Settings" if how.exclude else "Model",
        "NothingToPrune",
        f"{how.method} finds no layer to prune{excluded}.",
        "Exclude fewer layers." if how.exclude else "Take a model of BERT's or GPT-2's kind.",
    )


def _is_sparse(weight: torch.Tensor, how: Prune) -> bool:
    """Whether every group is as sparse as asked for, or the layer, whose rows have whole weights."""
    if how.pattern:
        stay, of = groups(how.pattern)
        return bool(((weight.reshape(-1, of) != 0).sum(dim=1) <= stay).all())
    return float((weight == 0).double().mean()) >= how.share - 1 / weight.shape[1]
