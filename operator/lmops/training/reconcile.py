"""What a TrainingJob needs next, given what is there and what its ledger remembers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from lmops.api import Failure, RunRecord, TrainingJob, TrainingJobStatus
from lmops.api.status import Phase, Stage
from lmops.plan import Event, Manifest, Observed, Ref, Refusal
from lmops.plan import Plan as AnyPlan
from lmops.settings import Settings
from lmops.training import status
from lmops.training.failure import CLASSES, failure
from lmops.training.group import has_ended, pods_of
from lmops.training.policies import refusal as refused
from lmops.training.runs import (
    Active,
    Done,
    Finished,
    Leaving,
    Lost,
    Queued,
    State,
    Wanted,
    end_of,
    last,
    look,
    uncounted,
)
from lmops.training.stages import manifest, queue_of, ref, stages
from lmops.training.standstill import Standstill
from lmops.training.status import Standing, told

Plan = AnyPlan[TrainingJobStatus]
WORKING: dict[Stage, Phase] = {"prepare": "Preparing", "train": "Running", "evaluate": "Evaluating"}


def reconcile(job: TrainingJob, observed: Observed, now: datetime, settings: Settings) -> Plan:
    """The whole decision: refuse, stop, or move the first unfinished stage one step; or report the end."""
    if job.status.phase in status.ENDED:
        return tidied(job, observed, now, settings)
    if not job.status.runs and (refusal := refused(job, observed)):
        return failed(job, refusal, now, accepted=False)
    stage, state = unfinished(job, observed, now)
    if overtime := deadline(job, _worked_until(state, now)):
        return expired(job, stage, state, overtime, now)
    if job.spec.suspend:
        return suspended(job, stage, state, now)
    match state:
        case Wanted(attempt, Refusal() as reason):
            return withheld(job, stage, attempt, reason, now, settings)
        case Wanted(attempt):
            return begun(job, stage, attempt, now, settings)
        case Queued():
            return queued(job, stage, state, now, settings)
        case Active():
            return active(job, stage, state, now, settings)
        case Done():
            return done(job, stage, state, now)
        case Lost():
            return lost(job, stage, state, now, settings)
        case Leaving():
            return leaving(job, stage, state, now)
        case Finished():
            return Plan(status=job.status)


def is_settled(job: Manifest, observed: Observed, settings: Settings) -> bool:
    """Whether a job has ended and nothing of it is left to do. It takes the bare manifest: most jobs have ended."""
    phase = job.get("status", {}).get("phase")
    ttl = job["spec"].get("ttlSecondsAfterFinished", settings.defaults.ttl_seconds_after_finished)
    has_time = ttl is None or not observed.children
    return phase in status.ENDED and has_time and not left_over(phase, observed)


def tidied(job: TrainingJob, observed: Observed, now: datetime, settings: Settings) -> Plan:
    """A job that has ended: what would still run is stopped, and what has had its time is removed."""
    ttl, ended = job.spec.ttl_seconds_after_finished, job.status.completion_time
    ttl = settings.defaults.ttl_seconds_after_finished if ttl is None else ttl
    if ttl is None or ended is None or not observed.children:
        return Plan(status=job.status, delete=left_over(job.status.phase, observed))
    left = ended + timedelta(seconds=ttl) - now
    if left > timedelta(0):
        return Plan(status=job.status, delete=left_over(job.status.phase, observed), again=left)
    return Plan(status=job.status, delete=tuple(observed.children))


def left_over(phase: Phase | None, observed: Observed) -> tuple[Ref, ...]:
    """The children that would run on although the job has failed. Pods that have ended stay to be looked at."""
    if phase != "Failed":
        return ()
    return tuple(ref for ref, child in observed.children.items() if _would_run(child, pods_of(observed, ref.name)))


def _would_run(child: Manifest, pods: list[Manifest]) -> bool:
    return not all(map(has_ended, pods)) if pods else not end_of(child)


def unfinished(job: TrainingJob, observed: Observed, now: datetime) -> tuple[Stage, State]:
    """The first stage without a result, and where it stands."""
    every = stages(job)
    states = ((stage, look(job, stage, observed, now)) for stage in every)
    return next(((stage, state) for stage, state in states if not isinstance(state, Finished)), (every[-1], Finished()))


def begun(job: TrainingJob, stage: Stage, attempt: int, now: datetime, settings: Settings) -> Plan:
    """Enters an attempt into the ledger, and creates its child."""
    row, child = status.row(job, stage, attempt), manifest(job, stage, attempt, settings)
    standing = Standing(
        _pending(job, stage),
        "Created",
        f"{child['kind']} {row.name} was created.",
        display=job.status.display.reason if attempt > 0 else "",
        wanted=_wanted(job, stage),
    )
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
        events=(Event("Normal", "Created", f"Created {child['kind']} {row.name}"),),
    )


def withheld(job: TrainingJob, stage: Stage, attempt: int, why: Refusal, now: datetime, settings: Settings) -> Plan:
    """Says why a child could not be created, and asks again; an answer that would always be the same fails the job."""
    if why.is_final:
        return failed(job, failure("Settings", why.reason, why.message), now)
    shown = f"{why.reason}: {why.message}"[:120]
    standing = Standing(_pending(job, stage), why.reason, why.message, display=shown, wanted=_wanted(job, stage))
    return Plan(
        create=(manifest(job, stage, attempt, settings),),
        status=told(job, standing, now),
        events=(Event("Warning", why.reason, why.message),),
    )


def queued(job: TrainingJob, stage: Stage, state: Queued, now: datetime, settings: Settings) -> Plan:
    """Says which queue holds an attempt back. That may take as long as it likes: no deadline counts it."""
    name, queue = ref(job, stage, state.attempt).name, queue_of(job, settings)
    place = f"waits in queue {queue}" if queue else "is suspended, though not by spec.suspend"
    standing = Standing("Queued", "Queued", f"{name} {place}.", display=place, wanted=_wanted(job, stage))
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
    still = Standstill.of(job, row, state, settings)
    if still and (why := still.failure(now)):
        checkpoint = _saved(job, stage, state)
        return lost(job, stage, Lost(state.attempt, why, checkpoint), now, settings)
    standing = hung(job, state, still) if still and still.is_long(now) else _at_work(job, stage, state, row)
    if edited := _edited(ref(job, stage, state.attempt), state):
        standing = replace(standing, message=f"{standing.message} {edited}")
    up = standing.phase not in ("Pending", "Restarting")
    healthy = {"failure": None} if up and standing.phase != "Hung" and state.running == state.wanted else {}
    return Plan(
        status=told(job, standing, now, runs=status.entered(job.status.runs, row), **healthy),
        events=tuple(_news(job, row, standing, state, edited)),
        again=_soonest(state.again, _until_deadline(job, now), still.look_again(now) if still else None),
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
    message = state.waiting if state.waiting else f"{state.running} of {state.wanted} pods run."
    shown = _shown(job, phase, state.waiting)
    reason = WORKING[stage] if up else "Pending"
    return Standing(phase, reason, message, display=shown, running=state.running, wanted=state.wanted)


def hung(job: TrainingJob, state: Active, still: Standstill) -> Standing:
    """All pods run, and nothing moves."""
    return Standing(
        "Hung", "NoProgress", f"{still.told} It is restarted at {still.ends:%H:%M:%S} UTC.",
        display=f"NoProgress: {still.told}"[:120], running=state.running, wanted=state.wanted,
    )  # fmt: skip


def _edited(this: Ref, state: Active) -> str:
    """An edited workload is reported, and never repaired: Kueue and people may have their reasons."""
    return f"{this.kind} {this.name} was edited by {', '.join(state.edited_by)}." if state.edited_by else ""


def _news(job: TrainingJob, row: RunRecord, standing: Standing, state: Active, edited: str) -> Iterator[Event]:
    """What has changed since the last look."""
    if row.state == "Running" and status.row(job, row.stage, row.attempt).state == "Pending":
        yield Event("Normal", "Started", f"{row.name} runs on {state.running} of {state.wanted} pods")
    if standing.phase == "Hung" and job.status.phase != "Hung":
        yield Event("Warning", standing.reason, standing.message)
    if edited and not any(edited in condition.message for condition in job.status.conditions):
        yield Event("Warning", "Edited", edited)


def done(job: TrainingJob, stage: Stage, state: Done, now: datetime) -> Plan:
    """Records a result; the last one completes the job."""
    ended = state.ended or now
    row = status.row(job, stage, state.attempt).model_copy(
        update={"state": "Succeeded", "finished_at": ended, "checkpoint": state.checkpoint, "reason": "Completed"}
    )
    row = row.model_copy(update={"started_at": row.started_at or ended})
    changes = {
        "runs": status.entered(job.status.runs, row),
        "progress": status.finished(job, stage, state.attempt),
        "failure": None,
        **status.results(state.result),
    }
    if stage != stages(job)[-1]:
        standing = Standing(WORKING[stage], "StageCompleted", f"{row.name} has left its result.")
        return Plan(
            status=told(job, standing, now, **changes),
            events=(Event("Normal", "StageCompleted", f"{row.name} completed"),),
            again=timedelta(0),
        )
    return completed(job, changes, now)


def completed(job: TrainingJob, changes: dict[str, object], now: datetime) -> Plan:
    """The end that was wanted: the model is published and measured."""
    evaluation = job.status.model_copy(update=changes).evaluation
    verdict = (evaluation.verdict if evaluation else None) or "The model is published."
    shown = verdict[:120] if evaluation and evaluation.beats_baseline is False else ""
    standing = Standing("Succeeded", "Completed", verdict, display=shown)
    return Plan(status=told(job, standing, now, **changes), events=(Event("Normal", "Completed", verdict),))


def lost(job: TrainingJob, stage: Stage, state: Lost, now: datetime, settings: Settings) -> Plan:
    """Records why an attempt ended, before anything of it is deleted; then it is tried again, or the job has failed."""
    why = state.failure
    row = status.row(job, stage, state.attempt).model_copy(
        update={
            "state": "Stopped" if uncounted(why) else "Failed",
            "reason": why.reason,
            "message": why.message,
            "evidence": why.evidence,
            "checkpoint": state.checkpoint,
            "finished_at": state.ended or now,
        }
    )
    runs = status.entered(job.status.runs, row)
    restarts = job.status.restarts + (0 if uncounted(why) else 1)
    recorded = job.model_copy(update={"status": job.status.model_copy(update={"runs": runs})})
    if spent := _spent(recorded, stage, why, restarts, settings):
        return failed(recorded, spent, now)
    count = f"restart {restarts} of {job.spec.retry.restarts}" if not uncounted(why) else "goes on"
    at = f" from step {state.checkpoint}" if state.checkpoint is not None else ""
    at += _steps_lost(job, row)
    standing = Standing(
        "Restarting", why.reason, f"{why.message} {count.capitalize()}{at}.", display=f"{why.reason}: {count}{at}"
    )
    return Plan(
        status=told(recorded, standing, now, restarts=restarts, failure=why),
        events=(Event("Warning", "Restarting", f"{why.reason}: {why.message} {count.capitalize()}{at}."),),
        again=timedelta(0),
    )


def leaving(job: TrainingJob, stage: Stage, state: Leaving, now: datetime) -> Plan:
    """Deletes what is left of a recorded attempt, and waits until it is gone."""
    standing = Standing(
        "Restarting", "Leaving", "The pods of the last attempt are leaving.", display=job.status.display.reason
    )
    return Plan(status=told(job, standing, now), delete=state.remains, again=state.again)


def suspended(job: TrainingJob, stage: Stage, state: State, now: datetime) -> Plan:
    """Ends the running attempt in order: its pods save a checkpoint when they are told to go."""
    standing = Standing(
        "Suspended", "Suspended", "spec.suspend is true; set it to false to go on.", display="suspended"
    )
    if isinstance(state, Done):
        return done(job, stage, state, now)
    if isinstance(state, Active | Lost | Queued):
        saved = _saved(job, stage, state)
        row = status.row(job, stage, state.attempt).model_copy(
            update={"state": "Stopped", "reason": "Suspended", "finished_at": now, "checkpoint": saved}
        )
        events = (Event("Normal", "Suspended", f"{row.name} is stopped"),)
        runs = status.entered(job.status.runs, row)
        return Plan(status=told(job, standing, now, runs=runs), events=events, again=timedelta(0))
    if isinstance(state, Leaving):
        return Plan(status=told(job, standing, now), delete=state.remains, again=state.again)
    return Plan(status=told(job, standing, now))


def failed(job: TrainingJob, why: Failure, now: datetime, accepted: bool = True) -> Plan:
    """The end that was not wanted. Pods stay as they are, for whoever wants to look."""
    standing = Standing("Failed", why.reason, f"{why.message} {why.remedy}".strip(), accepted, status.told_failure(why))
    return Plan(
        status=told(job, standing, now, failure=why),
        events=(Event("Warning", why.reason, f"{why.message} {why.remedy}".strip()),),
    )


def expired(job: TrainingJob, stage: Stage, state: State, why: Failure, now: datetime) -> Plan:
    """A job past a limit of its time: what runs is stopped, and the job has failed."""
    if isinstance(state, Done) and stage == stages(job)[-1]:
        return done(job, stage, state, now)
    if not isinstance(state, Active | Lost | Queued):
        return failed(job, why, now)
    saved = _saved(job, stage, state)
    kept = f" The checkpoint of step {saved} is kept." if saved is not None else ""
    plan = failed(job, why.model_copy(update={"message": why.message + kept}), now)
    row = status.row(job, stage, state.attempt).model_copy(
        update={"state": "Failed", "reason": why.reason, "finished_at": now, "checkpoint": saved}
    )
    recorded = plan.status.model_copy(update={"runs": status.entered(job.status.runs, row)})
    return replace(plan, status=recorded, delete=(ref(job, stage, state.attempt),))


def deadline(job: TrainingJob, now: datetime) -> Failure | None:
    """Whether the job has worked longer than it may."""
    left = _until_deadline(job, now)
    if left is None or left > timedelta(0):
        return None
    allowed = job.spec.retry.deadline_seconds
    return failure("Deadline", "DeadlineExceeded", f"The job has worked longer than the {allowed} s that it may.")


def _worked_until(state: State, now: datetime) -> datetime:
    """When the last work was done: what has ended works no longer, however late that is noticed."""
    return (state.ended if isinstance(state, Done | Lost) else None) or now


def _steps_lost(job: TrainingJob, row: RunRecord) -> str:
    """What has to be done again, where that is known."""
    progress = job.status.progress.runs.get(row.name)
    steps = (progress.step or 0) - (row.checkpoint or 0) if progress and row.stage == "train" else 0
    return f", {steps} step{'s' if steps > 1 else ''} lost" if steps > 0 else ""


def _until_deadline(job: TrainingJob, now: datetime) -> timedelta | None:
    allowed = job.spec.retry.deadline_seconds
    return timedelta(seconds=allowed) - status.worked(job.status.runs, now) if allowed else None


def _spent(job: TrainingJob, stage: Stage, why: Failure, restarts: int, settings: Settings) -> Failure | None:
    """Why an attempt is the last: its failure would only repeat, or the budget is used up."""
    if CLASSES[why.class_].then == "fails":
        return why
    if not uncounted(why):
        allowed = job.spec.retry.restarts
        if restarts <= allowed:
            return None
        spent = f" It was restarted {allowed} times, as often as retry.restarts allows." if allowed else ""
        return why.model_copy(update={"message": why.message + spent})
    mine = [run for run in job.status.runs if run.stage == stage and run.reason != "Suspended"]
    rows = mine[-settings.stops_without_progress :]
    stuck = len(rows) == settings.stops_without_progress and all(
        run.state == "Stopped" and run.checkpoint == rows[0].checkpoint for run in rows
    )
    if not stuck:
        return None
    vain = " without a newer checkpoint" if stage == "train" else ""
    message = f"The run was stopped {len(rows)} times in a row{vain}. {why.message}"
    remedy = "Save checkpoints more often (checkpoint.every)." if stage == "train" else "Look at who stops its pods."
    return why.model_copy(update={"message": message, "remedy": remedy})


def _patience(job: TrainingJob, why: Failure, settings: Settings) -> timedelta | None:
    """How long a pod may wait for what it lacks: for a node or a Secret as long as it takes, if nobody has said."""
    seconds = job.spec.retry.pending_seconds or (settings.image_pull_seconds if why.class_ == "Image" else None)
    return timedelta(seconds=seconds) if seconds else None


def _saved(job: TrainingJob, stage: Stage, state: Active | Lost | Queued) -> int | None:
    if isinstance(state, Lost):
        return state.checkpoint
    progress = job.status.progress.runs.get(ref(job, stage, state.attempt).name)
    return progress.checkpoint if progress else None


def _shown(job: TrainingJob, phase: Phase, waiting: str) -> str:
    """While a restart waits for nothing in particular, why it was needed stays on show."""
    return job.status.display.reason if phase == "Restarting" and ":" not in waiting else waiting[:120]


def _pending(job: TrainingJob, stage: Stage) -> Phase:
    """A first attempt is pending; a later one is part of a restart."""
    row = last(job.status.runs, stage)
    return "Restarting" if row and (row.attempt > 0 or row.state in ("Failed", "Stopped")) else "Pending"


def _wanted(job: TrainingJob, stage: Stage) -> int:
    return job.spec.resources.nodes if stage == "train" else 1


def _soonest(*waits: timedelta | None) -> timedelta | None:
    return min((wait for wait in waits if wait is not None), default=None)
