"""What becomes of an attempt while it lasts: it is created, waits, works, stands still, and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from lmops.api import Failure, RunRecord, TrainingJob
from lmops.api.status import Phase, Stage
from lmops.plan import Event, Ref, Refusal
from lmops.settings import Settings
from lmops.training import status
from lmops.training.endings import expired, failed, last_saved, lost, until_deadline
from lmops.training.failure import failure
from lmops.training.group import Blocked
from lmops.training.runs import WITHOUT_PODS, Active, Leaving, Lost, Queued, last
from lmops.training.stages import manifest, queue_of, ref, wanted
from lmops.training.standstill import Standstill
from lmops.training.status import WORKING, Plan, Standing, told


def begun(job: TrainingJob, stage: Stage, attempt: int, now: datetime, settings: Settings) -> Plan:
    """Enters an attempt into the ledger, and creates its child."""
    row, child = status.row(job, stage, attempt), manifest(job, stage, attempt, settings)
    # what the next look would say too, so that it needs no write
    standing = _at_work(job, stage, Active(attempt, 0, wanted(job, stage), WITHOUT_PODS), row)
    return Plan(
        create=(child,),
        status=told(
            job,
            standing,
            now,
            runs=status.entered(job.status.runs, row),
            progress=status.started(job.status.progress, row.name, stage, attempt),
            start_time=job.status.start_time or now,
        ),
    )


def withheld(job: TrainingJob, stage: Stage, attempt: int, why: Refusal, now: datetime, settings: Settings) -> Plan:
    """Says why a child could not be created, and asks again; an answer that would always be the same fails the job."""
    if why.is_final:
        return failed(job, failure("Settings", why.reason, why.message), now)
    shown = f"{why.reason}: {why.message}"
    standing = Standing(_pending(job, stage), why.reason, why.message, display=shown, wanted=wanted(job, stage))
    return Plan(
        create=(manifest(job, stage, attempt, settings),),
        status=told(job, standing, now),
        events=(Event("Warning", why.reason, why.message),),
    )


def queued(job: TrainingJob, stage: Stage, state: Queued, now: datetime, settings: Settings) -> Plan:
    """Says which queue holds an attempt back. That may take as long as it likes: no deadline counts it."""
    name, queue = ref(job, stage, state.attempt).name, queue_of(job, settings)
    place = f"waits in queue {queue}" if queue else "is suspended, though not by spec.suspend"
    standing = Standing("Queued", "Queued", f"{name} {place}.", display=place, wanted=wanted(job, stage))
    first = job.status.phase != "Queued"
    events = (Event("Normal", "Queued", f"{name} {place}"),) if first else ()
    return Plan(status=told(job, standing, now), events=events)


def active(job: TrainingJob, stage: Stage, state: Active, now: datetime, settings: Settings) -> Plan:
    """Reports how many pods run, or what they wait for; what waits or stands still for too long has failed."""
    row = _ran(status.row(job, stage, state.attempt), state, now)
    if (blocked := state.blocked) and (limit := _patience(job, blocked.failure, settings)) is not None:
        if now >= blocked.since + limit:
            return expired(job, stage, state, blocked.failure, now)
        state = replace(state, again=_soonest(state.again, blocked.since + limit - now))
    still = Standstill.of(job, row, state)
    if still and (why := still.failure(now)):
        checkpoint = last_saved(job, stage, state)
        return lost(job, stage, Lost(state.attempt, why, checkpoint), now, settings)
    standing = hung(job, state, still) if still and still.is_long(now) else _at_work(job, stage, state, row)
    if edited := _edited(ref(job, stage, state.attempt), state):
        standing = replace(standing, message=f"{standing.message} {edited}")
    up = standing.phase not in ("Pending", "Restarting")
    healthy = {"failure": None} if up and standing.phase != "Hung" and state.running == state.wanted else {}
    return Plan(
        status=told(job, standing, now, runs=status.entered(job.status.runs, row), **healthy),
        events=tuple(_news(job, row, standing, state, edited)),
        again=_soonest(state.again, until_deadline(job, now), still.look_again(now) if still else None),
    )


def _ran(row: RunRecord, state: Active, now: datetime) -> RunRecord:
    """The row of an attempt with what its pods add: that one of them ran, and that all of them did."""
    if state.running and row.state == "Pending":
        row = row.model_copy(update={"state": "Running", "started_at": state.since or now})
    if state.gathered and row.gathered_at is None:
        row = row.model_copy(update={"gathered_at": state.gathered})
    return row


def _at_work(job: TrainingJob, stage: Stage, state: Active, row: RunRecord) -> Standing:
    up = row.state == "Running"
    phase = WORKING[stage] if up else _pending(job, stage)
    waiting = _steady(job, state)
    message = waiting if waiting else f"{state.running} of {state.wanted} pods run."
    shown = _shown(job, stage, phase, waiting)
    return Standing(phase, phase, message, display=shown, running=state.running, wanted=state.wanted)


def hung(job: TrainingJob, state: Active, still: Standstill) -> Standing:
    """All pods run, and nothing moves."""
    message = f"{still.told} If there is none, the attempt is over at {still.ends:%Y-%m-%d %H:%M:%S} UTC."
    shown = f"NoProgress: {still.told}"
    return Standing("Hung", "NoProgress", message, display=shown, running=state.running, wanted=state.wanted)


def _edited(this: Ref, state: Active) -> str:
    """An edited workload is reported, and never repaired: Kueue and people may have their reasons."""
    return f"{this.kind} {this.name} was edited by {', '.join(state.edited_by)}." if state.edited_by else ""


def _news(job: TrainingJob, row: RunRecord, standing: Standing, state: Active, edited: str) -> Iterator[Event]:
    """What has changed since the last look."""
    if row.state == "Running" and status.row(job, row.stage, row.attempt).state == "Pending":
        yield Event("Normal", "Started", f"{row.name} runs on {state.running} of {state.wanted} pods")
    if standing.phase in ("Pending", "Restarting") and state.blocked and not _is_told(job, state.blocked):
        yield Event("Warning", state.blocked.failure.reason, state.blocked.failure.message)
    if standing.phase == "Hung" and job.status.phase != "Hung":
        yield Event("Warning", standing.reason, standing.message)
    if edited and not any(edited in condition.message for condition in job.status.conditions):
        yield Event("Warning", "Edited", edited)


QUIET = ("ContainerCreating", "NoPods")
"""Words of every start: they are told once it takes too long."""


def _is_told(job: TrainingJob, blocked: Blocked) -> bool:
    return blocked.failure.reason in (*QUIET, _told_last(job).partition(":")[0])


def _steady(job: TrainingJob, state: Active) -> str:
    """What is waited for. A kubelet that pulls an image in vain words that anew for ever: its first words stay."""
    word = state.blocked.failure.reason if state.blocked and state.blocked.failure.class_ == "Image" else ""
    last = _told_last(job)
    return last if word and last.startswith(f"{word}: ") else state.waiting


def _told_last(job: TrainingJob) -> str:
    return next((c.message for c in job.status.conditions if c.type == "Progressing"), "")


def leaving(job: TrainingJob, stage: Stage, state: Leaving, now: datetime) -> Plan:
    """Deletes what is left of a recorded attempt, and waits until it is gone."""
    names = ", ".join(state.staying[:3]) + (" and more" if len(state.staying) > 3 else "")
    message = f"The last attempt is leaving: {names}."
    standing = Standing("Restarting", "Leaving", message, display=job.status.display.reason)
    return Plan(status=told(job, standing, now), delete=state.remains, again=state.again)


def _patience(job: TrainingJob, why: Failure, settings: Settings) -> timedelta | None:
    """How long a pod may wait for what it lacks: for a node or a Secret as long as it takes, if nobody has said."""
    seconds = job.spec.retry.pending_seconds or (settings.image_pull_seconds if why.class_ == "Image" else None)
    return timedelta(seconds=seconds) if seconds else None


def _shown(job: TrainingJob, stage: Stage, phase: Phase, waiting: str) -> str:
    """While a restart waits for nothing in particular, why it was needed is on show."""
    return status.restarting(job, stage) if phase == "Restarting" and ":" not in waiting else waiting


def _pending(job: TrainingJob, stage: Stage) -> Phase:
    """A first attempt is pending; a later one is part of a restart."""
    row = last(job.status.runs, stage)
    return "Restarting" if row and (row.attempt > 0 or row.state in ("Failed", "Stopped")) else "Pending"


def _soonest(*waits: timedelta | None) -> timedelta | None:
    return min((wait for wait in waits if wait is not None), default=None)
