"""Where a figure lies: intervals by a paired bootstrap over rows (Efron, 1979), percentile method, seeded.

A row of classes is a row; that of a language model is a window, so that one long text is many.

Both models are drawn together, row by row, so that what makes a row hard for both does not widen the interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lmops.api.compressionreport import Interval
from lmops_compressor.comparison import Answers, agreements
from lmops_trainer.scores import LOWER_IS_BETTER

Array = np.ndarray[Any, Any]
DRAWS, SEED = 2000, 20_790
FEWEST = 10
"""Rows with which an interval says something: draws of one row are all the same, as if it were sure."""
AT_A_TIME = 2**22
"""Numbers of rows that are drawn together."""
Figure = Callable[[Array], Array]
"""A figure of each draw, [draws], of how often each row is in it, [draws, rows]."""


def difference(
    metric: str,
    original: Answers,
    compressed: Answers,
    values: tuple[float, float],
    names: list[str],
    confidence: float,
) -> Interval:
    """How much better the compressed model is, in points, or as a share where less is better."""
    one, other = figure(metric, original, names), figure(metric, compressed, names)
    value = float(gain(metric, np.asarray(values[0]), np.asarray(values[1])))
    return _interval(value, original, lambda draw: gain(metric, one(draw), other(draw)), confidence)


def agreement(original: Answers, compressed: Answers, confidence: float) -> Interval:
    """The share of the targets that both say the same of."""
    same, of = agreements(original, compressed), original.targets
    value = float(same.sum() / max(1, of.sum()))
    return _interval(value, original, lambda draw: (draw @ same) / np.maximum(draw @ of, 1), confidence)


def gain(metric: str, original: Array, compressed: Array) -> Array:
    """Positive is better, for every metric."""
    if metric in LOWER_IS_BETTER:
        return (original - compressed) / np.maximum(original, 1e-12)
    return compressed - original


def drawn_figures(rows: int, of: Figure) -> Array:
    """The figure of each of many draws of as many rows, with replacement."""
    generator, at_a_time = np.random.default_rng(SEED), max(1, AT_A_TIME // rows)
    drawn = []
    for start in range(0, DRAWS, at_a_time):
        count = min(at_a_time, DRAWS - start)
        chosen = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        drawn.append(of(np.bincount(chosen.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)))
    return np.concatenate(drawn)


def figure(metric: str, answers: Answers, names: list[str]) -> Figure:
    """A metric as a function of how often each row counts: as `lmops_trainer.scores` has it, for thousands of draws."""
    if metric in ("loss", "perplexity", "maskedPerplexity"):
        losses, targets = answers.losses, answers.targets

        def mean(draw: Array) -> Array:
            found: Array = (draw @ losses) / np.maximum(draw @ targets, 1)
            return found if metric == "loss" else np.exp(np.minimum(found, 700.0))

        return mean
    assert answers.labels is not None
    true, said = np.eye(len(names))[answers.labels], np.eye(len(names))[answers.told]
    name, _, label = metric.partition(":")

    def of_classes(draw: Array) -> Array:
        hits, rows, claims = draw @ (true * said), draw @ true, draw @ said
        if name == "accuracy":
            return np.asarray(hits.sum(axis=1) / draw.sum(axis=1))
        if name == "mcc":
            return _mcc(hits, rows, claims)
        by_class = _share(hits, {"precision": claims, "recall": rows}.get(name, (claims + rows) / 2))
        if label:
            return np.asarray(by_class[:, names.index(label)])
        occurs = (rows + claims) > 0
        return np.asarray((by_class * occurs).sum(axis=1) / occurs.sum(axis=1))

    return of_classes


def _mcc(hits: Array, rows: Array, claims: Array) -> Array:
    """Matthews correlation of several classes (Gorodkin, 2004)."""
    count = rows.sum(axis=1)
    spread = np.sqrt((count**2 - (claims**2).sum(axis=1)) * (count**2 - (rows**2).sum(axis=1)))
    return _share(hits.sum(axis=1) * count - (claims * rows).sum(axis=1), spread)


def _share(part: Array, of: Array) -> Array:
    return np.divide(part, of, out=np.zeros_like(part), where=of > 0)


def _interval(value: float, answers: Answers, of: Figure, confidence: float) -> Interval:
    if np.count_nonzero(answers.targets) < FEWEST:
        return Interval(value=_short(value))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn_figures(len(answers.targets), of), [tail, 1 - tail])
    return Interval(value=_short(value), low=_short(low), high=_short(high))


def _short(value: float) -> float:
    return round(float(value), 6) + 0.0  # no -0.0
