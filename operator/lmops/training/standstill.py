"""Whether a run that seems to work makes no step any more, as processes do that wait for each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lmops.api import Failure, RunRecord, TrainingJob
from lmops.settings import Settings
from lmops.training.failure import failure
from lmops.training.runs import Active

OFTEN = timedelta(seconds=30)
"""How soon a run that stands still is looked at again: it may go on."""


@dataclass(frozen=True)
class Standstill:
    """Since when a run has not moved, and how long it may."""

    since: datetime
    allowed: timedelta
    step: int | None

    @classmethod
    def of(cls, job: TrainingJob, row: RunRecord, state: Active, settings: Settings) -> Standstill | None:
        """`None` where some pods do not run, or nobody reports: a user's own trainer may be silent from the start."""
        progress = job.status.progress.runs.get(row.name)
        moved = progress.moved_at if progress and progress.attempt == row.attempt else None
        silent = not settings.tells_progress or (moved is None and job.spec.trainer is not None)
        if silent or row.started_at is None or state.running < state.wanted:
            return None
        since = max(filter(None, (moved, row.started_at)))
        return cls(since, timedelta(seconds=job.spec.retry.hung_after_seconds), progress.step if progress else None)

    @property
    def ends(self) -> datetime:
        """When it has lasted so long that the attempt has failed."""
        return self.since.astimezone(UTC) + 2 * self.allowed

    @property
    def told(self) -> str:
        """Since when, and where it stands."""
        at = f" It stands at step {self.step}." if self.step is not None else ""
        return f"No step since {self.since.astimezone(UTC):%H:%M:%S} UTC.{at}"

    def is_long(self, now: datetime) -> bool:
        """Whether the run is to be called hung."""
        return now >= self.since + self.allowed

    def failure(self, now: datetime) -> Failure | None:
        """Why the attempt has failed, once it has."""
        return failure("Hung", "NoProgress", self.told) if now >= self.ends else None

    def look_again(self, now: datetime) -> timedelta:
        """When it could be called hung, or has ended."""
        if self.is_long(now):
            return min(OFTEN, self.ends - now)
        return self.since + self.allowed - now
