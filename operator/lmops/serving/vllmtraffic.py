"""The traffic of a replica of vLLM: what it has counted between two looks, told as our own server tells it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lmops.plan import Manifest
from lmops.serving.vllmmetrics import HTTP, LATENCY, WRITTEN


class Told(NamedTuple):
    """What a replica has counted since its start."""

    answered: float
    failed: float
    tokens: float
    within: dict[float, float]
    """Answers by the seconds that they took at the most."""

    @classmethod
    def read(cls, text: str) -> Told:
        """What it says at `/metrics`; nothing of what is looked at here counts as nothing."""
        wanted = "\n".join(line for line in text.splitlines() if line.startswith((LATENCY, WRITTEN, HTTP)))
        samples = [sample for family in text_string_to_metric_families(f"{wanted}\n") for sample in family.samples]
        buckets = [(float(each.labels["le"]), each.value) for each in _of(samples, f"{LATENCY}_bucket")]
        bounds = sorted({bound for bound, _ in buckets})
        errors = (
            s.value for s in _of(samples, HTTP) if s.labels["status"] == "5xx" and s.labels["handler"][:4] == "/v1/"
        )
        return cls(
            answered=sum(each.value for each in _of(samples, f"{LATENCY}_count")),
            failed=sum(errors),
            tokens=sum(each.value for each in _of(samples, WRITTEN)),
            within={bound: sum(value for other, value in buckets if other == bound) for bound in bounds},
        )


def stats(before: Told, now: Told, seconds: float, drift: str) -> Manifest:
    """The traffic between two looks; nothing where the replica was started anew meanwhile."""
    answered, failed, tokens = (new - old for new, old in zip(now[:3], before[:3], strict=True))
    if min(answered, failed, tokens) < 0 or seconds <= 0:
        return {}
    within = {bound: count - before.within.get(bound, 0.0) for bound, count in now.within.items()}
    return {
        "requests": answered + failed,
        "requestsPerSecond": (answered + failed) / seconds,
        "tokensPerSecond": tokens / seconds,
        "failed": failed,
        "latencySeconds": {f"p{percent}": _quantile(within, percent / 100) for percent in (50, 95)} if answered else {},
        "drift": {"unavailable": drift},
    }


def _quantile(within: dict[float, float], share: float) -> float:
    """The seconds within which this share of the answers came: in a bucket they are taken to be spread evenly."""
    wanted, lower, below = share * within[math.inf], 0.0, 0.0
    for bound, count in within.items():
        if count >= wanted:
            return lower if bound == math.inf else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower


def _of(samples: list[Sample], name: str) -> Iterator[Sample]:
    return (sample for sample in samples if sample.name == name)
