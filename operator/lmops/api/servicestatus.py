"""What a LanguageModelService reports back: the model that answers, the one that follows, its replicas and its trouble."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Cell, Condition, Line, Report, Text, Time, Word
from lmops.api.reference import ResolvedModel
from lmops.api.status import Failure

ServicePhase = Literal["Pending", "Starting", "Serving", "Gating", "RollingOut", "Degraded", "Failed"]


class Replicas(Report):
    """The server's processes."""

    wanted: Annotated[int, Field(ge=0)] = 0
    """How many there should be now."""
    ready: Annotated[int, Field(ge=0)] = 0
    """How many answer, whichever model they have."""
    updated: Annotated[int, Field(ge=0)] = 0
    """How many answer with the newest model and settings."""


class Latency(Report):
    """How long the answers of a model took."""

    p50_ms: float
    """Milliseconds within which half of them came."""
    p95_ms: float
    """Milliseconds within which 95 of a hundred came."""


class GateFigures(Report):
    """What was measured of a candidate beside the running model."""

    task: Word
    """What both do."""
    rows: Annotated[int, Field(ge=0)]
    """Different inputs that they were asked. Those that both refuse alike are left out."""
    requests: Annotated[int, Field(ge=0)]
    """Requests that each of them was sent, in turn."""
    error_ratio: Annotated[float, Field(ge=0, le=1)]
    """The share of them that the candidate left without an answer."""
    fault: Line | None = None
    """What happened to the first of these."""
    agreement: float | None = None
    """How alike their answers are: 1 is the same."""
    running: Latency | None = None
    """How long the running model took."""
    candidate: Latency | None = None
    """How long the candidate took."""
    latency_ratio: float | None = None
    """How many times as long the candidate took: the worse of both percentiles."""


class GateReport(Report):
    """How a candidate fares beside the running model."""

    state: Literal["Starting", "Comparing", "Waiting", "Passed", "Failed"]
    """Starting: the candidate starts. Comparing: both are asked. Waiting: the running model did not answer, and is asked again. Passed: it takes over. Failed: it does not."""
    revision: Word
    """The revision that it would be."""
    model: ResolvedModel
    """The candidate's model."""
    figures: GateFigures | None = None
    """What was measured."""
    reason: Word | None = None
    """Why it failed, or waits."""
    verdict: Text = ""
    """What came of it, in a sentence."""
    started_at: Time | None = None
    """When the candidate was first wanted."""
    ended_at: Time | None = None
    """When the verdict was there, or that there is none yet."""


class RefusedModel(Report):
    """A model that has not passed its gate."""

    model: ResolvedModel
    """The model."""
    generation: int
    """The generation of the spec that it failed under: under another it is tried again."""
    reason: Word
    """Why it failed, in a word."""
    verdict: Text
    """Why it failed, in a sentence."""
    at: Time
    """When."""


class RolloutReport(Report):
    """The way of the latest model to those who ask."""

    state: Literal["InProgress", "Complete", "Failed"]
    """InProgress: replicas with it start. Complete: all have it. Failed: they do not come up."""
    revision: Word
    """Tells this model with these settings from others: pods carry it as the label `lmops.dev/revision`."""
    model: ResolvedModel
    """The model that is on its way, or has come."""
    started_at: Time | None = None
    """When it was first wanted."""
    completed_at: Time | None = None
    """When all replicas had it."""
    message: Text = ""
    """What its replicas lack, or why they fail."""
    gate: GateReport | None = None
    """How the latest candidate fares, or how this model has passed."""


class DriftReport(Report):
    """How far the inputs of late are from the rows that the model was evaluated on, at the replica that is farthest."""

    rows: Annotated[int, Field(ge=0)] = 0
    """The inputs that it is told of, of all replicas."""
    token_length: float | None = None
    """The population stability index of token lengths."""
    prompt_length: float | None = None
    """The same of a language model's prompts, beside the texts that it was evaluated on: nobody is told of it."""
    labels: float | None = None
    """The same of the predicted labels."""
    confidence: float | None = None
    """The same of the probability of the predicted label."""
    unknown_tokens: float | None = None
    """The share of unknown tokens, less that of the held-out rows."""
    embedding: float | None = None
    """From the middle of the held-out rows to that of the inputs, where 1 is how far those rows are from it themselves."""


class ServiceMetrics(Report):
    """What the replicas told of the last minute when they were asked last."""

    replicas: Annotated[int, Field(ge=0)] = 0
    """How many have answered."""
    requests_per_second: Annotated[float, Field(ge=0)] = 0
    """Of all of them."""
    tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Tokens that were written."""
    error_ratio: float | None = None
    """The share of requests that were answered with 5xx."""
    p50_seconds: float | None = None
    """The median of the time to an answer, at the slowest of them."""
    p95_seconds: float | None = None
    """What one answer in twenty takes longer than, at the slowest of them."""
    drift: DriftReport | None = None
    """How far the inputs of late are from the rows that the model was evaluated on; see also the condition DriftUnavailable."""


class ServiceDisplay(Report):
    """What `kubectl get` shows where a path into the status would not do."""

    model: Line = ""
    """The model that answers: the beginning of its digest, or its place."""
    replicas: Line = ""
    """Replicas that answer, of those wanted."""
    load: Line = ""
    """Requests a second, and the time that one answer in twenty takes longer than."""
    reason: Cell = ""
    """What is going on, or what went wrong."""


class LanguageModelServiceStatus(Report):
    """What was last observed of a service."""

    phase: ServicePhase | None = None
    """Where the service stands, in one word."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    """Accepted, Ready, Progressing, Degraded; Following, where the model is a job's; Monitored, where anything could watch it; Exposed, where it has a name outside; DriftUnavailable, once its replicas tell; EngineDiffers, where vLLM serves it and makes something otherwise; Reconciling and Stalled for tools that wait."""
    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""
    display: ServiceDisplay = ServiceDisplay()
    """What `kubectl get` shows."""
    url: Line | None = None
    """Where it answers: by its name outside once that leads to it, else in the cluster."""
    model: ResolvedModel | None = None
    """The model that answers."""
    replicas: Replicas = Replicas()
    """The server's processes."""
    metrics: ServiceMetrics | None = None
    """Rate, latency, errors and drift, as its replicas tell them."""
    rollout: RolloutReport | None = None
    """The way of the latest model to those who ask."""
    history: Annotated[list[ResolvedModel], Field(max_length=10)] = []
    """The models that have answered, the latest last: `model.digest` leads back to any of them."""
    refused: Annotated[list[RefusedModel], Field(max_length=10)] = []
    """The models that have not passed their gate, the latest last."""
    failure: Failure | None = None
    """What is wrong with its pods now."""
