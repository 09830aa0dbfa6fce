"""Whether a compression was worth it: every limit in a sentence, and all of it in one. What cannot be told fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmops.api.compression import Accept, Limits
from lmops.api.compressionreport import Check, Interval
from lmops.api.wording import times
from lmops_trainer.scores import LOWER_IS_BETTER

Verdict = Literal["Passed", "NotPassed"]
ENOUGH = 1e-9
"""What sums of decimal fractions may be off by."""


@dataclass(frozen=True)
class Figures:
    """What a limit can speak of, as `CompressionReport` has it; None where it could not be had."""

    size_ratio: float | None = None
    latency_ratio: float | None = None
    memory_ratio: float | None = None
    quality: Interval | None = None
    agreement: Interval | None = None


@dataclass(frozen=True)
class Judged:
    """One limit, and what became of it."""

    name: str
    limit: float
    value: float | None
    """What was compared: a figure, or the bound of its interval."""
    words: str
    """What was measured, in words."""
    least: bool
    """Whether the limit is the least that the value may be, else it is the most."""

    @property
    def is_kept(self) -> bool:
        """A figure that is missing, or no number, keeps no limit."""
        return self.excess <= ENOUGH

    @property
    def excess(self) -> float:
        """By what share of the limit the value is on its wrong side; infinite where there is no value."""
        if self.value is None or not math.isfinite(self.value):
            return math.inf
        return (self.limit - self.value if self.least else self.value - self.limit) / max(abs(self.limit), ENOUGH)

    @property
    def sentence(self) -> str:
        """`latency is 0.62 of the original's, and maxLatencyRatio is 0.5`."""
        return f"{self.words}, and {self.name} is {self.limit:g}"

    @property
    def told(self) -> Check:
        """As the report has it."""
        return Check(limit=self.name, kept=self.is_kept, sentence=self.sentence)


def judged(limits: Sequence[Limits], figures: Figures, metric: str = "quality") -> tuple[Verdict, list[Check]]:
    """The verdict, and what became of each limit. Without limits everything passes."""
    found = [check for some in limits for check in checks(some, figures, metric)]
    return "Passed" if all(check.is_kept for check in found) else "NotPassed", [check.told for check in found]


def checks(limits: Limits, figures: Figures, metric: str = "quality") -> list[Judged]:
    """Each limit that is set. Where a confidence is set, quality and agreement count by their lower bounds."""
    return list(_checks(limits, figures, metric))


def sentence(
    figures: Figures,
    metric: str,
    values: tuple[float, float],
    rows: str,
    verdict: Verdict | None = None,
    checks: Sequence[Check] = (),
) -> str:
    """All of it: `3.92x smaller, 2.31x faster, f1 -0.003 (0.843 to 0.840) on 1,061 test rows: passed`."""
    smaller = times(figures.size_ratio, "smaller")
    faster = times(1 / figures.latency_ratio if figures.latency_ratio else None, "faster")
    digits = 3 if max(values) < 10 else 2 if max(values) < 1000 else 0
    was, now = (f"{value:,.{digits}f}" for value in values)
    parts = [part for part in (smaller, faster, f"{change(metric, *values)} ({was} to {now}) on {rows}") if part]
    broken = [check.sentence for check in checks if not check.kept]
    end = {"Passed": ": passed", "NotPassed": f": not passed: {'; '.join(broken)}", None: ""}[verdict]
    return ", ".join(parts) + end


def change(metric: str, before: float, after: float) -> str:
    """In points; or in percent where less is better, and in what direction."""
    if metric not in LOWER_IS_BETTER:
        return f"{metric} {after - before:+z.3f}"
    share = (after - before) / max(before, 1e-12)
    return f"{metric} {abs(share):.2%} {'worse' if share > 0 else 'better'}"


def _checks(limits: Limits, figures: Figures, metric: str) -> Iterator[Judged]:
    confidence = limits.confidence if isinstance(limits, Accept) else None
    if (most := limits.max_quality_drop) is not None:
        gain = _counted(figures.quality, confidence)
        words = _unknown(figures.quality, metric) if gain is None else _drop(gain, metric, confidence)
        yield Judged("maxQualityDrop", most, None if gain is None else -gain, words, False)
    if (least := limits.min_size_ratio) is not None:
        words = _said(figures.size_ratio, least, "the files are {} times smaller", "the size could not be measured")
        yield Judged("minSizeRatio", least, figures.size_ratio, words, True)
    for name, value, limit in (
        ("latency", figures.latency_ratio, limits.max_latency_ratio),
        ("memory", figures.memory_ratio, limits.max_memory_ratio),
    ):
        if limit is not None:
            words = _said(value, limit, f"{name} is {{}} of the original's", f"{name} could not be measured")
            yield Judged(f"max{name.title()}Ratio", limit, value, words, False)
    if (least := limits.min_agreement) is not None:
        same = _counted(figures.agreement, confidence)
        unknown = _unknown(figures.agreement, "agreement")
        words = _said(same, least, "a share of {} of the predictions is the same", unknown)
        yield Judged("minAgreement", least, same, words + _sure(same, confidence), True)


def _counted(interval: Interval | None, confidence: float | None) -> float | None:
    found = None if interval is None else interval.low if confidence else interval.value
    return found if _is_known(found) else None


def _unknown(found: Interval | None, name: str) -> str:
    if found is not None and _is_known(found.value) and found.low is None:
        return f"too few rows were scored to be sure of {name}"
    return f"{name} could not be measured"


def _drop(gain: float, metric: str, confidence: float | None) -> str:
    share = " as a share" if metric in LOWER_IS_BETTER else ""
    return f"{metric} is {abs(gain):.4g} {'better' if gain >= 0 else 'worse'}{share}{_sure(gain, confidence)}"


def _sure(value: float | None, confidence: float | None) -> str:
    return f" by its bound at {confidence:.4g}" if confidence and value is not None else ""


def _said(value: float | None, limit: float, known: str, unknown: str) -> str:
    return known.format(_told_apart(value, limit)) if value is not None and _is_known(value) else unknown


def _told_apart(value: float, limit: float) -> str:
    """In so many digits that it does not look like the limit when it is not: 0.502 beside 0.5."""
    for digits in (2, 3, 4, 6):
        if float(f"{value:.{digits}f}") != limit or abs(value - limit) <= ENOUGH:
            return f"{value:.{digits}f}"
    return f"{value!r}"


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
