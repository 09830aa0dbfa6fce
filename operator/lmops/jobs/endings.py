"""How an attempt or a whole job ends: with a result, a restart, a stop, a failure; and what is cleared away then."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from lmops.api import Failure
from lmops.api.status import Phase, Stage
from lmops.jobs import status
from lmops.jobs.backends import end_of
from lmops.jobs.failure import CLASSES, adding, failure
from lmops.jobs.group import has_ended, pods_of
from lmops.jobs.runs import Active, Done, Leaving, Lost, Queued, State, uncounted
from lmops.jobs.status import Plan, told
from lmops.jobs.work import AnyWork, Standing
from lmops.plan import Event, Manifest, Observed, Ref

OPEN = ("Pending", "Running")


def tidied(work: AnyWork, observed: Observed, now: datetime) -> Plan:
    """A job that has ended: what would still run is stopped, and what has had its time is removed."""
    seen = work.job.status.model_copy(update={"observed_generation": work.job.metadata.generation})
    ttl, ended = work.job.spec.ttl_seconds_after_finished, work.job.status.completion_time
    ttl = work.settings.defaults.ttl_seconds_after_finished if ttl is None else ttl
    if ttl is None or ended is None or not observed.children:
        return Plan(status=seen, delete=left_over(work.job.status.phase, observed))
    left = ended + timedelta(seconds=ttl) - now
    if left > timedelta(0):
        return Plan(status=seen, delete=left_over(work.job.status.phase, observed), again=left)
    return Plan(status=seen, delete=tuple(observed.children))


def left_over(phase: Phase | None, observed: Observed) -> tuple[Ref, ...]:
    """The children that would run on although the job has failed. Pods that have ended stay to be looked at."""
    if phase != "Failed":
        return ()
    return tuple(ref for ref, child in observed.children.items() if _would_run(child, pods_of(observed, ref.name)))


def _would_run(child: Manifest, pods: list[Manifest]) -> bool:
    return not all(map(has_ended, pods)) if pods else not end_of(child)


def done(work: AnyWork, stage: Stage, state: Done, now: datetime) -> Plan:
    """Records a result; the last one completes the job."""
    ended = state.ended or now
    row = status.row(work, stage, state.attempt).model_copy(
        update={"state": "Succeeded", "finished_at": ended, "checkpoint": state.checkpoint, "reason": "Completed"}
    )
    row = row.model_copy(update={"started_at": row.started_at or ended})
    changes = {
        "runs": status.entered(work.job.status.runs, row),
        "progress": status.finished(work, stage, state.attempt),
        "failure": None,
        **status.results(work.job.status, state.result),
    }
    if stage != work.stages()[-1]:
        standing = Standing(work.PHASES[stage], "StageCompleted", f"{row.name} has left its result.")
        return Plan(
            status=told(work, standing, now, **changes),
            events=(Event("Normal", "StageCompleted", f"{row.name} completed"),),
            again=timedelta(0),
        )
    return judged(work, changes, now)


def judged(work: AnyWork, changes: dict[str, Any], now: datetime) -> Plan:
    """The end: the last stage has left its result, and the kind says what it is worth."""
    verdict = work.having(**changes).verdict()
    if isinstance(verdict, Failure):
        return failed(work, verdict, now, **changes)
    return Plan(status=told(work, verdict, now, **changes), events=(Event("Normal", verdict.reason, verdict.message),))


def lost(work: AnyWork, stage: Stage, state: Lost, now: datetime) -> Plan:
    """Records why an attempt ended, before anything of it is deleted; then it is tried again, or the job has failed."""
    why = state.failure
    row = status.row(work, stage, state.attempt).model_copy(
        update={
            "state": "Stopped" if uncounted(why) else "Failed",
            "reason": why.reason,
            "message": why.message,
            "evidence": why.evidence,
            "checkpoint": state.checkpoint,
            "steps_lost": _steps_lost(work, stage, state),
            "finished_at": state.ended or now,
        }
    )
    restarts = work.job.status.restarts + (0 if uncounted(why) else 1)
    changes = {"runs": status.entered(work.job.status.runs, row), "restarts": restarts}
    recorded = work.having(**changes)
    if spent := _spent(recorded, stage, why, restarts):
        return failed(recorded.having(restarts=work.job.status.restarts), spent, now)
    shown = status.restarting(recorded, stage)
    message = f"{why.message} {shown.partition(': ')[2].capitalize()}."
    return Plan(
        status=told(recorded, Standing("Restarting", why.reason, message, display=shown), now, failure=why),
        events=(Event("Warning", "Restarting", f"{why.reason}: {message}"),),
        again=timedelta(0),
    )


def suspended(work: AnyWork, stage: Stage, state: State, now: datetime) -> Plan:
    """Ends the running attempt in order: its pods save a checkpoint when they are told to go."""
    standing = Standing(
        "Suspended", "Suspended", "spec.suspend is true; set it to false to go on.", display="suspended"
    )
    match state:
        case Done():
            return done(work, stage, state, now)
        case Lost():
            return lost(work, stage, state, now)
        case Active() | Queued():
            row = status.row(work, stage, state.attempt).model_copy(
                update={
                    "state": "Stopped",
                    "reason": "Suspended",
                    "finished_at": now,
                    "checkpoint": last_saved(work, stage, state),
                }
            )
            events = (Event("Normal", "Suspended", f"{row.name} is stopped"),)
            runs = status.entered(work.job.status.runs, row)
            return Plan(status=told(work, standing, now, runs=runs), events=events, again=timedelta(0))
        case Leaving():
            return Plan(status=told(work, standing, now), delete=state.remains, again=state.again)
    return Plan(status=told(work, standing, now))


def failed(work: AnyWork, why: Failure, now: datetime, accepted: bool = True, **changes: Any) -> Plan:
    """The end that was not wanted. Pods stay as they are, for whoever wants to look, and no run is left open."""
    standing = Standing("Failed", why.reason, f"{why.message} {why.remedy}".strip(), accepted, status.told_failure(why))
    ended = {"state": "Failed", "reason": why.reason, "message": why.message, "finished_at": now}
    runs = [
        row.model_copy(update=ended) if row.state in OPEN else row for row in changes.get("runs", work.job.status.runs)
    ]
    return Plan(
        status=told(work, standing, now, **changes | {"failure": why, "runs": runs}),
        events=(Event("Warning", why.reason, f"{why.message} {why.remedy}".strip()),),
    )


def expired(work: AnyWork, stage: Stage, state: State, why: Failure, now: datetime) -> Plan:
    """A job past a limit of its time: what runs is stopped, and the job has failed."""
    if isinstance(state, Done) and stage == work.stages()[-1]:
        return done(work, stage, state, now)
    if not isinstance(state, Active | Lost | Queued):
        return failed(work, why, now)
    saved = last_saved(work, stage, state)
    row = status.row(work, stage, state.attempt).model_copy(update={"checkpoint": saved})
    runs = status.entered(work.job.status.runs, row)
    recorded = work.having(runs=runs)
    kept = f" The checkpoint of step {saved} is kept." if saved is not None else ""
    return replace(failed(recorded, adding(why, kept), now), delete=(work.ref(stage, state.attempt),))


def deadline(work: AnyWork, state: State, now: datetime) -> Failure | None:
    """Whether the job has worked longer than it may. What has ended works no longer, however late that is noticed."""
    ended = state.ended if isinstance(state, Done | Lost) else None
    left = until_deadline(work, ended or now)
    if left is None or left > timedelta(0):
        return None
    allowed = work.job.spec.retry.deadline_seconds
    return failure("Deadline", "DeadlineExceeded", f"The job has worked longer than the {allowed} s that it may.")


def _steps_lost(work: AnyWork, stage: Stage, state: Lost) -> int | None:
    """What has to be done again, where that is known."""
    progress = work.job.status.progress.runs.get(work.ref(stage, state.attempt).name)
    steps = (progress.step or 0) - (state.checkpoint or 0) if progress and stage in work.RESUMED else 0
    return steps if steps > 0 else None


def until_deadline(work: AnyWork, now: datetime) -> timedelta | None:
    """How long the job may still work; `None` where it has no deadline."""
    allowed = work.job.spec.retry.deadline_seconds
    return timedelta(seconds=allowed) - status.worked(work.job.status.runs, now) if allowed else None


def _spent(work: AnyWork, stage: Stage, why: Failure, restarts: int) -> Failure | None:
    """Why an attempt is the last: its failure would only repeat, or the budget is used up."""
    if CLASSES[why.class_].then == "fails":
        return why
    if not uncounted(why):
        allowed = work.job.spec.retry.restarts
        if restarts <= allowed:
            return None
        spent = f" It was restarted {allowed} times, as often as retry.restarts allows." if allowed else ""
        return adding(why, spent)
    mine = [run for run in work.job.status.runs if run.stage == stage and run.reason != "Suspended"]
    rows = mine[-work.settings.stops_without_progress :]
    stuck = len(rows) == work.settings.stops_without_progress and all(
        run.state == "Stopped" and run.checkpoint == rows[0].checkpoint for run in rows
    )
    if not stuck:
        return None
    resumed = stage in work.RESUMED
    vain = " without a newer checkpoint" if resumed else ""
    message = f"The run was stopped {len(rows)} times in a row{vain}. {why.message}"
    remedy = "Save checkpoints more often (checkpoint.every)." if resumed else "Look at who stops its pods."
    return failure(why.class_, why.reason, message, why.evidence, remedy)


def last_saved(work: AnyWork, stage: Stage, state: Active | Lost | Queued) -> int | None:
    """The step of the last checkpoint of an attempt, as far as it is known."""
    if isinstance(state, Lost):
        return state.checkpoint
    progress = work.job.status.progress.runs.get(work.ref(stage, state.attempt).name)
    return progress.checkpoint if progress else None
