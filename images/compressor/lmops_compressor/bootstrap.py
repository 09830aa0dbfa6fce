"""Where a figure lies: intervals by a paired bootstrap over rows (Efron, 1979), percentile method, seeded.

A row of classes is a row; that of a language model is a window, so that one long text is many.

Both models are drawn together, row by row, so that what makes a row hard for both does not widen the interval.

Where no row tells the models apart all draws are the same, as if nothing could be surer. So no interval of a share is
narrower than the exact one (Clopper and Pearson, 1934, https://doi.org/10.1093/biomet/26.4.404): of n rows that all
agree it says that at least `tail ** (1 / n)` of all rows do, where `tail` is half of what the confidence leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import beta

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
    """How much better the compressed model is, in points, or as a share where less is better.

    Of classes, the compressed model is never shown to be surer to lose little than if no row were told otherwise: then
    at most a share of `1 - tail ** (1 / n)` of all rows is, which is the most that accuracy can differ by. The other
    figures of classes differ by as much where these rows are of all classes alike. How far two losses lie apart has no
    such bound, and where both models say the very same their interval stays as narrow as the draws make it.
    """
    one, other = figure(metric, original, names), figure(metric, compressed, names)
    value = float(gain(metric, np.asarray(values[0]), np.asarray(values[1])))
    found = _interval(value, original, lambda draw: gain(metric, one(draw), other(draw)), confidence)
    if original.labels is None or metric == "loss":
        return found
    most = _unseen(metric, original, compressed, names, confidence)
    return _around(found, -most if value <= 0 else value, most if value >= 0 else value)


def agreement(original: Answers, compressed: Answers, confidence: float) -> Interval:
    """The share of the targets that both say the same of; never surer than as many targets alone can make it."""
    same, of = agreements(original, compressed), original.targets
    value = float(same.sum() / max(1, of.sum()))
    found = _interval(value, original, lambda draw: (draw @ same) / np.maximum(draw @ of, 1), confidence)
    return _around(found, *exact(int(same.sum()), int(of.sum()), confidence))


def exact(hits: int, of: int, confidence: float) -> tuple[float, float]:
    """Where a share lies of which so many targets, each by itself, have shown so many: by Clopper and Pearson."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0


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


def _unseen(metric: str, original: Answers, compressed: Answers, names: list[str], confidence: float) -> float:
    """The most that a figure of classes may differ by though no row was told otherwise."""
    rows, label = len(original.targets), metric.partition(":")[2]
    if label:  # only rows that are, or are taken for, one of this class tell of it
        assert original.labels is not None
        number = names.index(label)
        rows = int(
            np.count_nonzero((np.stack([original.labels, original.told, compressed.told]) == number).any(axis=0))
        )
    share = exact(0, rows, confidence)[1]
    return 2 * share if metric == "mcc" else share  # mcc runs from -1 to 1


def _around(found: Interval, low: float, high: float) -> Interval:
    """The interval, widened to these bounds where it has some."""
    if found.low is None or found.high is None:
        return found
    return Interval(value=found.value, low=_short(min(found.low, low)), high=_short(max(found.high, high)))


def _interval(value: float, answers: Answers, of: Figure, confidence: float) -> Interval:
    if np.count_nonzero(answers.targets) < FEWEST:
        return Interval(value=_short(value))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn_figures(len(answers.targets), of), [tail, 1 - tail])
    return Interval(value=_short(value), low=_short(low), high=_short(high))


def _short(value: float) -> float:
    return round(float(value), 6) + 0.0  # no -0.0
