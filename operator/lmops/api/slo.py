"""What the users of a service can count on, and who is told when they cannot."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmops.api.base import Model, rules

DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds by which a server counts its answers: those that OpenTelemetry advises for generative models."""

SET = ("alertname", "severity", "namespace", "service")
"""The labels that every alert of a service has by itself."""
AlertLabels = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=63)], Annotated[str, Field(max_length=128)]],
    Field(max_length=16),
]


class Latency(Model):
    """How soon answers are there."""

    percentile: Annotated[float, Field(ge=50, le=99.9)] = 95
    """The percent of the answers that are there in time."""
    seconds: Annotated[float, Field(gt=0, le=DURATION_BUCKETS[-1])]
    """The time, from a request to the end of its answer. Between two of the server's buckets it is interpolated."""


class Slo(Model):
    """What the users of a service can count on over 30 days. Somebody is told as soon as that is spent too fast."""

    error_ratio: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """The largest share of requests that may fail: that are answered with 5xx, or refused with 429 for want of room."""
    latency: Latency | None = None
    """How soon answers are there. Default: nothing is promised."""


class Drift(Model):
    """How far the inputs of late may be from the rows that the model was evaluated on, before somebody is told."""

    max_psi: Annotated[float, Field(gt=0, le=100)] = Field(default=0.25, alias="maxPSI")
    """The population stability index of token lengths, of predicted labels and of confidence: 0.1 is little, 0.25 much."""
    max_unknown_tokens: Annotated[float, Field(gt=0, le=1)] = 0.05
    """By how much the share of tokens that the vocabulary cannot write may be larger."""
    max_embedding_distance: Annotated[float, Field(gt=0, le=1000)] = 0.5
    """From the middle of the held-out rows to that of the inputs, where 1 is how far those rows are from it themselves."""


class Monitoring(Model):
    """How it is watched, where Prometheus' operator is installed."""

    model_config = rules(
        (
            "!has(self.alertLabels) || self.alertLabels.all(k, k.matches('^[a-zA-Z_][a-zA-Z0-9_]*$'))",
            "the name of an alert's label is made of letters, digits and _, and begins with no digit",
        ),
        (
            "!has(self.alertLabels) || self.alertLabels.all(k, !(k in ["
            + ", ".join(f"'{name}'" for name in SET)
            + "]))",
            f"alerts have the labels {', '.join(SET[:-1])} and {SET[-1]} by themselves",
        ),
    )

    scrape_seconds: Annotated[int, Field(ge=5, le=120)] = 30
    """Seconds between two looks at a replica's metrics."""
    no_traffic_minutes: Annotated[int, Field(ge=5, le=10_080)] | None = None
    """Minutes without a single request after which somebody is told. Default: nobody, as many services have quiet hours."""
    drift: Drift = Drift()
    """How far its inputs may be from those that it was evaluated on."""
    alert_labels: AlertLabels = {}
    """Labels of its alerts, by which Alertmanager finds whom to tell: for instance `team: search`."""
