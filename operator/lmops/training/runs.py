"""Where one stage stands: its ledger row, its child and its pods, read into one of six answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lmops.api import Failure, Result, RunRecord, TrainingJob
from lmops.api.base import GROUP
from lmops.api.status import Stage
from lmops.plan import Manifest, Observed, Ref, Refusal
from lmops.training.backends import pytorchjob
from lmops.training.failure import CLASSES, ending_of, failure, failure_of, terminated_of
from lmops.training.stages import ref

RESULT_WITHIN = timedelta(seconds=60)
"""How long after its end a run's result may take to be seen."""
OVERDUE = timedelta(minutes=2)
"""How long after its grace a pod may stay on a node that no longer answers."""


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
class Active:
    """The attempt is there: pods run, or wait for something."""

    attempt: int
    running: int
    wanted: int
    waiting: str = ""
    since: datetime | None = None
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
    again: timedelta = timedelta(seconds=5)


State = Finished | Done | Wanted | Active | Lost | Leaving


def look(job: TrainingJob, stage: Stage, observed: Observed, now: datetime) -> State:
    """Where a stage stands. What the ledger calls ended is never read from pods again."""
    row = last(job.status.runs, stage)
    attempt = max([row.attempt if row else 0, *_attempts(job, stage, observed)])
    if row and row.state == "Succeeded":
        return Finished()
    child = observed.children.get(ref(job, stage, attempt))
    pods = pods_of(observed, ref(job, stage, attempt).name)
    if row and row.attempt == attempt and row.state in ("Failed", "Stopped"):
        return _leaving(ref(job, stage, attempt), child, pods, attempt, now)
    if child is None:
        if row and row.attempt == attempt and row.state == "Running":
            return Lost(attempt, _deleted(ref(job, stage, attempt)), reached(job, row.name))
        return Wanted(attempt, observed.refused.get(ref(job, stage, attempt)))
    return _read(job, child, pods, attempt, now)


def last(runs: list[RunRecord], stage: Stage) -> RunRecord | None:
    """The ledger's last row of a stage."""
    return max((run for run in runs if run.stage == stage), key=lambda run: run.attempt, default=None)


def pods_of(observed: Observed, run: str) -> list[Manifest]:
    """The pods of a run, in the order of their names."""
    mine = [pod for pod in observed.pods if pod["metadata"].get("labels", {}).get(f"{GROUP}/run") == run]
    return sorted(mine, key=lambda pod: pod["metadata"]["name"])


def uncounted(failure: Failure) -> bool:
    """Whether a failure leaves the retry budget alone."""
    return CLASSES[failure.class_].then == "resumes"


def _attempts(job: TrainingJob, stage: Stage, observed: Observed) -> list[int]:
    kind = ref(job, stage, 0).kind
    return [
        int(labels[f"{GROUP}/attempt"])
        for (k, _), child in observed.children.items()
        if k == kind and (labels := child["metadata"].get("labels", {})).get(f"{GROUP}/stage") == stage
    ]


def _leaving(this: Ref, child: Manifest | None, pods: list[Manifest], attempt: int, now: datetime) -> Leaving | Wanted:
    staying = [pod for pod in pods if not _overdue(pod, now)]
    gone_with_its_node = child is not None and bool(pods) and not staying and "deletionTimestamp" in child["metadata"]
    if (child is None or gone_with_its_node) and not staying:
        return Wanted(attempt + 1)
    return Leaving(attempt, (this,) if child and "deletionTimestamp" not in child["metadata"] else ())


def _overdue(pod: Manifest, now: datetime) -> bool:
    deletion = pod["metadata"].get("deletionTimestamp")
    return deletion is not None and now > datetime.fromisoformat(deletion) + OVERDUE


def _deleted(this: Ref) -> Failure:
    return failure("WorkerLost", "Deleted", f"{this.kind} {this.name} was deleted while it ran.", remedy="Nothing.")


def _read(job: TrainingJob, child: Manifest, pods: list[Manifest], attempt: int, now: datetime) -> State:
    """An attempt that the ledger does not call ended, read from what it left and what it runs."""
    endings = [ending for pod in pods if (ending := ending_of(pod)) and ending.attempt == attempt]
    checkpoint = max(
        (e.checkpoint for e in endings if e.checkpoint is not None), default=reached(job, child["metadata"]["name"])
    )
    if result := next((e.result for e in endings if e.result), None):
        return Done(attempt, result, checkpoint, _ended(pods))
    if failures := [f for pod in pods if (f := failure_of(pod))]:
        return Lost(attempt, min(failures, key=_consequence), checkpoint, _ended(pods))
    this = Ref.of(child)
    if "deletionTimestamp" in child["metadata"]:
        return Lost(attempt, _deleted(this), checkpoint)
    end, active = end_of(child), _active(job, child, pods, attempt)
    if not end or (end["type"] == "Succeeded" and active.running):
        return active
    left = RESULT_WITHIN - (now - datetime.fromisoformat(end.get("lastTransitionTime", now.isoformat())))
    if left > timedelta(0):  # what its pods say may come later than what its controller says
        return Active(attempt, active.running, active.wanted, "waiting for its result", again=left)
    return Lost(attempt, _without_words(this, end), checkpoint, _ended(pods))


def _without_words(this: Ref, end: Manifest) -> Failure:
    """The failure of a run whose pods have said nothing."""
    if end["type"] == "Failed":
        return failure("WorkerLost", end.get("reason", "Failed"), end.get("message", ""))
    return failure("Code", "ResultMissing", f"{this.kind} {this.name} succeeded, but left no result.")


def _ended(pods: list[Manifest]) -> datetime | None:
    """When the last of them ended; `None` while one runs."""
    ends = [str(terminated_of(pod).get("finishedAt") or "") for pod in pods]
    return max(map(datetime.fromisoformat, ends)) if ends and all(ends) else None


def _consequence(failure: Failure) -> int:
    """Where several pods fail, a lost connection is mostly the echo of another's end."""
    return {"Communication": 1, "WorkerLost": 1, "Preempted": 2}.get(failure.class_, 0)


def reached(job: TrainingJob, run: str) -> int | None:
    """The last checkpoint that a run has reported."""
    progress = job.status.progress.runs.get(run)
    return progress.checkpoint if progress else None


def end_of(child: Manifest) -> Manifest:
    """The condition that ended a child, `{}` while it goes on."""
    if child["kind"] == pytorchjob.KIND:
        return pytorchjob.read(child)
    ends = {"Failed": "Failed", "Complete": "Succeeded"}
    conditions = child.get("status", {}).get("conditions", [])
    return next(({**c, "type": ends[c["type"]]} for c in conditions if c["type"] in ends and c["status"] == "True"), {})


def _active(job: TrainingJob, child: Manifest, pods: list[Manifest], attempt: int) -> Active:
    running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
    wanted = job.spec.resources.nodes if child["kind"] == pytorchjob.KIND else 1
    starts = [_started(pod) for pod in pods]
    since = min((start for start in starts if start), default=None)
    waiting = next((words for pod in pods if (words := _waiting(pod))), "" if pods else "waiting for its pods")
    return Active(attempt, len(running), wanted, waiting, since)


def _started(pod: Manifest) -> datetime | None:
    state = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {})
    start = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return datetime.fromisoformat(start) if start else None


def _waiting(pod: Manifest) -> str:
    """What a pod that does not run waits for, in the scheduler's or the kubelet's own words."""
    status = pod["status"]
    if status.get("phase") not in (None, "Pending"):
        return ""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    waiting = (status.get("containerStatuses") or [{}])[0].get("state", {}).get("waiting")
    if waiting:
        return ": ".join(filter(None, (waiting.get("reason", ""), waiting.get("message", ""))))
    return "ContainerCreating"
