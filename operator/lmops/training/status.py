"""The status of a TrainingJob: what was last observed, told as conditions, a ledger and a line for `kubectl get`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from lmops.api import Failure, Result, RunRecord, TrainingJob, TrainingJobStatus
from lmops.api.base import Condition
from lmops.api.status import Display, Phase, Progress, RunProgress, Stage
from lmops.plan import Plan as AnyPlan
from lmops.plan import Ref
from lmops.training.stages import kind_of, ref, share

Plan = AnyPlan[TrainingJobStatus]
ENDED: frozenset[Phase] = frozenset({"Succeeded", "Failed"})
WORKING: dict[Stage, Phase] = {"prepare": "Preparing", "train": "Running", "evaluate": "Evaluating"}
LEDGER = 100
"""How many rows the ledger keeps; the oldest stopped and failed ones go first."""


def expected(status: TrainingJobStatus) -> tuple[Ref, ...]:
    """The children that the ledger says are there."""
    return tuple(Ref(kind_of(run.stage), run.name) for run in status.runs if run.state in ("Pending", "Running"))


@dataclass(frozen=True)
class Standing:
    """Where the job stands, from which all conditions follow."""

    phase: Phase
    reason: str
    message: str
    accepted: bool = True
    display: str = ""
    running: int = 0
    wanted: int = 0


def told(job: TrainingJob, standing: Standing, now: datetime, **changes: Any) -> TrainingJobStatus:
    """The whole new status: the standing told in conditions, the changes, and everything else as it was."""
    new = job.status.model_copy(update=changes)
    return new.model_copy(
        update={
            "phase": standing.phase,
            "conditions": _conditions(job, standing, bool(new.runs), now),
            "observed_generation": job.metadata.generation,
            "display": _display(job.status, new, standing),
            "completion_time": now.replace(microsecond=0) if standing.phase in ENDED else None,
        }
    )


def _display(old: TrainingJobStatus, new: TrainingJobStatus, standing: Standing) -> Display:
    """The line of `kubectl get`. Percent and metric are the progress endpoint's, but where a run starts or ends."""
    shown = {"nodes": f"{standing.running}/{standing.wanted}" if standing.wanted else "", "reason": standing.display}
    if new.progress != old.progress:
        shown["progress"] = f"{new.progress.percent}%"
    if new.best:
        value = (new.evaluation.metrics if new.evaluation else {}).get(new.best.metric, new.best.value)
        shown["metric"] = f"{new.best.metric}={value:.2f}"
    return Display.model_validate({**old.display.model_dump(), **shown})


def _conditions(job: TrainingJob, standing: Standing, born: bool, now: datetime) -> list[Condition]:
    phase = standing.phase
    ended = phase in ENDED
    holds = {
        "Accepted": standing.accepted,
        "Progressing": not ended and phase != "Suspended",
        "Complete": phase == "Succeeded",
        "Failed": phase == "Failed",
        "Suspended": phase == "Suspended",
        "Reconciling": not ended and phase != "Suspended" and not born,
        "Stalled": phase == "Failed",
    }
    before = {condition.type: condition for condition in job.status.conditions}
    return [_condition(before.get(type_), type_, holds[type_], standing, job, now) for type_ in holds]


def _condition(
    before: Condition | None, type_: str, holds: bool, standing: Standing, job: TrainingJob, now: datetime
) -> Condition:
    """A condition whose transition time moves only when it flips. It explains itself when it is not as one expects."""
    status: Literal["True", "False"] = "True" if holds else "False"
    explains = holds != (type_ == "Accepted")
    return Condition(
        type=type_,
        status=status,
        reason=standing.reason if explains else ("Valid" if holds else standing.phase),
        message=standing.message if explains else "",
        last_transition_time=before.last_transition_time if before and before.status == status else now,
        observed_generation=job.metadata.generation,
    )


def entered(runs: list[RunRecord], row: RunRecord) -> list[RunRecord]:
    """The ledger with this row, in place of an earlier state of the same run."""
    rows = list({**{run.name: run for run in runs}, row.name: row}.values())
    while len(rows) > LEDGER:
        rows.remove(next(run for run in rows if run.state in ("Stopped", "Failed")))
    return rows


def row(job: TrainingJob, stage: Stage, attempt: int) -> RunRecord:
    """The ledger's row of an attempt, or a new one."""
    name = ref(job, stage, attempt).name
    known = next((run for run in job.status.runs if run.name == name), None)
    return known or RunRecord(name=name, stage=stage, attempt=attempt, state="Pending")


def worked(runs: list[RunRecord], now: datetime) -> timedelta:
    """How long the job has worked, over all its runs; waiting does not count."""
    spans = [(run.finished_at or now) - run.started_at for run in runs if run.started_at]
    return sum(spans, timedelta())


def started(progress: Progress, run: str, stage: Stage, attempt: int) -> Progress:
    """The progress of a job whose run has just been created: its earlier attempts are forgotten.

    Training goes on where its checkpoint is; the other stages begin again.
    """
    kept = {name: p for name, p in progress.runs.items() if not name.startswith(run.rpartition("-a")[0] + "-a")}
    before = max((p.percent for name, p in progress.runs.items() if name not in kept), default=0)
    begun = RunProgress(attempt=attempt, percent=before if stage == "train" else 0)
    return progress.model_copy(update={"stage": stage, "runs": {**kept, run: begun}, "seconds_remaining": None})


def finished(job: TrainingJob, stage: Stage, attempt: int) -> Progress:
    """The progress of a job whose run has left its result."""
    progress, run = job.status.progress, ref(job, stage, attempt).name
    done = (progress.runs.get(run) or RunProgress(attempt=attempt)).model_copy(
        update={"percent": 100, "seconds_remaining": 0}
    )
    percent = share(job, stage)[1]
    return progress.model_copy(
        update={
            "stage": stage,
            "percent": percent,
            "seconds_remaining": 0 if percent == 100 else None,
            "runs": {**progress.runs, run: done},
        }
    )


def results(result: Result) -> dict[str, Any]:
    """What a stage has made, as fields of the status."""
    parts = ("dataset", "best", "model", "evaluation")
    return {part: value for part in parts if (value := getattr(result, part)) is not None}


def restarting(job: TrainingJob, stage: Stage) -> str:
    """Why the last attempt at a stage ended, and where the next one goes on, in the words of one column."""
    ended = [run for run in job.status.runs if run.stage == stage and run.state in ("Failed", "Stopped")]
    if not ended:
        return ""
    row = ended[-1]
    count = f"restart {job.status.restarts} of {job.spec.retry.restarts}" if row.state == "Failed" else "goes on"
    at = f" from step {row.checkpoint}" if row.checkpoint is not None else ""
    lost = f", {row.steps_lost} step{'s' if row.steps_lost > 1 else ''} lost" if row.steps_lost else ""
    return f"{row.reason}: {count}{at}{lost}"


def told_failure(failure: Failure) -> str:
    """A failure in the words of one column."""
    return f"{failure.reason}: {failure.message}"
