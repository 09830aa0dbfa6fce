"""What becomes of an attempt while it lasts: it is created, waits, works, stands still, and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from lmops.api import Failure, RunRecord
from lmops.api.status import Phase, Stage
from lmops.jobs import status
from lmops.jobs.endings import expired, failed, last_saved, lost, until_deadline
from lmops.jobs.failure import failure
from lmops.jobs.group import Blocked
from lmops.jobs.runs import WITHOUT_PODS, Active, Leaving, Lost, Queued, last
from lmops.jobs.standstill import Standstill
from lmops.jobs.status import Plan, told
from lmops.jobs.work import AnyWork, Standing
from lmops.plan import Event, Ref, Refusal


def begun(work: AnyWork, stage: Stage, attempt: int, now: datetime) -> Plan:
    """Enters an attempt into the ledger, and creates its child."""
    row, child = status.row(work, stage, attempt), work.manifest(stage, attempt)
    # what the next look would say too, so that it needs no write
    standing = _at_work(work, stage, Active(attempt, 0, work.wanted(stage), WITHOUT_PODS), row)
    return Plan(
        create=(child,),
        status=told(
            work,
            standing,
            now,
            runs=status.entered(work.job.status.runs, row),
            progress=status.started(work, row.name, stage, attempt),
            start_time=work.job.status.start_time or now,
        ),
    )


def waits(work: AnyWork, standing: Standing, now: datetime) -> Plan:
    """Says what the job refers to and is not there yet: that is no fault, and may take as long as it likes."""
    first = work.job.status.display.reason.partition(":")[0] != standing.reason
    events = (Event("Normal", standing.reason, standing.message),) if first else ()
    return Plan(status=told(work, standing, now), events=events, again=UNHEARD)


def withheld(work: AnyWork, stage: Stage, attempt: int, why: Refusal, now: datetime) -> Plan:
    """Says why a child could not be created, and asks again; an answer that would always be the same fails the job."""
    if why.is_final:
        return failed(work, failure("Settings", why.reason, why.message), now)
    shown = f"{why.reason}: {why.message}"
    standing = Standing(_pending(work, stage), why.reason, why.message, display=shown, wanted=work.wanted(stage))
    return Plan(
        create=(work.manifest(stage, attempt),),
        status=told(work, standing, now),
        events=(Event("Warning", why.reason, why.message),),
    )


def queued(work: AnyWork, stage: Stage, state: Queued, now: datetime) -> Plan:
    """Says which queue holds an attempt back. That may take as long as it likes: no deadline counts it."""
    name, queue = work.ref(stage, state.attempt).name, work.queue
    place = f"waits in queue {queue}" if queue else "is suspended, though not by spec.suspend"
    word = state.obstacle.reason if state.obstacle else "Queued"
    place += f"; {state.obstacle.message}" if state.obstacle else ""
    standing = Standing("Queued", word, f"{name} {place}.", display=place, wanted=work.wanted(stage))
    said = next((c.reason for c in work.job.status.conditions if c.type == "Progressing"), "")
    is_news = (work.job.status.phase, said) != ("Queued", word)
    events = (Event("Warning" if state.obstacle else "Normal", word, f"{name} {place}"),) if is_news else ()
    return Plan(status=told(work, standing, now), events=events)


def active(work: AnyWork, stage: Stage, state: Active, now: datetime) -> Plan:
    """Reports how many pods run, or what they wait for; what waits or stands still for too long has failed."""
    row = _ran(status.row(work, stage, state.attempt), state, now)
    if (blocked := state.blocked) and (limit := _patience(work, blocked.failure)) is not None:
        if now >= blocked.since + limit:
            return expired(work, stage, state, blocked.failure, now)
        state = replace(state, again=_soonest(state.again, blocked.since + limit - now))
    still = Standstill.of(work, row, state)
    if still and (why := still.failure(now)):
        checkpoint = last_saved(work, stage, state)
        return lost(work, stage, Lost(state.attempt, why, checkpoint), now)
    standing = hung(work, state, still) if still and still.is_long(now) else _at_work(work, stage, state, row)
    if edited := _edited(work.ref(stage, state.attempt), state):
        standing = replace(standing, message=f"{standing.message} {edited}")
    up = standing.phase not in ("Pending", "Restarting")
    healthy = {"failure": None} if up and standing.phase != "Hung" and state.running == state.wanted else {}
    return Plan(
        status=told(work, standing, now, runs=status.entered(work.job.status.runs, row), **healthy),
        events=tuple(_news(work, row, standing, state, edited)),
        again=_soonest(state.again, until_deadline(work, now), still.look_again(now) if still else None),
    )


def _ran(row: RunRecord, state: Active, now: datetime) -> RunRecord:
    """The row of an attempt with what its pods add: that one of them ran, and that all of them did."""
    if state.running and row.state == "Pending":
        row = row.model_copy(update={"state": "Running", "started_at": state.since or now})
    if state.gathered and row.gathered_at is None:
        row = row.model_copy(update={"gathered_at": state.gathered})
    return row


def _at_work(work: AnyWork, stage: Stage, state: Active, row: RunRecord) -> Standing:
    up = row.state == "Running"
    phase = work.PHASES[stage] if up else _pending(work, stage)
    waiting = _steady(work, state)
    message = waiting if waiting else f"{state.running} of {state.wanted} pods run."
    shown = _shown(work, stage, phase, waiting)
    return Standing(phase, phase, message, display=shown, running=state.running, wanted=state.wanted)


def hung(work: AnyWork, state: Active, still: Standstill) -> Standing:
    """All pods run, and nothing moves."""
    message = f"{still.told} If there is none, the attempt is over at {still.ends:%Y-%m-%d %H:%M:%S} UTC."
    shown = f"NoProgress: {still.told}"
    return Standing("Hung", "NoProgress", message, display=shown, running=state.running, wanted=state.wanted)


def _edited(this: Ref, state: Active) -> str:
    """An edited workload is reported, and never repaired: Kueue and people may have their reasons."""
    return f"{this.kind} {this.name} was edited by {', '.join(state.edited_by)}." if state.edited_by else ""


def _news(work: AnyWork, row: RunRecord, standing: Standing, state: Active, edited: str) -> Iterator[Event]:
    """What has changed since the last look."""
    if row.state == "Running" and status.row(work, row.stage, row.attempt).state == "Pending":
        yield Event("Normal", "Started", f"{row.name} runs on {state.running} of {state.wanted} pods")
    if standing.phase in ("Pending", "Restarting") and state.blocked and not _is_told(work, state.blocked):
        yield Event("Warning", state.blocked.failure.reason, state.blocked.failure.message)
    if standing.phase == "Hung" and work.job.status.phase != "Hung":
        yield Event("Warning", standing.reason, standing.message)
    if edited and not any(edited in condition.message for condition in work.job.status.conditions):
        yield Event("Warning", "Edited", edited)


UNHEARD = timedelta(seconds=60)
"""How soon what a job waits for is looked at again, should nobody say that it has come."""
QUIET = ("ContainerCreating", "NoPods")
"""Words of every start: they are told once it takes too long."""


def _is_told(work: AnyWork, blocked: Blocked) -> bool:
    return blocked.failure.reason in (*QUIET, _told_last(work).partition(":")[0])


def _steady(work: AnyWork, state: Active) -> str:
    """What is waited for. A kubelet that pulls an image in vain words that anew for ever: its first words stay."""
    word = state.blocked.failure.reason if state.blocked and state.blocked.failure.class_ == "Image" else ""
    last = _told_last(work)
    return last if word and last.startswith(f"{word}: ") else state.waiting


def _told_last(work: AnyWork) -> str:
    return next((c.message for c in work.job.status.conditions if c.type == "Progressing"), "")


def leaving(work: AnyWork, stage: Stage, state: Leaving, now: datetime) -> Plan:
    """Deletes what is left of a recorded attempt, and waits until it is gone."""
    names = ", ".join(state.staying[:3]) + (" and more" if len(state.staying) > 3 else "")
    message = f"The last attempt is leaving: {names}."
    standing = Standing("Restarting", "Leaving", message, display=work.job.status.display.reason)
    return Plan(status=told(work, standing, now), delete=state.remains, again=state.again)


def _patience(work: AnyWork, why: Failure) -> timedelta | None:
    """How long a pod may wait for what it lacks: for a node or a Secret as long as it takes, if nobody has said."""
    seconds = work.job.spec.retry.pending_seconds or (
        work.settings.image_pull_seconds if why.class_ == "Image" else None
    )
    return timedelta(seconds=seconds) if seconds else None


def _shown(work: AnyWork, stage: Stage, phase: Phase, waiting: str) -> str:
    """While a restart waits for nothing in particular, why it was needed is on show."""
    return status.restarting(work, stage) if phase == "Restarting" and ":" not in waiting else waiting


def _pending(work: AnyWork, stage: Stage) -> Phase:
    """A first attempt is pending; a later one is part of a restart."""
    row = last(work.job.status.runs, stage)
    return "Restarting" if row and (row.attempt > 0 or row.state in ("Failed", "Stopped")) else "Pending"


def _soonest(*waits: timedelta | None) -> timedelta | None:
    return min((wait for wait in waits if wait is not None), default=None)
