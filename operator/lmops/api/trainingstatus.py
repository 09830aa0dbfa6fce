"""What a TrainingJob reports back besides what every job does: its data, its best checkpoint and its figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Line, Report, Word
from lmops.api.status import Figures, JobStatus, ModelReport


class SplitReport(Report):
    """One split of the prepared data."""

    rows: int
    """Texts, or pairs of texts."""
    examples: int
    """What the model reads: rows, windows or packed blocks."""
    tokens: int
    """Tokens in all examples, padding not counted."""
    truncated: int = 0
    """Rows that were cut at the longest length."""
    labels: Annotated[dict[Word, int], Field(max_length=256)] = {}
    """Rows of each class."""


class DatasetReport(Report):
    """What became of the data."""

    uri: Line
    """Where the prepared data lies."""
    hash: Word
    """sha256 of what went in: the files, the settings and the tokenizer."""
    rows_read: int
    """Rows read from all training sources."""
    dropped: Annotated[dict[Word, int], Field(max_length=32)] = {}
    """Rows dropped, by reason."""
    notes: Annotated[list[Line], Field(max_length=32)] = []
    """What a reader of the figures should know, as a test split that is the validation split."""
    train: SplitReport | None = None
    """The rows the model learns from."""
    validation: SplitReport | None = None
    """The rows that chose the best checkpoint."""
    test: SplitReport | None = None
    """The rows of the final figures."""
    reused: bool = False
    """Whether an earlier job had prepared the very same."""


class Best(Report):
    """The best evaluation so far."""

    step: int
    """The optimiser step."""
    metric: Word
    """The metric that was asked for."""
    value: float
    """Its value on the validation rows."""
    path: Line | None = None
    """Where its weights lie until they are published."""


class ClassReport(Report):
    """The figures of one class."""

    precision: float
    """The share of rows called this class that are."""
    recall: float
    """The share of rows of this class that were found."""
    f1: float
    """Their harmonic mean."""
    rows: int
    """Rows of this class."""


class EvaluationReport(Report):
    """The figures on the test rows."""

    split: Literal["test", "validation"]
    """Which rows were scored. On `validation` the figures flatter: those rows also chose the checkpoint."""
    rows: int
    """How many."""
    metrics: Figures
    """All figures by name."""
    classes: Annotated[dict[Word, ClassReport], Field(max_length=64)] = {}
    """The figures of each class."""
    confusion: Annotated[list[Annotated[list[int], Field(max_length=64)]], Field(max_length=64)] = []
    """Rows by true class (outer) and predicted class (inner), classes in the order of their names."""
    baseline: Figures = {}
    """The same figures of a linear model (TF-IDF and logistic regression) on the same rows."""
    beats_baseline: bool | None = None
    """Whether the model's leading metric is above the linear model's."""
    verdict: Line | None = None
    """Both in one sentence."""


class TrainingJobStatus(JobStatus):
    """What was last observed of the job."""

    dataset: DatasetReport | None = None
    """What became of the data."""
    best: Best | None = None
    """The best evaluation."""
    model: ModelReport | None = None
    """The published model."""
    evaluation: EvaluationReport | None = None
    """The figures on the test rows."""
