"""Attention with fewer heads than the configuration says, as pruning leaves it: cut, written down, and loaded again.

No configuration of transformers can tell of heads that are gone, so `lmops_pruned_heads` in it says how many each
block lacks. `AutoModel` does not know the word, and fails at the shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmops_trainer.failures import Refusal

PRUNED = "lmops_pruned_heads"
"""In a configuration: how many heads each block lacks, from the first block to the last."""


@dataclass(frozen=True)
class Attention:
    """The attention of one block."""

    module: Any
    """What counts the heads."""
    projections: tuple[nn.Module, ...]
    """What makes queries, keys and values: three layers, or one for all three."""
    output: nn.Module
    """What reads the heads, one after the other."""
    output_name: str

    @property
    def width(self) -> int:
        """The width of a head."""
        return int(self.module.head_dim if len(self.projections) == 1 else self.module.attention_head_size)

    @property
    def heads(self) -> int:
        """How many there are."""
        return int(self.module.num_heads if len(self.projections) == 1 else self.module.num_attention_heads)

    def keep(self, heads: Sequence[int]) -> None:
        """Takes all others out of the layers, in place; one head at least stays."""
        places = torch.cat([torch.arange(self.width) + self.width * head for head in heads])
        whole, left = self.heads * self.width, len(places)
        if len(self.projections) == 1:
            cut(self.projections[0], torch.cat([places, places + whole, places + 2 * whole]), 0)
            self.module.num_heads, self.module.split_size = len(heads), left
        else:
            for projection in self.projections:
                cut(projection, places, 0)
            self.module.num_attention_heads, self.module.all_head_size = len(heads), left
        cut(self.output, places, 1)


def attentions(model: PreTrainedModel) -> list[Attention]:
    """The attention of each block of a model of BERT's or GPT-2's kind, in order; none of any other kind."""
    found = []
    for name, module in model.base_model.named_modules():
        if {"query", "key", "value", "num_attention_heads", "all_head_size"} <= set(dir(module)):
            parent, output = name.rpartition(".")[0], f"{name.rpartition('.')[0]}.output.dense"
            if hasattr(model.base_model.get_submodule(parent), "output"):
                layers = (module.query, module.key, module.value)
                found.append(Attention(module, layers, model.base_model.get_submodule(output), _whole(model, output)))
        elif {"c_attn", "c_proj", "num_heads", "split_size"} <= set(dir(module)):
            found.append(Attention(module, (module.c_attn,), module.c_proj, _whole(model, f"{name}.c_proj")))
    return found


def cut(layer: nn.Module, places: torch.Tensor, dimension: int) -> None:
    """Leaves a linear layer these outputs (dimension 0, with their biases) or inputs (1) alone, in this order."""
    is_turned = isinstance(layer, Conv1D)
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    index = places.to(weight.device)
    chosen = weight.data.index_select(1 - dimension if is_turned else dimension, index).contiguous()
    layer.weight = nn.Parameter(chosen, requires_grad=weight.requires_grad)
    if dimension == 0 and bias is not None:
        layer.bias = nn.Parameter(bias.data[index], requires_grad=bias.requires_grad)
    sizes = (("nf", "nx") if is_turned else ("out_features", "in_features"))[dimension]
    setattr(layer, sizes, len(places))


def removed(config: PretrainedConfig) -> list[int]:
    """How many heads each block lacks; nothing for a model that has them all."""
    return [int(count) for count in getattr(config, PRUNED, None) or []]


def loader(auto: Any, config: PretrainedConfig) -> Any:
    """What loads a model of this configuration: `auto` itself, or a class whose layers are as narrow as the weights."""
    lacking = removed(config)
    if not lacking or type(config) not in auto._model_mapping:
        return auto
    stock = auto._model_mapping[type(config)]

    def narrow(self: PreTrainedModel, *arguments: Any, **named: Any) -> None:
        stock.__init__(self, *arguments, **named)
        _narrow(self, lacking)

    named = {"__init__": narrow, "__module__": stock.__module__, "__qualname__": stock.__qualname__}
    return type(stock.__name__, (stock,), named)


def _narrow(model: PreTrainedModel, lacking: list[int]) -> None:
    found = attentions(model)
    fits = len(found) == len(lacking) and all(0 <= n < a.heads for a, n in zip(found, lacking, strict=True))
    if not fits:
        raise Refusal(
            "Model",
            "HeadsUnfit",
            f"{PRUNED} in config.json says {lacking}; this {type(model).__name__} has {len(found)} blocks of "
            f"{found[0].heads if found else 0} heads whose number can be changed.",
            "Copy the model again, with the configuration that it was saved with.",
        )
    for attention, count in zip(found, lacking, strict=True):
        if count:
            attention.keep(range(attention.heads - count))


def _whole(model: PreTrainedModel, name: str) -> str:
    return f"{model.base_model_prefix}.{name}"
