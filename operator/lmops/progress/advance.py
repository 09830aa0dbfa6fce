"""What a post changes in the status of its job: a pure function."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field, FiniteFloat

from lmops.api.base import Report
from lmops.api.status import JobStatus, Metrics, Progress, RunProgress, RunRecord
from lmops.jobs.work import AnyWork
from lmops.patches import difference

THROTTLE = timedelta(seconds=10)
RUNS = 64
FIGURES = 256
EVALUATED = 64
"""Evaluation metrics of a post that are kept for the next one, at the most."""
LARGEST = 2.0**53
"""The largest count that is told: JSON holds it exactly."""

NAMED = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "tokens_per_second": "tokens_per_second",
    "rows_per_second": "rows_per_second",
    "memory_bytes": "memory_bytes",
    "accelerator_memory_bytes": "accelerator_memory_bytes",
    "accelerator_use": "accelerator_use",
}
"""Posted metrics by the field of `status.metrics` that they become."""
WHOLE = ("memory_bytes", "accelerator_memory_bytes")
LEADING = ("f1", "accuracy", "perplexity", "maskedPerplexity", "loss")
"""What leads where the spec names no metric: the first of these that was evaluated."""


class Value(Report):
    """One metric, as transformers spells it."""

    name: str
    value: str | float


class TrainerStatus(Report):
    """How far a run has come."""

    progress_percentage: FiniteFloat | None = None
    estimated_remaining_seconds: FiniteFloat | None = None
    metrics: list[Value] = Field(default=[], max_length=256)


class Post(Report):
    """What a pod posts, in the protocol that transformers speaks."""

    trainer_status: TrainerStatus

    def figures(self) -> dict[str, float]:
        """The metrics that are finite numbers, by name."""
        found = {}
        for metric in self.trainer_status.metrics:
            try:
                number = float(metric.value)
            except ValueError:
                continue
            if math.isfinite(number):
                found[metric.name] = number
        return found

    def evaluation(self) -> list[Value]:
        """The metrics of an evaluation, the latest of each name: a run posts them only once."""
        told = {m.name: m for m in self.trainer_status.metrics if m.name.startswith("eval_")}
        return list(told.values())[-EVALUATED:]

    def after(self, earlier: Iterable[Value]) -> Post:
        """The same post with metrics that it replaces where it has newer ones."""
        metrics = [*earlier, *self.trainer_status.metrics]
        return Post(trainer_status=self.trainer_status.model_copy(update={"metrics": metrics}))


def advance(
    work: AnyWork, run: str, post: Post, now: datetime, throttle: timedelta = THROTTLE
) -> dict[str, Any] | None:
    """The merge patch of the status that a post makes; `None` where it is late, or comes too soon.

    A run that torchrun has healed in place goes over the same steps again; progress waits until it has caught up.

    Raises `LookupError` for a run that the ledger does not know.
    """
    status, record, written = work.job.status, _record(work.job.status, run), last_written(work.job.status, run)
    if not is_current(status, run) or (written and now - written < throttle):
        return None
    before = status.progress.runs.get(run, RunProgress(attempt=record.attempt))
    after = _run_progress(before, record, post, now)
    metrics = _metrics(status.metrics if status.progress.stage == record.stage else Metrics(), post)
    if (after.step or 0, after.percent) < (before.step or 0, before.percent):
        after, metrics = before.model_copy(update={"updated_at": after.updated_at}), status.metrics
    progress = _whole(work, record, after)
    return {
        "progress": difference(status.progress.manifest(), progress.manifest()),
        "metrics": difference(status.metrics.manifest(), metrics.manifest()),
        "display": {"progress": f"{progress.percent}%", **_displayed(metrics, work.metric)},
    }


def is_current(status: JobStatus, run: str) -> bool:
    """Whether the run goes on, and no later attempt at its stage has begun."""
    record = _record(status, run)
    latest = max(row.attempt for row in status.runs if row.stage == record.stage)
    return record.state in ("Pending", "Running") and record.attempt == latest


def last_written(status: JobStatus, run: str) -> datetime | None:
    """When the job's progress was written last; `None` for a run that has none: its first post is always taken."""
    known = status.progress.runs.get(run)
    return status.progress.updated_at if known and known.updated_at else None


def _record(status: JobStatus, run: str) -> RunRecord:
    record = next((row for row in status.runs if row.name == run), None)
    if record is None:
        raise LookupError(run)
    return record


def _run_progress(before: RunProgress, record: RunRecord, told: Post, now: datetime) -> RunProgress:
    figures, percent = told.figures(), told.trainer_status.progress_percentage
    remaining, moment = told.trainer_status.estimated_remaining_seconds, now.astimezone(UTC).replace(microsecond=0)
    counts = {"step": "current_step", "steps": "total_steps", "checkpoint": "checkpoint_step"}
    return before.model_copy(
        update={
            "attempt": record.attempt,
            "percent": before.percent if percent is None else round(min(100.0, max(0.0, percent))),
            "seconds_remaining": None if remaining is None else _count(round(remaining)),
            "updated_at": moment,
            **{field: _count(figures[name]) for field, name in counts.items() if name in figures},
            **({"epoch": figures["current_epoch"]} if "current_epoch" in figures else {}),
        }
    )


def _whole(work: AnyWork, record: RunRecord, run: RunProgress) -> Progress:
    """The whole job's progress: the stages before in full, this one by its share."""
    progress = work.job.status.progress
    runs = {**progress.runs, record.name: run}
    for name in list(runs)[:-RUNS]:
        del runs[name]
    start, end = work.share(record.stage)
    return progress.model_copy(
        update={
            "stage": record.stage,
            "percent": int(start + (end - start) * run.percent / 100),
            "seconds_remaining": run.seconds_remaining,
            "updated_at": run.updated_at,
            "runs": runs,
        }
    )


def _metrics(before: Metrics, told: Post) -> Metrics:
    """The latest values; what a post does not say stays, but a loss that is said to be no number goes."""
    figures = told.figures()
    said = {metric.name for metric in told.trainer_status.metrics}
    latest: dict[str, Any] = {field: figures.get(name) for name, field in NAMED.items() if name in said}
    latest |= {field: _count(latest[field]) for field in WHOLE if latest.get(field) is not None}
    if "current_step" in figures:
        latest["step"] = _count(figures["current_step"])
    evaluated = {name.removeprefix("eval_"): value for name, value in figures.items() if name.startswith("eval_")}
    evaluation = {name: value for name, value in {**before.evaluation, **evaluated}.items() if 0 < len(name) <= 128}
    return before.model_copy(update={**latest, "evaluation": dict(list(evaluation.items())[-FIGURES:])})


def _count(number: float) -> int:
    return int(min(max(number, 0), LARGEST))


def _displayed(metrics: Metrics, metric: str | None) -> dict[str, str]:
    """The leading metric of the last evaluation; before the first one the training loss."""
    leading = next((name for name in (metric, *LEADING) if name in metrics.evaluation), None)
    if leading is not None:
        return {"metric": f"{leading}={metrics.evaluation[leading]:.2f}"}
    return {} if metrics.loss is None else {"metric": f"loss={metrics.loss:.2f}"}
