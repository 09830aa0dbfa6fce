"""What a compression was worth: both models side by side, and the verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Line, Report, Word
from lmops.api.reference import ResolvedModel
from lmops.api.status import Display, Figures, JobStatus, ModelReport


class Latency(Report):
    """How long one call takes."""

    batch_size: int
    """Rows in the call."""
    length: int
    """Tokens of a row."""
    p50_milliseconds: float
    """The median."""
    p95_milliseconds: float
    """What one call in twenty exceeds."""
    rows_per_second: float
    """Rows through the model, by the median."""


class ModelFigures(Report):
    """One model, measured."""

    format: Literal["safetensors", "onnx", "executorch"]
    """What it is stored as, which is also what runs it: transformers, ONNX Runtime or ExecuTorch."""
    size_bytes: int
    """Its weights, on disk."""
    parameters: int
    """The number of its weights."""
    non_zero_parameters: int
    """Those that are not zero."""
    latency: Annotated[list[Latency], Field(max_length=16)] = []
    """How long a call takes, by batch and length."""
    load_seconds: float | None = None
    """From an empty process to the first answer."""
    peak_memory_bytes: int | None = None
    """The most resident memory of a fresh process that loads it and answers; of a GPU, where both models run on one."""
    joules_per_row: float | None = None
    """Energy of a row by the hardware's own counters, in the first latency setting."""
    metrics: Figures = {}
    """Its figures on the rows."""


class Interval(Report):
    """A figure, and where it lies by a bootstrap over the rows, or over the windows of a language model.

    A share is never told surer than so many rows can make it, also where they all agree.
    """

    value: float
    """The figure."""
    low: float | None = None
    """The lower bound; none where fewer than ten rows were scored, which tell nothing of others."""
    high: float | None = None
    """The upper bound, likewise."""


class Change(Report):
    """What a step has really changed."""

    step: Line
    """The step, in words."""
    layers: int
    """Layers that are other than before."""
    detail: Line = ""
    """Zeros, bits or neurons, counted in the result."""


class Check(Report):
    """One limit of `accept`, and what became of it."""

    limit: Word
    """Its name, as maxQualityDrop."""
    kept: bool
    """Whether the result keeps it."""
    sentence: Line
    """What was measured, and the limit."""


class CompressionReport(Report):
    """Both models side by side, on the same rows and the same machine."""

    method: Line
    """The steps, in words."""
    changes: Annotated[list[Change], Field(max_length=8)] = []
    """What each step has changed."""
    split: Word
    """Which rows were scored: test or validation of the source's job, or those of evaluation.from."""
    rows: int
    """How many."""
    threads: int
    """Threads of both models."""
    processor: Line = ""
    """The processor that both were measured on, and those of its instruction sets that decide how fast int8 is."""
    metric: Word
    """What quality means."""
    original: ModelFigures
    """The model as it came."""
    compressed: ModelFigures
    """The model as it was published."""
    size_ratio: float
    """How many times smaller the files are."""
    latency_ratio: float | None = None
    """The median latency as a share of the original's, in the first setting."""
    memory_ratio: float | None = None
    """The peak memory as a share of the original's."""
    change: Line = ""
    """What became of the metric, in words: `f1 -0.003`, or `perplexity 1.20% worse`."""
    quality: Interval
    """The metric of the compressed model less that of the original, on the same rows; positive is better for every metric. A share where less is better."""
    agreement: Interval
    """The share of predictions that are the same."""
    confidence: float
    """Of the intervals."""
    verdict: Literal["Passed", "NotPassed"]
    """Whether all limits of `accept` are kept."""
    checks: Annotated[list[Check], Field(max_length=8)] = []
    """Each limit, and what became of it."""
    notes: Annotated[list[Line], Field(max_length=8)] = []
    """What a reader of the figures should know, as why there is no energy."""
    sentence: Line
    """All of it in one sentence."""


class Trial(Report):
    """One combination that a search has tried."""

    method: Line
    """The steps, in words."""
    rows: int
    """The rows that it was scored on: more for the better ones."""
    size_ratio: float | None = None
    """How many times smaller."""
    latency_ratio: float | None = None
    """Its latency as a share of the original's."""
    memory_ratio: float | None = None
    """Its memory as a share of the original's."""
    quality: float | None = None
    """As in the report."""
    outcome: Literal["Chosen", "Pareto", "Dominated", "OutsideLimits", "Failed"]
    """Pareto: no other that was scored on as many rows is better in all respects."""


class SearchReport(Report):
    """What a search has found."""

    combinations: int
    """How many there are in the space."""
    tried: int
    """How many were tried."""
    trials: Annotated[list[Trial], Field(max_length=32)] = []
    """The chosen one and those that no other beats first; then what is dominated, outside the limits, or has failed."""


class QuantizeDisplay(Display):
    """What `kubectl get` shows of a QuantizeJob."""

    method: Line = ""
    """The steps."""
    size: Line = ""
    """How many times smaller."""
    speedup: Line = ""
    """How many times faster."""
    quality: Line = ""
    """How much better or worse."""
    verdict: Line = ""
    """Passed or NotPassed."""


class QuantizeJobStatus(JobStatus):
    """What was last observed of the job."""

    display: QuantizeDisplay = QuantizeDisplay()
    """What `kubectl get` shows."""
    source: ResolvedModel | None = None
    """The model that is compressed: resolved once."""
    model: ModelReport | None = None
    """The compressed model."""
    report: CompressionReport | None = None
    """Both models side by side, and the verdict."""
    search: SearchReport | None = None
    """What the search has found."""
