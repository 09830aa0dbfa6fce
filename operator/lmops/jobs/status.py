"""The status of a job: what was last observed, told as conditions, a ledger and a line for `kubectl get`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from lmops.api import Failure, Job, JobStatus, Result, RunRecord
from lmops.api.base import Condition
from lmops.api.status import Display, Phase, Progress, RunProgress, Stage
from lmops.jobs.work import AnyWork, Standing
from lmops.plan import Plan as AnyPlan

Plan = AnyPlan[JobStatus]
ENDED: frozenset[Phase] = frozenset({"Succeeded", "Failed"})
LEDGER = 100
"""How many rows the ledger keeps; the oldest stopped and failed ones go first."""


def told(work: AnyWork, standing: Standing, now: datetime, **changes: Any) -> JobStatus:
    """The whole new status: the standing told in conditions, the changes, and everything else as it was."""
    new = work.job.status.model_copy(update=changes)
    return new.model_copy(
        update={
            "phase": standing.phase,
            "conditions": _conditions(work, standing, bool(new.runs), now),
            "observed_generation": work.job.metadata.generation,
            "display": _display(work, new, standing),
            "completion_time": now.replace(microsecond=0) if standing.phase in ENDED else None,
        }
    )


def _display(work: AnyWork, new: JobStatus, standing: Standing) -> Display:
    """The line of `kubectl get`. Percent and metric are the progress endpoint's, but where a run starts or ends."""
    shown = {"nodes": f"{standing.running}/{standing.wanted}" if standing.wanted else "", "reason": standing.display}
    old = work.job.status
    if new.progress != old.progress:
        shown["progress"] = f"{new.progress.percent}%"
    return type(old.display).model_validate({**old.display.model_dump(), **shown, **work.shown(new)})


def _conditions(work: AnyWork, standing: Standing, born: bool, now: datetime) -> list[Condition]:
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
    before = {condition.type: condition for condition in work.job.status.conditions}
    return [_condition(before.get(type_), type_, holds[type_], standing, work.job, now) for type_ in holds]


def _condition(
    before: Condition | None, type_: str, holds: bool, standing: Standing, job: Job, now: datetime
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


def row(work: AnyWork, stage: Stage, attempt: int) -> RunRecord:
    """The ledger's row of an attempt, or a new one."""
    name = work.ref(stage, attempt).name
    known = next((run for run in work.job.status.runs if run.name == name), None)
    return known or RunRecord(name=name, stage=stage, attempt=attempt, state="Pending")


def worked(runs: list[RunRecord], now: datetime) -> timedelta:
    """How long the job has worked, over all its runs; waiting does not count."""
    spans = [(run.finished_at or now) - run.started_at for run in runs if run.started_at]
    return sum(spans, timedelta())


def started(work: AnyWork, run: str, stage: Stage, attempt: int) -> Progress:
    """The progress of a job whose run has just been created: its earlier attempts are forgotten.

    What resumes goes on where its checkpoint is; the other stages begin again.
    """
    progress = work.job.status.progress
    kept = {name: p for name, p in progress.runs.items() if not name.startswith(run.rpartition("-a")[0] + "-a")}
    before = max((p.percent for name, p in progress.runs.items() if name not in kept), default=0)
    begun = RunProgress(attempt=attempt, percent=before if stage in work.RESUMED else 0)
    return progress.model_copy(update={"stage": stage, "runs": {**kept, run: begun}, "seconds_remaining": None})


def finished(work: AnyWork, stage: Stage, attempt: int) -> Progress:
    """The progress of a job whose run has left its result."""
    progress, run = work.job.status.progress, work.ref(stage, attempt).name
    done = (progress.runs.get(run) or RunProgress(attempt=attempt)).model_copy(
        update={"percent": 100, "seconds_remaining": 0}
    )
    percent = work.share(stage)[1]
    return progress.model_copy(
        update={
            "stage": stage,
            "percent": percent,
            "seconds_remaining": 0 if percent == 100 else None,
            "runs": {**progress.runs, run: done},
        }
    )


def results(before: JobStatus, result: Result) -> dict[str, Any]:
    """What a stage has made, as fields of the status."""
    parts = type(before).model_fields.keys() & type(result).model_fields.keys()
    return {part: value for part in parts if (value := getattr(result, part)) is not None}


def restarting(work: AnyWork, stage: Stage) -> str:
    """Why the last attempt at a stage ended, and where the next one goes on, in the words of one column."""
    ended = [run for run in work.job.status.runs if run.stage == stage and run.state in ("Failed", "Stopped")]
    if not ended:
        return ""
    row = ended[-1]
    count = (
        f"restart {work.job.status.restarts} of {work.job.spec.retry.restarts}" if row.state == "Failed" else "goes on"
    )
    at = f" from step {row.checkpoint}" if row.checkpoint is not None else ""
    lost = f", {row.steps_lost} step{'s' if row.steps_lost > 1 else ''} lost" if row.steps_lost else ""
    return f"{row.reason}: {count}{at}{lost}"


def told_failure(failure: Failure) -> str:
    """A failure in the words of one column."""
    return f"{failure.reason}: {failure.message}"
