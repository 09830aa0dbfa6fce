"""Batches as wide as their longest row, and masks that depend on the example alone and not on its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

IGNORED = -100
"""The label of a position that is no target."""
MASKED = 0.15
"""The share of tokens that a masked language model has to tell; of these 80 % are masked, 10 % replaced, 10 % kept."""
Array = np.ndarray[Any, Any]


def padded(examples: Sequence[Mapping[str, Any]], pad: int, multiple: int = 1) -> dict[str, Array]:
    """`input_ids`, `attention_mask` and, where the examples have them, `token_type_ids`, as arrays of one width."""
    lengths = np.fromiter((len(example["input_ids"]) for example in examples), np.int64, len(examples))
    width = -(-int(lengths.max()) // multiple) * multiple
    inside = np.arange(width) < lengths[:, None]
    batch = {"input_ids": _filled(examples, "input_ids", inside, pad), "attention_mask": inside.astype(np.int64)}
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = _filled(examples, "token_type_ids", inside, 0)
    return batch


def column(examples: Sequence[Mapping[str, Any]], name: str) -> Array:
    """One number of each example."""
    return np.fromiter((int(example[name]) for example in examples), np.int64, len(examples))


def tensors(batch: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """The same batch for torch."""
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def probabilities(logits: torch.Tensor) -> list[list[float]]:
    """The probability of each class, for each example."""
    return logits.double().softmax(-1).tolist()


class Masking:
    """Hides tokens for a masked language model to tell. The same seed, epoch and row always hide the same tokens."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.mask: int = tokenizer.mask_token_id
        self.special = np.asarray(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        self.vocabulary = len(tokenizer)
        self.seed = seed

    def hide(self, batch: dict[str, Array], rows: Array, epoch: int) -> dict[str, Array]:
        """The batch with tokens hidden in `input_ids`, and those tokens as `labels`."""
        tokens = batch["input_ids"]
        keys = _keys(self.seed, epoch, rows, tokens, batch["attention_mask"])
        drawn = _uniform(keys, tokens.shape[1], stream=0)
        candidates = batch["attention_mask"].astype(bool) & ~np.isin(tokens, self.special)
        chosen = candidates & (drawn < MASKED)
        share = drawn / MASKED  # uniform in 0..1 among the chosen
        random = (_uniform(keys, tokens.shape[1], stream=1) * self.vocabulary).astype(np.int64)
        hidden = np.where(share < 0.8, self.mask, np.where(share < 0.9, random, tokens))
        return batch | {
            "input_ids": np.where(chosen, hidden, tokens),
            "labels": np.where(chosen, tokens, np.int64(IGNORED)),
        }


def _filled(examples: Sequence[Mapping[str, Any]], name: str, inside: Array, fill: int) -> Array:
    values = np.full(inside.shape, fill, dtype=np.int64)
    values[inside] = np.concatenate([np.asarray(example[name], dtype=np.int64) for example in examples])
    return values


def _keys(seed: int, epoch: int, rows: Array, tokens: Array, inside: Array) -> Array:
    """A number for each example, by its row and its tokens: one row can have several examples."""
    places = np.arange(1, tokens.shape[1] + 1, dtype=np.uint64) * _ODD
    content = (_mixed(tokens.astype(np.uint64) + places) * inside.astype(np.uint64)).sum(axis=1, dtype=np.uint64)
    start = _mixed(np.array([seed, epoch + 1], dtype=np.uint64))
    return _mixed(_mixed(rows.astype(np.uint64) + start[0]) ^ content ^ _mixed(start[1:] * _ODD))


def _uniform(keys: Array, width: int, stream: int) -> Array:
    """Numbers in 0..1 for each key and position, by a hash (SplitMix64), so that no generator has a state to keep."""
    places = np.arange(1 + stream * width, 1 + (stream + 1) * width, dtype=np.uint64) * _ODD
    return (_mixed(keys[:, None] + places) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mixed(values: Array) -> Array:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


_ODD = np.uint64(0x9E3779B97F4A7C15)
