"""A status in words: what a resource did, where it stands now, and how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

from lmops.api.status import JobStatus, RunRecord
from lmops.local.volumes import Volumes
from lmops.plan import Manifest

S = TypeVar("S", bound=JobStatus)


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


class Story(ABC):
    """How a kind is told."""

    parting: str
    """What its pods do when they are told to end."""

    @abstractmethod
    def moment(self, status: Manifest) -> Moment:
        """Where it stands now."""

    @abstractmethod
    def chapters(self, status: Manifest) -> list[Chapter]:
        """What has begun or come to its end."""

    @abstractmethod
    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """How it ended."""

    @abstractmethod
    def is_over(self, status: Manifest) -> bool:
        """Whether it has come to its end."""

    @abstractmethod
    def succeeded(self, status: Manifest) -> bool:
        """Whether that end was the wanted one."""

    @abstractmethod
    def left(self, status: Manifest) -> str:
        """What is left of it when its engine is stopped."""


class JobStory(Story, Generic[S]):
    """How a job is told. A kind adds what its runs have made."""

    parting = "running pods save a checkpoint first"
    form: type[S]
    """The kind's status."""

    @abstractmethod
    def details(self, job: S, row: RunRecord) -> tuple[str, ...]:
        """The latest figures of a run that goes on, besides its step."""

    @abstractmethod
    def made(self, job: S, row: RunRecord) -> str:
        """What a run has made, in one line."""

    @abstractmethod
    def good_end(self, name: str, job: S, volumes: Volumes) -> Ending:
        """The end that was wanted."""

    def is_over(self, status: Manifest) -> bool:
        """Whether the job has come to its end."""
        return status.get("phase") in ("Succeeded", "Failed")

    def succeeded(self, status: Manifest) -> bool:
        """Whether that end was the wanted one."""
        return status.get("phase") == "Succeeded"

    def moment(self, status: Manifest) -> Moment:
        """The stage, how far it is, and its latest figures."""
        job = self.form.model_validate(status)
        active = next((row for row in reversed(job.runs) if row.state in ("Pending", "Running")), None)
        if active is None or active.state == "Pending":
            return Moment(active.stage if active else (job.phase or "Pending").lower(), waiting=_waiting(job))
        run = job.progress.runs.get(active.name)
        step = (f"step {run.step}/{run.steps}",) if run and run.step is not None and run.steps else ()
        left = (f"{clock(run.seconds_remaining)} left",) if run and run.seconds_remaining is not None else ()
        return Moment(active.stage, run.percent if run else 0, (*step, *self.details(job, active), *left))

    def chapters(self, status: Manifest) -> list[Chapter]:
        """Each run's start and end."""
        job = self.form.model_validate(status)
        found = []
        for row in job.runs:
            if row.state != "Pending":
                again = f"attempt {row.attempt + 1} started" if row.attempt else "started"
                found.append(Chapter(f"{row.name} started", row.stage, again, ended=False))
            if row.state in ("Succeeded", "Failed", "Stopped"):
                found.append(Chapter(f"{row.name} ended", row.stage, self._outcome(job, row), ended=True))
        return found

    def ending(self, name: str, status: Manifest, volumes: Volumes) -> Ending:
        """The figures of the model, or why there is none."""
        job = self.form.model_validate(status)
        return Ending((), (), tuple(failed(job))) if job.phase == "Failed" else self.good_end(name, job, volumes)

    def left(self, status: Manifest) -> str:
        """The last step that any attempt has saved, from which a stopped job goes on."""
        job = self.form.model_validate(status)
        saved = (*(run.checkpoint for run in job.progress.runs.values()), *(row.checkpoint for row in job.runs))
        step = max((step for step in saved if step is not None), default=None)
        return "before its first checkpoint" if step is None else f"the checkpoint of step {step} is kept"

    def _outcome(self, job: S, row: RunRecord) -> str:
        """What became of a run, in one line."""
        if row.state == "Succeeded":
            return self.made(job, row)
        told = row.checkpoint is None or "checkpoint" in (row.message or "")
        at = "" if told else f" The checkpoint of step {row.checkpoint} is kept."
        word = "stopped" if row.state == "Stopped" else "failed"
        why = f": {row.message}" if row.message else "." if at else ""
        return f"{word}: {row.reason}{why}{at}"


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


def figure(value: float) -> str:
    """A figure in a few digits."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def failed(job: JobStatus) -> list[tuple[str, str]]:
    """Why a job has failed, line by line."""
    if not (why := job.failure):
        return [("failed", job.display.reason)]
    evidence: list[Any] = [("evidence" if index == 0 else "", line) for index, line in enumerate(why.evidence)]
    remedy = [("remedy", why.remedy)] if why.remedy else []
    return [("failed", f"{why.class_}/{why.reason}"), ("message", why.message), *evidence, *remedy]


def _waiting(job: JobStatus) -> str:
    """What the job waits for, where it says so."""
    progressing = next((c.message for c in job.conditions if c.type == "Progressing" and c.status == "True"), "")
    suspended = next((c.message for c in job.conditions if c.type == "Suspended" and c.status == "True"), "")
    return suspended or progressing or job.display.reason
