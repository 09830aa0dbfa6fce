"""The picture of held-out rows that lies beside a model as `baseline.json`, and how far later rows have moved from it.

Training writes it, compression writes it anew for what it has made, and the server holds live traffic against it; all
of them count by the bins that are written in it.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerBase

from lmops.api.base import Report

Array = np.ndarray[Any, Any]
NAME = "baseline.json"
BINS = 10
"""The most bins of a distribution. Each holds about as many held-out rows: so few live rows are needed to fill them."""
RARE = 0.05
"""Classes that are rarer than this share one bin."""
TEXTS = 2_000
"""The most texts of a language model that are counted."""
DIGITS = 6


class Histogram(Report):
    """Counts by bins: up to the first edge, above it up to the second, and so on; the last is above all edges."""

    edges: list[float]
    """Where bins end: a value that equals an edge is in the bin below it."""
    counts: list[int]
    """How many values are in each bin: one more than there are edges."""

    @model_validator(mode="after")
    def _fits(self) -> Histogram:
        if len(self.counts) != len(self.edges) + 1 or self.edges != sorted(set(self.edges)):
            raise ValueError("a histogram has ascending edges, and one more count than edges")
        return self

    @classmethod
    def of(cls, values: Array) -> Histogram:
        """Bins that hold about as many of these values each."""
        cuts = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges = np.unique(np.round(cuts.astype(np.float64), DIGITS))
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        return cls(edges=edges.tolist(), counts=counts.tolist())

    def bin(self, value: float) -> int:
        """The place of the bin that a value is in."""
        return bisect_left(self.edges, value)


class Distribution(Report):
    """How the values of a figure are spread."""

    mean: float
    """Their mean."""
    histogram: Histogram
    """Their counts by bins."""

    @classmethod
    def of(cls, values: Array) -> Distribution:
        """The spread of these values."""
        return cls(mean=_rounded(float(np.mean(values))), histogram=Histogram.of(values))


class Embedding(Report):
    """Where the rows lie in the space of the model's last layer: of each the mean of the last hidden state."""

    mean: list[float]
    """The middle of the rows."""
    spread: float = Field(gt=0)
    """How far from the middle rows are: the root of the mean of their squared distances."""

    def distance(self, middle: Array) -> float:
        """From the middle of these rows to that of others, as a multiple of their spread."""
        return float(np.linalg.norm(middle - np.asarray(self.mean)) / self.spread)


class Baseline(Report):
    """The content of `baseline.json`."""

    split: str
    """Which rows these are: test, validation, or the field of the job that names them."""
    rows: int = Field(ge=1)
    """How many they are."""
    token_length: Distribution
    """Tokens of what the model reads at once: a row, or a window of it."""
    unknown_token_share: float
    """The share of tokens that stand for what the vocabulary cannot write."""
    labels: dict[str, float] | None = None
    """The share of each class; of a model that has classes, as are the next ones."""
    predictions: dict[str, float] | None = None
    """The share of the rows that the model takes for each class."""
    confidence: Distribution | None = None
    """The probability of the class that the model takes a row for."""
    embedding: Embedding | None = None
    """Where rows lie; of a model that tells hidden states, which a program for phones does not."""

    @classmethod
    def read(cls, folder: Path) -> Baseline | None:
        """What lies beside a model; `None` where nothing does. Raises `ValueError` where it is not of this form."""
        file = folder / NAME
        if not file.is_file():
            return None
        try:
            return cls.model_validate_json(file.read_text("utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ValueError(f"{NAME} is not of the form that is read here: {where}: {first['msg']}") from error

    def written(self) -> str:
        """As it lies beside a model."""
        return json.dumps(self.manifest(), indent=1, ensure_ascii=False)


@dataclass(frozen=True)
class Seen:
    """What a model saw of the held-out rows."""

    lengths: Array
    """Tokens of each example."""
    unknown: int
    """Tokens that stand for what the vocabulary cannot write."""
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Classes:
    """The classes of a split's bins, by which live classes are counted."""

    bins: Mapping[str, int]
    counts: list[float]

    @classmethod
    def of(cls, shares: Mapping[str, float], rows: int) -> Classes:
        """A bin for each class, the rare ones together."""
        common = [name for name, share in shares.items() if share >= RARE]
        rare = len(common)
        bins = {name: common.index(name) if name in common else rare for name in shares}
        counts = [0.0] * (max(bins.values()) + 1)
        for name, share in shares.items():
            counts[bins[name]] += share * rows
        return cls(bins, counts)


def baseline(
    seen: Seen,
    split: str,
    rows: int,
    names: Sequence[str] = (),
    labels: Array | None = None,
    probabilities: Array | None = None,
) -> Baseline:
    """The picture of some rows; with the classes, where there are any."""
    found = Baseline(
        split=split,
        rows=rows,
        token_length=Distribution.of(seen.lengths),
        unknown_token_share=_rounded(seen.unknown / max(1, int(seen.lengths.sum()))),
        embedding=seen.embedding,
    )
    if labels is None or probabilities is None:
        return found
    return found.model_copy(
        update={
            "labels": _shares(labels, names),
            "predictions": _shares(probabilities.argmax(axis=1), names),
            "confidence": Distribution.of(probabilities.max(axis=1)),
        }
    )


def texts(tokenizer: PreTrainedTokenizerBase, given: Sequence[str], longest: int) -> Seen:
    """What a language model sees of texts: it learned them in blocks, whose length says nothing of what it is asked."""
    step = max(1, len(given) // TEXTS)
    unknown = unknown_token(tokenizer)
    read = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in given[::step][:TEXTS]]
    strange = 0 if unknown is None else sum(ids.count(unknown) for ids in read)
    return Seen(np.asarray([len(ids) for ids in read]), strange)


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token for what the vocabulary cannot write, where there is one: GPT-2 has one token for several purposes."""
    unknown = tokenizer.unk_token_id
    return None if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id) else int(unknown)


def embedding(count: float, total: Array, squares: Array) -> Embedding | None:
    """Where rows lie, from the sum of their vectors and of the squares of these; `None` where all are at one place."""
    mean = total / count
    spread = math.sqrt(max(0.0, float((squares / count - mean**2).sum())))
    return Embedding(mean=[_rounded(value) for value in mean.tolist()], spread=spread) if spread > 1e-9 else None


def psi(expected: Sequence[float], found: Sequence[float]) -> float:
    """The population stability index of two counts by the same bins: 0 where both are spread alike.

    Half a row is added to each bin: an empty one would make it infinite.
    """
    bins = len(expected)
    one, other = sum(expected) + 0.5 * bins, sum(found) + 0.5 * bins
    shares = (((a + 0.5) / one, (b + 0.5) / other) for a, b in zip(expected, found, strict=True))
    return sum((b - a) * math.log(b / a) for a, b in shares)


def _shares(chosen: Array, names: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(np.asarray(chosen, dtype=np.int64), minlength=len(names))
    return {name: _rounded(float(count) / max(1, len(chosen))) for name, count in zip(names, counts, strict=True)}


def _rounded(value: float) -> float:
    return round(value, DIGITS)
