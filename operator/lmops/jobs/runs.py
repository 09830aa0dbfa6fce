"""Where one stage stands: its ledger row, its child and its pods, read into one answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lmops.api import Ending, Failure, Result, RunRecord
from lmops.api.status import FailureClass, Stage
from lmops.jobs import group
from lmops.jobs.backends import end_of, is_held
from lmops.jobs.failure import CLASSES, ending_of, failure, failure_of, was_told_to_go
from lmops.jobs.group import Blocked, pods_of
from lmops.jobs.work import AnyWork
from lmops.plan import Manifest, Observed, Ref, Refusal

WITHOUT_PODS = "waiting for its pods"
"""What an attempt waits for between its creation and its controller's first act."""
GUESSED: tuple[FailureClass, ...] = ("Code", "Communication", "WorkerLost")
"""What an exit code or a log is taken for; of a pod that was told to go they prove nothing."""
RESULT_WITHIN = timedelta(seconds=60)
"""How long after its end a run's result may take to be seen."""


@dataclass(frozen=True)
class Finished:
    """The stage has its result in the ledger."""


@dataclass(frozen=True)
class Done:
    """The attempt has left its result, and the ledger does not know yet."""

    attempt: int
    result: Result
    checkpoint: int | None
    ended: datetime | None = None


@dataclass(frozen=True)
class Wanted:
    """Nothing of this attempt is there: create it."""

    attempt: int
    refused: Refusal | None = None


@dataclass(frozen=True)
class Queued:
    """The attempt is there, and held back until its queue admits it."""

    attempt: int
    obstacle: Refusal | None = None
    """Why that may never happen."""


@dataclass(frozen=True)
class Active:
    """The attempt is there: pods run, or wait for something."""

    attempt: int
    running: int
    wanted: int
    waiting: str = ""
    since: datetime | None = None
    """When the first pod ran."""
    gathered: datetime | None = None
    """When the last pod was created, where all of them run."""
    together: datetime | None = None
    """When the last of them began to work, where all of them do."""
    heard: datetime | None = None
    """Since when what they report was heard."""
    blocked: Blocked | None = None
    """What a pod waits for in vain."""
    edited_by: tuple[str, ...] = ()
    """Who has changed the child since it was created."""
    again: timedelta | None = None


@dataclass(frozen=True)
class Lost:
    """The attempt has ended without a result, and the ledger does not know yet."""

    attempt: int
    failure: Failure
    checkpoint: int | None
    ended: datetime | None = None
    """When its last pod stopped working; unknown where no pod is left to tell."""


@dataclass(frozen=True)
class Leaving:
    """The attempt is over in the ledger, but its child or its pods are still there."""

    attempt: int
    remains: tuple[Ref, ...]
    """What nobody has told to go yet."""
    staying: tuple[str, ...] = ()
    """What is still there."""
    again: timedelta = timedelta(seconds=5)


State = Finished | Done | Wanted | Queued | Active | Lost | Leaving


def look(work: AnyWork, stage: Stage, observed: Observed, now: datetime) -> State:
    """Where a stage stands. What the ledger calls ended is never read from pods again."""
    row = last(work.job.status.runs, stage)
    attempt = max([row.attempt if row else 0, *_attempts(work, stage, observed)])
    if row and row.state == "Succeeded":
        return Finished()
    child = observed.children.get(work.ref(stage, attempt))
    pods = pods_of(observed, work.ref(stage, attempt).name)
    if row and row.attempt == attempt and row.state in ("Failed", "Stopped"):
        return _leaving(work.ref(stage, attempt), child, pods, attempt, now)
    current = row if row and row.attempt == attempt else None
    if child is None:
        if current and current.state == "Running":
            return Lost(attempt, _deleted(work.ref(stage, attempt)), reached(work, current.name))
        return Wanted(attempt, observed.refused.get(work.ref(stage, attempt)))
    obstacle = observed.obstacles.get(work.ref(stage, attempt))
    if is_held(child) and not pods and (current is None or current.state == "Pending"):
        return Queued(attempt, obstacle)
    state = _read(work, stage, child, pods, attempt, current, now)
    if not isinstance(state, Active):
        return state
    return replace(_hindered(state, child, len(pods), obstacle) if obstacle else state, heard=observed.since)


def expected(work: AnyWork) -> tuple[Ref, ...]:
    """The children that the ledger says are there."""
    runs = work.job.status.runs
    return tuple(Ref(work.backend(run.stage), run.name) for run in runs if run.state in ("Pending", "Running"))


def last(runs: list[RunRecord], stage: Stage) -> RunRecord | None:
    """The ledger's last row of a stage."""
    return max((run for run in runs if run.stage == stage), key=lambda run: run.attempt, default=None)


def uncounted(failure: Failure) -> bool:
    """Whether a failure leaves the retry budget alone."""
    return CLASSES[failure.class_].then == "resumes"


def _attempts(work: AnyWork, stage: Stage, observed: Observed) -> list[int]:
    """The attempts at a stage that have a child, told from their names: anybody may edit a label."""
    ours = re.compile(re.escape(work.ref(stage, 0).name[:-1]) + r"(\d{1,6})")
    kind = work.ref(stage, 0).kind
    return [int(found[1]) for (k, name) in observed.children if k == kind and (found := ours.fullmatch(name))]


def _leaving(this: Ref, child: Manifest | None, pods: list[Manifest], attempt: int, now: datetime) -> Leaving | Wanted:
    staying = [pod for pod in pods if not group.is_overdue(pod, now)]
    gone_with_its_node = child is not None and bool(pods) and not staying and "deletionTimestamp" in child["metadata"]
    if (child is None or gone_with_its_node) and not staying:
        return Wanted(attempt + 1)
    there = [pod["metadata"]["name"] for pod in staying] or [this.name]
    return Leaving(attempt, (this,) if child and "deletionTimestamp" not in child["metadata"] else (), tuple(there))


def _deleted(this: Ref) -> Failure:
    return failure("WorkerLost", "Deleted", f"{this.kind} {this.name} was deleted while it ran.", remedy="Nothing.")


def _returned(this: Ref) -> Failure:
    return failure("Preempted", "ReturnedToQueue", f"{this.kind} {this.name} had to give its place back to its queue.")


def _read(
    work: AnyWork,
    stage: Stage,
    child: Manifest,
    pods: list[Manifest],
    attempt: int,
    row: RunRecord | None,
    now: datetime,
) -> State:
    """An attempt that the ledger does not call ended, read from what it left and what it runs."""
    endings = [ending for pod in pods if (ending := ending_of(pod)) and ending.attempt == attempt]
    checkpoint = max(
        (e.checkpoint for e in endings if e.checkpoint is not None), default=reached(work, child["metadata"]["name"])
    )
    if result := _result(work, stage, child, pods, endings):
        return Done(attempt, result, checkpoint, group.ended(pods))
    if why := _what_ended_it(work, stage, child, pods, row, now):
        return Lost(attempt, why, checkpoint, group.ended(pods))
    this = Ref.of(child)
    end, active = end_of(child), _active(work, stage, child, pods, attempt, now)
    if not end or (end["type"] == "Succeeded" and active.running):
        return active
    left = RESULT_WITHIN - (now - datetime.fromisoformat(end.get("lastTransitionTime", now.isoformat())))
    if left > timedelta(0):  # what its pods say may come later than what its controller says
        return Active(attempt, active.running, active.wanted, "waiting for its result", again=left)
    return Lost(attempt, _without_words(this, end), checkpoint, group.ended(pods))


def _result(work: AnyWork, stage: Stage, child: Manifest, pods: list[Manifest], endings: list[Ending]) -> Result | None:
    """What the attempt has made. A trainer of the user's own leaves no document: that all its pods ended well is it."""
    if work.is_ours:
        return next((ending.result for ending in endings if ending.result), None)
    if _was_told_to_go(child, pods) or any(pod["status"].get("phase") == "Failed" for pod in pods):
        return None
    is_through = end_of(child).get("type") == "Succeeded" and not any(map(group.is_running, pods))
    all_ended = len(pods) == work.wanted(stage) and all(pod["status"].get("phase") == "Succeeded" for pod in pods)
    return Result() if is_through or all_ended else None


def _was_told_to_go(child: Manifest, pods: list[Manifest]) -> bool:
    return is_held(child) or any(map(was_told_to_go, pods))


def _what_ended_it(
    work: AnyWork, stage: Stage, child: Manifest, pods: list[Manifest], row: RunRecord | None, now: datetime
) -> Failure | None:
    """Why an attempt is over: a pod failed, its child is to go, a node is silent, or a pod of the group is missing."""
    this, told_to_go = Ref.of(child), _was_told_to_go(child, pods)
    why = min((why for pod in pods if (why := failure_of(pod))), key=_consequence, default=None)
    if why and not (told_to_go and why.class_ in GUESSED and not any(map(ending_of, pods))):
        return _of_own_trainer(work, why)
    if "deletionTimestamp" in child["metadata"]:
        return _deleted(this)
    if silent := next((pod for pod in pods if group.is_overdue(pod, now)), None):
        return failure("NodeLost", "NodeLost", f"The node of {silent['metadata']['name']} does not answer any more.")
    if is_held(child):  # its pods may save a checkpoint before they go
        return None if any(map(group.is_running, pods)) else _returned(this)
    if told_to_go and pods and all(map(group.has_ended, pods)):
        return failure("Preempted", "Stopped", f"The pods of {this.name} were told to go.")
    if end_of(child).get("type") == "Succeeded":
        return None
    return group.lost(pods, work.wanted(stage), row.gathered_at if row else None)


OWN_REMEDIES: dict[FailureClass, str] = {
    "Code": "The evidence shows where the program failed.",
    "OutOfMemory": "Raise resources.perNode.memory, or let the program use less.",
}
"""What helps where the program is the user's own: nothing to report to us, and no setting of ours."""


def _of_own_trainer(work: AnyWork, why: Failure) -> Failure:
    remedy = OWN_REMEDIES.get(why.class_) if not work.is_ours else None
    return why.model_copy(update={"remedy": remedy}) if remedy else why


def _without_words(this: Ref, end: Manifest) -> Failure:
    """The failure of a run whose pods have said nothing."""
    if end["type"] == "Failed":
        return failure("WorkerLost", end.get("reason", "Failed"), end.get("message", ""))
    return failure("Code", "ResultMissing", f"{this.kind} {this.name} succeeded, but left no result.")


def _consequence(failure: Failure) -> int:
    """Where several pods fail, a lost connection is mostly the echo of another's end."""
    return {"Communication": 1, "WorkerLost": 1, "Preempted": 2}.get(failure.class_, 0)


def reached(work: AnyWork, run: str) -> int | None:
    """The last checkpoint that a run has reported."""
    progress = work.job.status.progress.runs.get(run)
    return progress.checkpoint if progress else None


def _without_pods(child: Manifest) -> Blocked | None:
    """A child whose controller makes no pods for it."""
    this, since = Ref.of(child), group.born(child)
    why = failure(
        "Unschedulable", "NoPods", f"{this.kind} {this.name} has no pods: does the controller of {this.kind}s run?"
    )
    return Blocked(why, since) if since else None


def _hindered(state: Active, child: Manifest, pods: int, obstacle: Refusal) -> Active:
    """An attempt whose controller cannot make its pods, and says why."""
    if pods >= state.wanted or (since := group.born(child)) is None:
        return state
    blocked = Blocked(not_created(Ref.of(child), obstacle), since)
    return replace(state, waiting=f"{obstacle.reason}: {obstacle.message}", blocked=blocked)


def not_created(this: Ref, obstacle: Refusal) -> Failure:
    """Why a child has no pods, from the words of whoever would not make them."""
    words = obstacle.message
    class_: FailureClass = "Unschedulable" if "exceeded quota" in words else "Settings"
    remedy = f"kubectl describe {this.kind.lower()} {this.name} shows who refused its pods."
    if "exceeded quota" in words:
        remedy = "Ask for less in resources, or have the namespace's quota raised."
    elif "service account" in words:
        remedy = "Create the ServiceAccount, or correct pod.serviceAccountName."
    return failure(class_, obstacle.reason, f"{this.kind} {this.name} has no pods: {words}", [words[:1000]], remedy)


def _active(work: AnyWork, stage: Stage, child: Manifest, pods: list[Manifest], attempt: int, now: datetime) -> Active:
    running, wanted = sum(map(group.is_running, pods)), work.wanted(stage)
    words = (": ".join(filter(None, group.waiting(pod))) for pod in pods)
    return Active(
        attempt,
        running,
        wanted,
        waiting=next(filter(None, words), "" if pods else WITHOUT_PODS),
        since=min(filter(None, map(group.started, pods)), default=None),
        gathered=group.newest(pods) if running == wanted else None,
        together=max(filter(None, map(group.started, pods)), default=None) if running == wanted else None,
        blocked=next(filter(None, map(group.blocked, pods)), None) if pods else _without_pods(child),
        edited_by=tuple(child["metadata"].get("editors", ())),
        again=min((left for pod in pods if (left := group.overdue_in(pod, now))), default=None),
    )
