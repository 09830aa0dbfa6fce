"""Whether a run that seems to work makes no step any more, as processes do that wait for each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lmops.api import Failure, RunRecord
from lmops.jobs.failure import failure
from lmops.jobs.runs import Active
from lmops.jobs.work import AnyWork

OFTEN = timedelta(seconds=30)
"""How soon a run that stands still is looked at again: it may go on."""


@dataclass(frozen=True)
class Standstill:
    """Since when a run has reported nothing, and how long it may."""

    since: datetime
    allowed: timedelta
    step: int | None

    @classmethod
    def of(cls, work: AnyWork, row: RunRecord, state: Active) -> Standstill | None:
        """`None` where some pods do not run, or this attempt has never reported: perhaps it cannot, and works.

        The silence of a time in which nobody listened means nothing either.
        """
        progress = work.job.status.progress.runs.get(row.name)
        if progress is None or progress.updated_at is None or progress.attempt != row.attempt or not state.together:
            return None
        since = max(filter(None, (progress.updated_at, state.together, state.heard)))
        return cls(since, timedelta(seconds=work.job.spec.retry.hung_after_seconds), progress.step)

    @property
    def ends(self) -> datetime:
        """When it has lasted so long that the attempt has failed."""
        return self.since.astimezone(UTC) + 2 * self.allowed

    @property
    def told(self) -> str:
        """Since when, and where it stands."""
        at = f" It stands at step {self.step}." if self.step is not None else ""
        return f"No report since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.{at}"

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
