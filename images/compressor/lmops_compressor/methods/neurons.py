"""Neurons: feed-forward neurons and attention heads are taken out, and those that stay make up for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lmops.api.compression import Prune, Step
from lmops.api.compressionreport import Change
from lmops_compressor import methods
from lmops_compressor.methods import Subject, Tell
from lmops_compressor.methods.activations import Gram, through
from lmops_compressor.methods.compensation import places, without
from lmops_compressor.methods.masks import matrix, nothing_left
from lmops_compressor.rows import Draw
from lmops_trainer.failures import Refusal
from lmops_trainer.heads import PRUNED, Attention, attentions, cut, removed

KINDS = {
    "intermediate.dense": ("output.dense", "intermediate_size"),
    "mlp.c_fc": ("mlp.c_proj", "n_inner"),
    "ffn.lin1": ("ffn.lin2", "hidden_dim"),
}
"""The layer that makes neurons, the one that reads them, and how a configuration calls their number: BERT and its kin,
GPT-2, DistilBERT."""
SPARSE = 0.01
"""From this share of zeros on, a layer is one that was pruned before."""


@dataclass(frozen=True)
class FeedForward:
    """The neurons of one block."""

    make: nn.Module
    read: nn.Module
    setting: str


def prune(subject: Subject, how: Prune, draw: Draw, tell: Tell) -> Change:
    """Takes the same share of neurons from every block, and of heads where that is asked for, in place.

    The width goes into the configuration; heads that are gone into `lmops_pruned_heads`.
    """
    model, step = subject.model, Step(prune=how).words
    neurons, heads = _neurons(model, how), _heads(model, how)
    if not neurons and not heads:
        raise nothing_left(how)
    before = _count(model)
    width = next((matrix(found.read).shape[1] for found in neurons.values()), 0)
    fewer = _part(width, how.share, step)
    headless = {name: _part(attention.heads, how.heads or 0, step) for name, attention in heads.items()}
    left = {name: attention.heads - headless[name] for name, attention in heads.items()}
    readers = {name: found.read for name, found in neurons.items()} | {name: a.output for name, a in heads.items()}
    for name, seen in through(subject, draw(), readers, Gram, tell):
        if name in heads:
            heads[name].keep(_fitted(heads[name].output, seen, heads[name].width, headless[name]))
        else:
            chosen = places(_fitted(neurons[name].read, seen, 1, fewer), 1)
            cut(neurons[name].make, chosen, 0)
            cut(neurons[name].read, chosen, 1)
    _written_down(model, neurons, heads, width - fewer, headless)
    _asserted(step, neurons, heads, width - fewer, left)
    of, layers = f"{before / 1e6:.1f} M", 2 * len(neurons) + sum(len(a.projections) + 1 for a in heads.values())
    gone = [f"{fewer * len(neurons):,} of {width * len(neurons):,} neurons"] * bool(neurons)
    lost = sum(headless.values())
    gone += [f"{lost:,} of {lost + sum(left.values()):,} heads"] * bool(heads)
    detail = f"{' and '.join(gone)} are gone; of {of} weights {_count(model) / 1e6:.1f} M are left"
    return Change(step=step, layers=layers, detail=detail)


def _count(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _fitted(layer: nn.Module, seen: Gram, width: int, count: int) -> list[int]:
    """Fits a layer to those of its inputs that stay, and says which these are.

    One that an earlier step made sparse is not fitted anew: its zeros would be gone.
    """
    bias = layer.get_parameter("bias")
    kept, weight, constant = without(matrix(layer), bias.data, seen, width, count)
    if float((matrix(layer) == 0).double().mean()) < SPARSE:
        matrix(layer)[:, places(kept, width)] = weight
        bias.data.copy_(constant)
    return kept


def _neurons(model: PreTrainedModel, how: Prune) -> dict[str, FeedForward]:
    """The neurons of each block, by the name of the layer that reads them; of all blocks, or of none."""
    known, chosen = methods.layers(model, []), methods.layers(model, how.exclude)
    found = {}
    for name, layer in known.items():
        for make, (read, setting) in KINDS.items():
            reader = name.removesuffix(make) + read
            if name.endswith(f".{make}") and reader in known:
                found[reader] = (name, FeedForward(layer, known[reader], setting))
    if not found:
        raise Refusal(
            "Model",
            "WrongArchitecture",
            f"Neurons does not know where a {model.config.model_type} has its feed-forward neurons.",
            "Take a model of BERT's or GPT-2's kind, or another method.",
        )
    kept = {reader: pair for reader, (name, pair) in found.items() if name in chosen and reader in chosen}
    if kept and len(kept) < len(found):
        raise Refusal(
            "Settings",
            "ExcludeUnfit",
            "exclude: Neurons takes the same share from all blocks, for a configuration knows one width; "
            f"{len(found) - len(kept)} of {len(found)} are excluded.",
            "Exclude the feed-forward layers of all blocks, or of none.",
        )
    return kept


def _heads(model: PreTrainedModel, how: Prune) -> dict[str, Attention]:
    """The attention of each block that is not excluded, by the name of its output layer."""
    if not how.heads:
        return {}
    names = {module: name for name, module in methods.layers(model, how.exclude).items()}
    found = attentions(model)
    if not found:
        raise Refusal(
            "Model",
            "WrongArchitecture",
            f"Neurons cannot take heads out of a {model.config.model_type}.",
            "Leave heads out, or take a model of BERT's or GPT-2's kind.",
        )
    return {a.output_name: a for a in found if all(layer in names for layer in (*a.projections, a.output))}


def _part(whole: int, share: float, step: str) -> int:
    """A share in whole neurons or heads; refused where that is none, or all."""
    count = round(whole * share)
    if share and whole and not 0 < count < whole:
        raise Refusal(
            "Settings",
            "ShareUnfit",
            f"{step}: {share:g} of {whole} is {'none' if not count else 'all'}.",
            "Take a share that is at least one, and leaves one.",
        )
    return count


def _written_down(
    model: PreTrainedModel,
    neurons: dict[str, FeedForward],
    heads: dict[str, Attention],
    width: int,
    headless: dict[str, int],
) -> None:
    for found in neurons.values():
        setattr(model.config, found.setting, width)
    if heads:
        lacking = removed(model.config) or [0] * len(attentions(model))
        for number, attention in enumerate(attentions(model)):
            lacking[number] += headless.get(attention.output_name, 0)
        setattr(model.config, PRUNED, lacking)


def _asserted(
    step: str, neurons: dict[str, FeedForward], heads: dict[str, Attention], width: int, left: dict[str, int]
) -> None:
    """Looks at the layers themselves."""
    narrow = [n for n in neurons.values() if matrix(n.make).shape[0] == matrix(n.read).shape[1] == width]
    fewer = [n for n, a in heads.items() if a.heads == left[n] and matrix(a.output).shape[1] == left[n] * a.width]
    if len(narrow) + len(fewer) < len(neurons) + len(heads):
        raise methods.unchanged(step, len(neurons) + len(heads), len(narrow) + len(fewer))
