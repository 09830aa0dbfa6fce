"""What every job reports back: its ledger of runs, its progress, and why it failed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Cell, Condition, Line, Report, Text, Time, Word

Phase = Literal[
    "Queued", "Pending", "Preparing", "Running", "Hung", "Restarting", "Evaluating", "Succeeded", "Failed", "Suspended",
]  # fmt: skip
Stage = Literal["prepare", "train", "evaluate", "compress"]
FailureClass = Literal[
    "Data", "Model", "Settings", "Diverged", "OutOfMemory", "Disk", "Volume", "Credentials", "Deadline", "Code",
    "Communication", "Hung", "WorkerLost", "NodeLost", "Preempted", "Image", "Unschedulable", "Verdict",
]  # fmt: skip
Figures = Annotated[dict[Word, float], Field(max_length=256)]


class Failure(Report):
    """Why a run ended before its end."""

    class_: FailureClass = Field(alias="class")
    """The kind of failure, stable enough to alert on."""
    reason: Word
    """The failure in one CamelCase word."""
    message: Text
    """What happened, in a sentence."""
    evidence: Annotated[list[Line], Field(max_length=20)] = []
    """The log lines that show it."""
    remedy: Text = ""
    """What to do."""


class RunRecord(Report):
    """One attempt at one stage. A run recorded as ended is never read from its pods again."""

    name: Word
    """The name of the Job or PyTorchJob."""
    stage: Stage
    """The stage it belongs to."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Counts the attempts at this stage, from 0."""
    state: Literal["Pending", "Running", "Succeeded", "Failed", "Stopped"]
    """Where it stands. Stopped: ended from outside, and not counted against the retry budget."""
    reason: Word | None = None
    """Why it ended."""
    message: Text | None = None
    """Why it ended, in a sentence."""
    checkpoint: Annotated[int, Field(ge=0)] | None = None
    """The step of its last complete checkpoint."""
    steps_lost: Annotated[int, Field(ge=0)] | None = None
    """Steps after that checkpoint, which have to be done again."""
    started_at: Time | None = None
    """When its first pod ran."""
    gathered_at: Time | None = None
    """When the last of its pods was created, once all of them ran: a newer pod stands for one that was lost."""
    finished_at: Time | None = None
    """When its last pod ended, or its end was noticed."""
    evidence: Annotated[list[Line], Field(max_length=20)] = []
    """Its last log lines, when it failed."""


class RunProgress(Report):
    """How far one run has come."""

    attempt: int = 0
    """The attempt that reported."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Done, of a hundred."""
    step: int | None = None
    """The optimiser step."""
    steps: int | None = None
    """All optimiser steps."""
    epoch: float | None = None
    """Passes over the training rows."""
    seconds_remaining: int | None = None
    """The time left at the present speed."""
    checkpoint: int | None = None
    """The step of the last complete checkpoint."""
    updated_at: Time | None = None
    """When it was reported: a run whose processes wait for each other reports nothing."""


class Progress(Report):
    """How far the job has come."""

    stage: Stage | None = None
    """The stage that reported last."""
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Done, of a hundred, over all stages."""
    seconds_remaining: int | None = None
    """The time left at the present speed."""
    updated_at: Time | None = None
    """When it was reported."""
    runs: Annotated[dict[Word, RunProgress], Field(max_length=64)] = {}
    """Each stage's own progress."""


class Metrics(Report):
    """The latest values that the run in progress has reported."""

    step: int | None = None
    """The optimiser step of these values."""
    loss: float | None = None
    """Training loss; absent when it is not a number."""
    learning_rate: float | None = None
    """The learning rate."""
    gradient_norm: float | None = None
    """The norm of the gradient before clipping."""
    tokens_per_second: float | None = None
    """Tokens through the model, over all processes."""
    rows_per_second: float | None = None
    """Examples through the model, over all processes."""
    memory_bytes: int | None = None
    """Peak resident memory of the first process."""
    accelerator_memory_bytes: int | None = None
    """Peak memory on the first process's accelerator."""
    accelerator_use: float | None = None
    """Use of the first process's accelerator, 0 to 1."""
    evaluation: Figures = {}
    """The values of the last evaluation."""


class ModelReport(Report):
    """The published model."""

    uri: Line
    """Its folder."""
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    """sha256 over its weights, configuration and tokenizer."""
    size_bytes: int
    """The size of the files that the digest covers."""
    parameters: int
    """The number of its weights."""


class Display(Report):
    """What `kubectl get` shows where a path into the status would not do."""

    progress: Line = ""
    """Percent done."""
    metric: Line = ""
    """The leading metric."""
    nodes: Line = ""
    """Pods that run, of those wanted."""
    reason: Cell = ""
    """What is going on, or what went wrong."""


class JobStatus(Report):
    """What was last observed of a job."""

    phase: Phase | None = None
    """Where the job stands, in one word."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    """Accepted, Progressing, Complete, Failed, Suspended; Reconciling and Stalled for tools that wait."""
    observed_generation: int | None = None
    """The generation of the spec that this status speaks of."""
    start_time: Time | None = None
    """When the first run started."""
    completion_time: Time | None = None
    """When the job came to its end."""
    display: Display = Display()
    """What `kubectl get` shows."""
    runs: Annotated[list[RunRecord], Field(max_length=128)] = []
    """The ledger: every attempt at every stage, in the order of their starts."""
    restarts: int = 0
    """How often a run was started again at the cost of the retry budget."""
    progress: Progress = Progress()
    """How far the job has come."""
    metrics: Metrics = Metrics()
    """The latest values that the run in progress has reported."""
    failure: Failure | None = None
    """Why the job failed, or why its last attempt did."""
