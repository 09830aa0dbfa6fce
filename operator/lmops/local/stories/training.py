"""A TrainingJob in words."""

from __future__ import annotations

import re

from lmops.api.status import RunRecord
from lmops.api.trainingstatus import DatasetReport, EvaluationReport, TrainingJobStatus
from lmops.api.wording import count
from lmops.local.stories import Ending, JobStory, figure, size
from lmops.local.volumes import Volumes


class TrainingStory(JobStory[TrainingJobStatus]):
    """How a TrainingJob is told."""

    form = TrainingJobStatus

    def details(self, job: TrainingJobStatus, row: RunRecord) -> tuple[str, ...]:
        """The loss, the leading metric, and how fast it goes."""
        found, metrics = [], job.metrics
        if row.stage == "train":
            if metrics.loss is not None:
                found.append(f"loss {metrics.loss:.2f}")
            if job.display.metric and not job.display.metric.startswith("loss="):
                found.append(job.display.metric.replace("=", " "))
            if metrics.rows_per_second:
                found.append(f"{metrics.rows_per_second:,.0f} rows/s")
        return tuple(found)

    def made(self, job: TrainingJobStatus, row: RunRecord) -> str:
        """The data, the best checkpoint, or the verdict."""
        if row.stage == "prepare" and job.dataset:
            return _data(job.dataset)
        if row.stage == "train" and job.best:
            return f"best {job.best.metric} {job.best.value:.3f} at step {job.best.step}"
        if row.stage == "evaluate" and job.evaluation:
            return job.evaluation.verdict or f"scored on {job.evaluation.rows:,} {job.evaluation.split} rows"
        return "done"

    def good_end(self, name: str, job: TrainingJobStatus, volumes: Volumes) -> Ending:
        """The figures of the model beside the linear baseline's."""
        headings, rows = _figures(job.evaluation) if job.evaluation else ((), ())
        return Ending(headings, rows, tuple(_published(name, job, volumes)))


TRAINING = TrainingStory()
DROPPED = {
    "duplicate": "duplicates",
    "conflict": "with conflicting labels",
    "inTest": "found in the test set",
    "inValidation": "found in the validation set",
}
"""Reasons to drop rows that read better in other words."""


def _data(data: DatasetReport) -> str:
    dropped = [f"{rows:,} {DROPPED.get(reason, _words(reason))} dropped" for reason, rows in data.dropped.items()]
    splits = [f"{part.rows:,} {name}" for name in ("train", "validation", "test") if (part := getattr(data, name))]
    reused = ["prepared before"] if data.reused else []
    return ", ".join([f"{data.rows_read:,} rows", *dropped, " · ".join(splits), *reused])


def _words(camel: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: f" {match[1].lower()}", camel).lower()


def _figures(evaluation: EvaluationReport) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    beside = evaluation.baseline
    headings = (f"on {evaluation.rows:,} {evaluation.split} rows", "model", *(("linear baseline",) if beside else ()))
    rows = [
        (_words(name), figure(value), *((figure(beside[name]) if name in beside else "",) if beside else ()))
        for name, value in evaluation.metrics.items()
    ]
    return headings, tuple(rows)


def _published(name: str, job: TrainingJobStatus, volumes: Volumes) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if job.evaluation and job.evaluation.verdict:
        found.append(("verdict", job.evaluation.verdict))
    if job.dataset:
        found += [("note", note) for note in job.dataset.notes]
    if job.model:
        path = volumes.path(job.model.uri)
        found.append(("model", f"{path} ({count(job.model.parameters)} parameters, {size(job.model.size_bytes)})"))
        found.append(("report", str(path / "report.html")))
        found.append(("next", f"lmops local predict {name} FILE"))
    found.append(("" if job.model else "next", f"lmops local describe {name}"))
    found.append(("", f"lmops local logs {name} --stage train"))
    return found
