"""A job in its second attempt at training, and what its pods post."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lmops.api import TrainingJob, TrainingJobStatus
from lmops.progress.advance import Post
from lmops.progress.endpoint import ConflictError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=10)
SPEC = {
    "model": {"from": {"uri": "pvc://m/x"}, "task": "SequenceClassification"},
    "dataset": {"train": {"uri": "pvc://d/x"}},
    "output": {"uri": "pvc://m/y"},
}


def status(**changes: Any) -> TrainingJobStatus:
    """A job in its second attempt at training."""
    runs = [
        {"name": "a-prepare-a0", "stage": "prepare", "state": "Succeeded"},
        {"name": "a-train-a0", "stage": "train", "state": "Failed"},
        {"name": "a-train-a1", "stage": "train", "attempt": 1, "state": "Running"},
    ]
    return TrainingJobStatus.model_validate({"runs": runs, "progress": {"stage": "train", "percent": 5}, **changes})


def job(status: TrainingJobStatus, **spec: Any) -> TrainingJob:
    """The job."""
    metadata = {"name": "a", "uid": "u-1"}
    return TrainingJob.model_validate({"metadata": metadata, "spec": {**SPEC, **spec}, "status": status.manifest()})


def body(percent: float = 50, **metrics: Any) -> dict[str, Any]:
    """What a pod sends."""
    told = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return {"trainerStatus": {"progressPercentage": percent, "estimatedRemainingSeconds": 46, "metrics": told}}


def post(percent: float = 50, **metrics: Any) -> Post:
    """The same, as it is read."""
    return Post.model_validate(body(percent, **metrics))


def reported(step: int, at: datetime = NOON) -> dict[str, Any]:
    """The progress of a run that has reported a step."""
    run = {"attempt": 1, "percent": step, "step": step, "steps": 100, "updatedAt": at}
    return {"stage": "train", "percent": 5, "updatedAt": at, "runs": {"a-train-a1": run}}


class Shelf:
    """Jobs in memory. `conflicts` are the writes that come too late."""

    def __init__(self, status: TrainingJobStatus, conflicts: int = 0) -> None:
        self.job = job(status)
        self.conflicts, self.reads = conflicts, 0
        self.patches: list[dict[str, Any]] = []

    async def read(self, namespace: str, job: str) -> tuple[TrainingJob, str]:
        self.reads += 1
        return {"default/a": (self.job, "7")}[f"{namespace}/{job}"]

    async def write(self, namespace: str, job: str, status: dict[str, Any], version: str) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError
        self.patches.append(status)
