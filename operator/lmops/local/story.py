"""A kind's status in words: what a stage did, where it stands now, and how the job ended."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

from lmops.api.status import DatasetReport, EvaluationReport, RunRecord, TrainingJobStatus
from lmops.local.volumes import Volumes
from lmops.plan import Manifest


class Moment(NamedTuple):
    """Where a resource stands now."""

    stage: str
    percent: int | None = None
    details: tuple[str, ...] = ()
    waiting: str = ""


class Chapter(NamedTuple):
    """A stage that began or came to its end."""

    key: str
    stage: str
    sentence: str
    ended: bool


class Ending(NamedTuple):
    """How a resource ended: its figures as rows of a table with their headings, and lines below it."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[tuple[str, str], ...]


class Story(Protocol):
    """How a kind is told."""

    def is_over(self, status: Manifest) -> bool:
        """Whether the resource has come to its end."""

    def succeeded(self, status: Manifest) -> bool:
        """Whether that end was the wanted one."""

    def moment(self, status: Manifest) -> Moment:
        """Where it stands now."""

    def chapters(self, status: Manifest) -> list[Chapter]:
        """What has begun and ended so far, in order."""

    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """Its end."""

    def checkpoint(self, status: Manifest) -> int | None:
        """The step that a stopped resource goes on from."""


class TrainingStory:
    """How a TrainingJob is told."""

    def is_over(self, status: Manifest) -> bool:
        """Whether the job has come to its end."""
        return status.get("phase") in ("Succeeded", "Failed")

    def succeeded(self, status: Manifest) -> bool:
        """Whether there is a model."""
        return status.get("phase") == "Succeeded"

    def moment(self, status: Manifest) -> Moment:
        """The stage, how far it is, and its latest figures."""
        job = TrainingJobStatus.model_validate(status)
        active = next((row for row in reversed(job.runs) if row.state in ("Pending", "Running")), None)
        if active is None or active.state == "Pending":
            return Moment(active.stage if active else (job.phase or "Pending").lower(), waiting=_waiting(job))
        run = job.progress.runs.get(active.name)
        return Moment(active.stage, run.percent if run else 0, _details(job, active))

    def chapters(self, status: Manifest) -> list[Chapter]:
        """Each run's start and end."""
        job = TrainingJobStatus.model_validate(status)
        found = []
        for row in job.runs:
            if row.state != "Pending":
                again = f"attempt {row.attempt + 1} started" if row.attempt else "started"
                found.append(Chapter(f"{row.name} started", row.stage, again, ended=False))
            if row.state in ("Succeeded", "Failed", "Stopped"):
                found.append(Chapter(f"{row.name} ended", row.stage, _outcome(job, row), ended=True))
        return found

    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """The figures of the model beside the linear baseline's, or why there is none."""
        job = TrainingJobStatus.model_validate(status)
        if job.phase == "Failed":
            return Ending((), (), tuple(_failure(job)))
        headings, rows = _figures(job.evaluation) if job.evaluation else ((), ())
        return Ending(headings, rows, tuple(_published(name, job, volumes)))

    def checkpoint(self, status: Manifest) -> int | None:
        """The last step that any attempt has saved."""
        job = TrainingJobStatus.model_validate(status)
        reported = [run.checkpoint for run in job.progress.runs.values()]
        return max(
            (step for step in (*reported, *(row.checkpoint for row in job.runs)) if step is not None), default=None
        )


TRAINING = TrainingStory()
DROPPED = {
    "duplicate": "duplicates",
    "conflict": "with conflicting labels",
    "inTest": "found in the test set",
    "inValidation": "found in the validation set",
}
"""Reasons to drop rows that read better in other words."""


def clock(seconds: int) -> str:
    """A span as people read it: 0:46, 12:05, 1:02:03."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _waiting(job: TrainingJobStatus) -> str:
    """What the job waits for, where it says so."""
    progressing = next((c.message for c in job.conditions if c.type == "Progressing" and c.status == "True"), "")
    suspended = next((c.message for c in job.conditions if c.type == "Suspended" and c.status == "True"), "")
    return suspended or progressing or job.display.reason


def _details(job: TrainingJobStatus, row: RunRecord) -> tuple[str, ...]:
    run, metrics, found = job.progress.runs.get(row.name), job.metrics, []
    if run and run.step is not None and run.steps:
        found.append(f"step {run.step}/{run.steps}")
    if row.stage == "train":
        if metrics.loss is not None:
            found.append(f"loss {metrics.loss:.2f}")
        if job.display.metric and not job.display.metric.startswith("loss="):
            found.append(job.display.metric.replace("=", " "))
        if metrics.rows_per_second:
            found.append(f"{metrics.rows_per_second:,.0f} rows/s")
    if run and run.seconds_remaining is not None:
        found.append(f"{clock(run.seconds_remaining)} left")
    return tuple(found)


def _outcome(job: TrainingJobStatus, row: RunRecord) -> str:
    """What became of a run, in one line."""
    if row.state != "Succeeded":
        told = row.checkpoint is None or "checkpoint" in (row.message or "")
        at = "" if told else f" The checkpoint of step {row.checkpoint} is kept."
        word = "stopped" if row.state == "Stopped" else "failed"
        why = f": {row.message}" if row.message else "." if at else ""
        return f"{word}: {row.reason}{why}{at}"
    if row.stage == "prepare" and job.dataset:
        return _data(job.dataset)
    if row.stage == "train" and job.best:
        return f"best {job.best.metric} {job.best.value:.3f} at step {job.best.step}"
    if row.stage == "evaluate" and job.evaluation:
        return job.evaluation.verdict or f"scored on {job.evaluation.rows:,} {job.evaluation.split} rows"
    return "done"


def _data(data: DatasetReport) -> str:
    dropped = [f"{count:,} {DROPPED.get(reason, _words(reason))} dropped" for reason, count in data.dropped.items()]
    splits = [f"{part.rows:,} {name}" for name in ("train", "validation", "test") if (part := getattr(data, name))]
    reused = ["prepared before"] if data.reused else []
    return ", ".join([f"{data.rows_read:,} rows", *dropped, " · ".join(splits), *reused])


def _words(camel: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: f" {match[1].lower()}", camel).lower()


def _figures(evaluation: EvaluationReport) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    beside = evaluation.baseline
    headings = (f"on {evaluation.rows:,} {evaluation.split} rows", "model", *(("linear baseline",) if beside else ()))
    rows = [
        (_words(name), _figure(value), *((_figure(beside[name]) if name in beside else "",) if beside else ()))
        for name, value in evaluation.metrics.items()
    ]
    return headings, tuple(rows)


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _published(name: str, job: TrainingJobStatus, volumes: Volumes) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if job.evaluation and job.evaluation.verdict:
        found.append(("verdict", job.evaluation.verdict))
    if job.dataset:
        found += [("note", note) for note in job.dataset.notes]
    if job.model:
        path = volumes.path(job.model.uri)
        found.append(("model", f"{path} ({job.model.parameters / 1e6:.1f} M parameters, {size(job.model.size_bytes)})"))
        found.append(("report", str(path / "report.html")))
        found.append(("next", f"lmops local predict {name} FILE"))
    found.append(("" if job.model else "next", f"lmops local describe {name}"))
    found.append(("", f"lmops local logs {name} --stage train"))
    return found


def _failure(job: TrainingJobStatus) -> list[tuple[str, str]]:
    if not (why := job.failure):
        return [("failed", job.display.reason)]
    evidence: list[Any] = [("evidence" if index == 0 else "", line) for index, line in enumerate(why.evidence)]
    remedy = [("remedy", why.remedy)] if why.remedy else []
    return [("failed", f"{why.class_}/{why.reason}"), ("message", why.message), *evidence, *remedy]
