"""What a search may try, in what rounds, and how what it has tried is ranked: arithmetic, without a model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from lmops.api.compression import Limits, Search, Step, words
from lmops.api.compressionreport import Interval, SearchReport, Trial
from lmops_compressor.verdict import Figures, checks

FINALISTS = 4
"""How many are scored on all rows."""
FEWEST = 8
"""Rows of the first round, at the least."""
SHOWN = 12
"""The most trials that a report holds: the termination message of a pod has 4 KiB for all of it."""
Outcome = Literal["Chosen", "Pareto", "Dominated", "OutsideLimits", "Failed"]
OUT = ("Dominated", "OutsideLimits", "Failed")
"""Outcomes of what nobody would choose."""


@dataclass(frozen=True)
class Point:
    """One combination, and what was measured of it on some rows."""

    steps: tuple[Step, ...]
    rows: int
    size_ratio: float | None = None
    latency_ratio: float | None = None
    memory_ratio: float | None = None
    quality: float | None = None
    agreement: float | None = None
    failure: str | None = None
    """Why it could not be measured."""

    @property
    def method(self) -> str:
        """The steps, in words."""
        return words(list(self.steps))

    def excess(self, limits: Limits) -> float:
        """By how much it misses the limits: 0 within them, infinite where it failed."""
        if self.failure:
            return math.inf
        return max([0.0, *(check.excess for check in checks(limits, self._figures()) if not check.is_kept)])

    def missed(self, limits: Limits, metric: str) -> str:
        """The limits that it does not keep, in words."""
        return "; ".join(check.sentence for check in checks(limits, self._figures(), metric) if not check.is_kept)

    def aim(self, objective: str) -> float:
        """What the search makes small, as a share of the original's."""
        if objective == "Size":
            return 1 / self.size_ratio if self.size_ratio else math.inf
        found = self.latency_ratio if objective == "Latency" else self.memory_ratio
        return math.inf if found is None else found

    def _figures(self) -> Figures:
        quality, agreement = (
            None if value is None else Interval(value=value, low=value, high=value)
            for value in (self.quality, self.agreement)
        )
        return Figures(self.size_ratio, self.latency_ratio, self.memory_ratio, quality, agreement)


def combinations(search: Search) -> list[tuple[Step, ...]]:
    """Every sequence of steps that can be done, each once: something, and nothing after a model is quantized."""
    places = [[*([None] if place.optional else []), *place.one_of] for place in search.steps]
    found: dict[str, tuple[Step, ...]] = {}
    for chosen in product(*places):
        steps = tuple(step for step in chosen if step)
        if steps and not any(step.quantize for step in steps[:-1]):
            found.setdefault(key(steps), steps)
    return list(found.values())


def drawn(found: Sequence[tuple[Step, ...]], trials: int, seed: int) -> list[tuple[Step, ...]]:
    """As many as may be tried, in their order; where there are more, a seeded draw."""
    if len(found) <= trials:
        return list(found)
    chosen = np.random.default_rng(seed).choice(len(found), trials, replace=False)
    return [found[i] for i in sorted(chosen.tolist())]


def rounds(trials: int, rows: int) -> list[tuple[int, int]]:
    """Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): how many are scored on how many rows.

    Half as many on twice the rows, round by round, until a few are scored on all of them.
    """
    counts = [trials]
    while counts[-1] > FINALISTS:
        counts.append(max(FINALISTS, math.ceil(counts[-1] / 2)))
    last = len(counts) - 1
    return [(count, max(min(FEWEST, rows), rows >> (last - i))) for i, count in enumerate(counts)]


def ranked(points: Iterable[Point], search: Search) -> list[Point]:
    """The best first: those within the limits by the objective, then those outside by how little they miss them."""
    return sorted(points, key=lambda point: (point.excess(search.limits), point.aim(search.objective)))


def latest(points: Iterable[Point]) -> list[Point]:
    """Of each combination the point of most rows, in the order in which they were tried."""
    found: dict[str, Point] = {}
    for point in points:
        other = found.get(key(point.steps))
        found[key(point.steps)] = other if other and other.rows > point.rows else point
    return list(found.values())


def best(points: Iterable[Point], search: Search) -> Point | None:
    """The first within the limits, of those that were scored on most rows."""
    within = [point for point in latest(points) if not point.excess(search.limits)]
    most = max((point.rows for point in within), default=0)
    return next(iter(ranked([point for point in within if point.rows == most], search)), None)


def key(steps: Sequence[Step], rows: int = 0) -> str:
    """What tells one trial from every other."""
    text = json.dumps([[_settled(step) for step in steps], rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settled(step: Step) -> dict[str, Any]:
    """The step with its defaults written out: `Wanda` and `Wanda` with a sparsity of 0.5 are the same."""
    found: dict[str, Any] = step.manifest()
    if step.prune and not step.prune.pattern:
        found["prune"]["sparsity"] = step.prune.share
    if step.quantize:
        found["quantize"]["bits"] = step.quantize.weight_bits
    return found


def judged(points: Sequence[Point], chosen: Point | None, search: Search) -> list[Trial]:
    """What became of each: the chosen one first, then the best of most rows; what nobody would choose comes last."""
    last = latest(points)
    found = [(point, _outcome(point, chosen, last, search)) for point in ranked(last, search)]
    found.sort(key=lambda each: (each[1] in OUT, each[1] != "Chosen", -each[0].rows, each[1]))
    return [_trial(point, outcome) for point, outcome in found]


def reported(trials: Sequence[Trial], count: int) -> SearchReport:
    """The table that a status has room for."""
    return SearchReport(combinations=count, tried=len(trials), trials=list(trials[:SHOWN]))


def dominates(one: Point, other: Point, objective: str) -> bool:
    """Whether one is as good in all respects, and better in one. Memory counts where it is the objective."""
    pairs = list(zip(_respects(one, objective), _respects(other, objective), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _respects(point: Point, objective: str) -> Iterator[float]:
    """Less is better."""
    yield point.aim("Size")
    yield point.aim("Latency")
    if objective == "Memory":
        yield point.aim("Memory")
    yield -math.inf if point.quality is None else -point.quality


def _outcome(point: Point, chosen: Point | None, points: Iterable[Point], search: Search) -> Outcome:
    if point == chosen:
        return "Chosen"
    if point.failure:
        return "Failed"
    if point.excess(search.limits) > 0:
        return "OutsideLimits"
    rivals = [rival for rival in points if rival.rows == point.rows and not rival.failure]
    return "Dominated" if any(dominates(rival, point, search.objective) for rival in rivals) else "Pareto"


def _trial(point: Point, outcome: Outcome) -> Trial:
    return Trial(
        method=point.method,
        rows=point.rows,
        size_ratio=point.size_ratio,
        latency_ratio=point.latency_ratio,
        memory_ratio=point.memory_ratio,
        quality=point.quality,
        outcome=outcome,
    )
