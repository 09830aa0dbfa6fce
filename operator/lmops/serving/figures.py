"""What the replicas of a service tell of their traffic, put together: rate, latency, errors, and drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, FiniteFloat, ValidationError

from lmops.api.base import Report
from lmops.api.servicestatus import DriftReport, ServiceMetrics
from lmops.api.slo import Drift
from lmops.plan import Manifest

FRESH = timedelta(seconds=30)
"""How soon replicas are asked again."""
NAMES = {
    "token_length": "token lengths",
    "prompt_length": "prompt lengths",
    "labels": "labels",
    "confidence": "confidence",
    "unknown_tokens": "unknown tokens",
    "embedding": "embeddings",
}
"""What each figure of drift is called in a sentence."""
Rate = Annotated[FiniteFloat, Field(ge=0, le=1e9)]


class Latencies(Report):
    """Seconds of the answers of the last minute."""

    p50: Rate | None = None
    p95: Rate | None = None


class DriftStats(Report):
    """What a replica says of drift, or why it says nothing."""

    unavailable: str | None = None
    rows: Annotated[int, Field(ge=0)] = 0
    least: Annotated[int, Field(ge=0)] = 0
    psi: dict[str, FiniteFloat] = Field(default={})
    unknown_tokens: FiniteFloat | None = None
    embedding: FiniteFloat | None = None


class Stats(Report):
    """What a replica answers at `/stats`: of it what is looked at here."""

    requests: Rate
    requests_per_second: Rate
    tokens_per_second: Rate = 0
    failed: Rate = 0
    latency_seconds: Latencies = Latencies()
    drift: DriftStats = DriftStats(unavailable="the server is of another version, which tells no drift")


class Unavailable(NamedTuple):
    """What is said of whether drift can be told: the condition `DriftUnavailable`."""

    status: Literal["True", "False"]
    reason: str
    message: str


class Traffic(NamedTuple):
    """The traffic of all replicas."""

    metrics: ServiceMetrics
    drift: Unavailable


def traffic(told: Iterable[Manifest], limits: Drift) -> Traffic | None:
    """All of it; `None` where no replica has answered in a form that is known."""
    stats = list(_read(told))
    if not stats:
        return None
    requests = sum(one.requests for one in stats)
    metrics = ServiceMetrics(
        replicas=len(stats),
        requests_per_second=round(sum(one.requests_per_second for one in stats), 2),
        tokens_per_second=round(sum(one.tokens_per_second for one in stats), 1),
        error_ratio=round(sum(one.failed for one in stats) / requests, 4) if requests else None,
        p50_seconds=_most(one.latency_seconds.p50 for one in stats),
        p95_seconds=_most(one.latency_seconds.p95 for one in stats),
    )
    if why := next((one.drift.unavailable for one in stats if one.drift.unavailable), None):
        return Traffic(metrics, Unavailable("True", "NoBaseline", why))
    report = _drift([one.drift for one in stats])
    said = _said(report, limits, max(one.drift.least for one in stats))
    return Traffic(metrics.model_copy(update={"drift": report}), said)


def load(metrics: ServiceMetrics) -> str:
    """Rate and latency in a few words."""
    latency = "" if metrics.p95_seconds is None else f", p95 {1000 * metrics.p95_seconds:.0f} ms"
    return f"{metrics.requests_per_second:g}/s{latency}"


def _read(told: Iterable[Manifest]) -> Iterator[Stats]:
    for each in told:
        try:
            yield Stats.model_validate(each)
        except ValidationError:
            continue


def _drift(stats: Sequence[DriftStats]) -> DriftReport:
    """Of each figure the largest: what one replica sees is there."""

    def largest(figure: Callable[[DriftStats], float | None]) -> float | None:
        return max((value for one in stats if (value := figure(one)) is not None), default=None)

    return DriftReport(
        rows=sum(one.rows for one in stats),
        token_length=largest(lambda one: one.psi.get("tokenLength")),
        prompt_length=largest(lambda one: one.psi.get("promptLength")),
        labels=largest(lambda one: one.psi.get("labels")),
        confidence=largest(lambda one: one.psi.get("confidence")),
        unknown_tokens=largest(lambda one: one.unknown_tokens),
        embedding=largest(lambda one: one.embedding),
    )


def _said(report: DriftReport, limits: Drift, least: int) -> Unavailable:
    known = {name: value for name in NAMES if (value := getattr(report, name)) is not None}
    if not known:
        return Unavailable("False", "Collecting", f"Drift is told once a replica has had {least} inputs.")
    most = {"unknown_tokens": limits.max_unknown_tokens, "embedding": limits.max_embedding_distance}
    most |= dict.fromkeys(("token_length", "labels", "confidence"), limits.max_psi)
    beyond = [name for name, value in known.items() if value > most.get(name, value)]
    if beyond:
        words = ", ".join(f"{NAMES[name]} {known[name]:.2f} (at most {most[name]:g})" for name in beyond)
        return Unavailable("False", "Drifted", f"The inputs are not like the held-out rows: {words}.")
    return Unavailable("False", "Near", "The inputs are like the held-out rows.")


def _most(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(max(known), 4) if known else None
