"""The document a runtime receives, and the report it leaves in its termination message."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmops.api.base import Line, Model, Report, Text, Word
from lmops.api.compressionreport import CompressionReport, SearchReport
from lmops.api.languagemodelservice import GateRow, ServedTask, ServerSpec
from lmops.api.quantizejob import QuantizeJobSpec
from lmops.api.reference import ResolvedModel
from lmops.api.servicestatus import GateFigures
from lmops.api.status import Failure, ModelReport, Stage
from lmops.api.trainingjob import RecipeSpec
from lmops.api.trainingstatus import Best, DatasetReport, EvaluationReport

LIMIT = 100 * 1024
"""The longest document, in bytes: one argument of a process holds 128 KiB."""


class RunId(Model):
    """Which run this is."""

    job: Line
    """The name of the job."""
    uid: Line
    """The UID of the job."""
    stage: Stage
    """The stage to run."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """The attempt."""


class Resolved(Model):
    """What earlier stages have made."""

    dataset: DatasetReport | None = None
    """The prepared data."""
    best: Best | None = None
    """The weights to evaluate."""


class Document(Model):
    """All that a runtime is told."""

    def document(self) -> str:
        """The one argument of the runtime. Kubernetes expands `$(X)` in arguments, so every `$` is escaped."""
        return self.model_dump_json(by_alias=True, exclude_none=True).replace("$", "\\u0024")


class RunDocument(Document):
    """All that one run of a job is told."""

    run: RunId
    """Which run this is."""


class Run(RunDocument):
    """One run of one stage of a TrainingJob."""

    spec: RecipeSpec
    """The job's spec."""
    resolved: Resolved = Resolved()
    """What earlier stages have made."""


class Compression(RunDocument):
    """One run of a QuantizeJob."""

    spec: QuantizeJobSpec
    """The job's spec."""
    source: ResolvedModel
    """The model to compress."""


class ServiceId(Model):
    """Which service this is."""

    name: Line
    """Its name, and that of its model in requests."""
    namespace: Line
    """Its namespace."""
    uid: Line
    """Its UID."""


class ModelToServe(Model):
    """The model that a replica has from its start to its end."""

    uri: Text
    """Its folder, or its place on the hub."""
    digest: Word | None = None
    """What its files must sum up to."""
    task: ServedTask | None = None
    """What it does, where its passport or configuration is not to decide that."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""


class Serving(Document):
    """All that a replica of a LanguageModelService is told. What would not change its answers is left out.

    Its environment says the rest: it listens on `LMOPS_HOST` (all addresses) and `LMOPS_PORT` (8080); each file in the
    folder `LMOPS_API_KEYS`, where that is set, holds a key; models lie below `LMOPS_VOLUMES`; its `LastWords` go to
    `LMOPS_TERMINATION_LOG`. It answers `/v2/health/live` from its start, `/v2/health/ready` once the model is loaded,
    and tells its metrics at `/metrics`. After SIGTERM it is not ready, and finishes what it has begun.
    """

    service: ServiceId
    """Which service this is."""
    spec: ServerSpec
    """What the server goes by."""
    model: ModelToServe
    """The model to serve."""


class Gate(Document):
    """All that the gate of a rollout is told: it asks a candidate and the running model the same, and measures both.

    Its `GateEnding` goes to `LMOPS_TERMINATION_LOG`; a file in the folder `LMOPS_API_KEYS`, where that is set, holds
    the key that both want.
    """

    service: ServiceId
    """Which service this is."""
    running: Line
    """Where the running model answers."""
    candidate: Line
    """Where the candidate does."""
    model: Text
    """The candidate's folder: its passport has the rows where none are given."""
    rows: list[GateRow] = []
    """What both are asked."""
    timeout_seconds: int = 300
    """How long an answer may take."""


class Result(Report):
    """What a stage has made: one of these, by the stage."""

    dataset: DatasetReport | None = None
    """prepare: the data."""
    best: Best | None = None
    """train: the weights."""
    model: ModelReport | None = None
    """evaluate, compress: the published model."""
    evaluation: EvaluationReport | None = None
    """evaluate: its figures."""
    report: CompressionReport | None = None
    """compress: both models side by side."""
    search: SearchReport | None = None
    """compress: what a search has found."""


class Stopped(Report):
    """The run was asked to stop, and did so in order."""

    signal: Line
    """The signal that asked."""
    step: int | None = None
    """The step whose checkpoint was saved."""


class LastWords(Report):
    """The termination message of a server, at most 4 KiB."""

    failure: Failure | None = None
    """Why it could not go on."""


class GateEnding(LastWords):
    """The termination message of a gate: figures, or why there are none."""

    figures: GateFigures | None = None
    """What was measured."""


class Ending(LastWords):
    """The termination message of a run: a result, a failure, or an orderly stop."""

    stage: Stage
    """The stage that ended."""
    attempt: int
    """The attempt that ended."""
    result: Result | None = None
    """What it made."""
    stopped: Stopped | None = None
    """That it was asked to stop."""
    checkpoint: int | None = None
    """The step of its last complete checkpoint."""
