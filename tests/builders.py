"""Resources, pods and endings as the tests like to say them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from lmops.api import Ending, Job, QuantizeJob, TrainingJob
from lmops.api.status import Stage
from lmops.kinds import JOBS, KINDS
from lmops.plan import Manifest, Observed, Plan, Ref
from lmops.settings import Settings

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = Settings(progress_url="http://127.0.0.1:9000")

DATASET = {
    "uri": "pvc://data/prepared",
    "hash": "sha256:00",
    "rowsRead": 10603,
    "dropped": {"duplicate": 2},
    "train": {"rows": 9542, "examples": 9542, "tokens": 270000},
    "validation": {"rows": 1059, "examples": 1059, "tokens": 30000},
}
BEST = {"step": 282, "metric": "f1", "value": 0.838, "path": "pvc://models/reviews/.lmops/jobs/u-1/best"}
MODEL = {"uri": "pvc://models/reviews/0123456789ab", "digest": "sha256:" + "0" * 64, "sizeBytes": 1, "parameters": 2}
EVALUATION = {
    "split": "validation",
    "rows": 1059,
    "metrics": {"f1": 0.838},
    "baseline": {"f1": 0.781},
    "beatsBaseline": True,
}
RESULTS: dict[str, dict[str, Any]] = {
    "prepare": {"dataset": DATASET},
    "train": {"best": BEST},
    "evaluate": {"model": MODEL, "evaluation": EVALUATION},
}


def reconcile(job: Job, observed: Observed, now: datetime, settings: Settings) -> Plan[Any]:
    """What the operator would do."""
    return KINDS[job.kind].reconcile(job, observed, now, settings)


def manifest(job: Job, stage: Stage, attempt: int, settings: Settings) -> Manifest:
    """The child that runs an attempt."""
    return JOBS[job.kind](job, settings).manifest(stage, attempt)


def trainingjob(name: str = "reviews", status: dict[str, Any] | None = None, **spec: Any) -> TrainingJob:
    """A valid TrainingJob; keywords replace whole sections of its spec."""
    sections = {
        "model": {"from": {"uri": "pvc://models/minilm"}, "task": "SequenceClassification"},
        "dataset": {"train": {"uri": "pvc://data/reviews.csv"}},
        "output": {"uri": "pvc://models/reviews"},
        **spec,
    }
    metadata = {"name": name, "namespace": "default", "uid": "u-1", "generation": 1}
    return TrainingJob.model_validate({"metadata": metadata, "spec": sections, "status": status or {}})


def quantizejob(status: dict[str, Any] | None = None, **spec: Any) -> QuantizeJob:
    """A valid QuantizeJob; keywords replace whole sections of its spec."""
    sections = {
        "model": {"from": {"trainingJob": {"name": "reviews"}}},
        "steps": [{"quantize": {"method": "Dynamic"}}],
        "output": {"uri": "pvc://models/small"},
        **spec,
    }
    metadata = {"name": "small", "namespace": "default", "uid": "u-2", "generation": 1}
    return QuantizeJob.model_validate({"metadata": metadata, "spec": sections, "status": status or {}})


def report(**changes: Any) -> dict[str, Any]:
    """What a compression was worth."""
    original = {"format": "safetensors", "sizeBytes": 91_000_000, "parameters": 22_700_000}
    original |= {"nonZeroParameters": 22_700_000}
    return {
        "method": "Dynamic 8 bit",
        "split": "validation",
        "rows": 1061,
        "threads": 1,
        "metric": "f1",
        "original": original,
        "compressed": {**original, "format": "onnx", "sizeBytes": 23_200_000},
        "sizeRatio": 3.92,
        "latencyRatio": 0.5,
        "change": "f1 -0.003",
        "quality": {"value": -0.003, "low": -0.009, "high": 0.002},
        "agreement": {"value": 0.99, "low": 0.98, "high": 1.0},
        "confidence": 0.95,
        "verdict": "Passed",
        "sentence": "3.92x smaller, 2.00x faster, f1 -0.003: passed",
        **changes,
    }


RESULTS["compress"] = {"model": {**MODEL, "uri": "pvc://models/small/0123456789ab"}, "report": report()}


def pod(job: Job, stage: str, attempt: int = 0, index: int = 0, **status: Any) -> Manifest:
    """A pod of an attempt, with this status."""
    child = manifest(job, stage, attempt, SETTINGS)  # type: ignore[arg-type]
    name = f"{child['metadata']['name']}-{index}"
    return {"kind": "Pod", "metadata": {"name": name, "labels": child["metadata"]["labels"]}, "status": status}


def running_pod(job: Job, stage: str, attempt: int = 0, index: int = 0) -> Manifest:
    """A pod that runs since noon."""
    state = {"running": {"startedAt": NOON.isoformat()}}
    return pod(job, stage, attempt, index, phase="Running", containerStatuses=[{"state": state}])


def ended_pod(
    job: Job,
    stage: str,
    attempt: int = 0,
    index: int = 0,
    code: int = 0,
    message: str = "",
    why: str = "",
    **status: Any,
) -> Manifest:
    """A pod that ran and ended, with an exit code and a termination message."""
    end = {"exitCode": code, "message": message, "reason": why or ("Error" if code else "Completed")}
    state = {"terminated": {**end, "startedAt": NOON.isoformat(), "finishedAt": NOON.isoformat()}}
    phase = "Failed" if code else "Succeeded"
    return pod(job, stage, attempt, index, **{"phase": phase, "containerStatuses": [{"state": state}], **status})


def said(stage: str, attempt: int = 0, checkpoint: int | None = None, **what: Any) -> str:
    """A termination message: `result`, `failure` or `stopped`."""
    ending = Ending.model_validate({"stage": stage, "attempt": attempt, "checkpoint": checkpoint, **what})
    return json.dumps(ending.manifest())


def succeeded_pod(job: TrainingJob, stage: str, attempt: int = 0) -> Manifest:
    """A pod that has left the result of its stage."""
    return ended_pod(job, stage, attempt, message=said(stage, attempt, result=RESULTS[stage]))


class World:
    """A cluster that executes plans at once, and whose pods do what a test says."""

    def __init__(self, job: TrainingJob, settings: Settings = SETTINGS) -> None:
        self.job, self.settings, self.now = job, settings, NOON
        self.children: dict[Ref, Manifest] = {}
        self.pods: dict[str, Manifest] = {}
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.events: list[tuple[str, str]] = []

    def reconcile(self) -> Plan[Any]:
        """One reconcile, executed."""
        plan = reconcile(self.job, Observed(dict(self.children), tuple(self.pods.values())), self.now, self.settings)
        for child in plan.create:
            self.children[Ref.of(child)] = child
            self.created.append(child["metadata"]["name"])
        for ref in plan.delete:
            self.children.pop(ref, None)
            self.deleted.append(ref.name)
            self.pods = {k: p for k, p in self.pods.items() if p["metadata"]["labels"]["lmops.dev/run"] != ref.name}
        self.events += [(event.type, event.reason) for event in plan.events]
        self.job = self.job.model_copy(update={"status": plan.status})
        return plan

    def settle(self) -> None:
        """Reconciles until nothing changes any more."""
        for _ in range(50):
            before = (self.job.status, len(self.created), len(self.deleted))
            self.reconcile()
            if before == (self.job.status, len(self.created), len(self.deleted)):
                return
        raise AssertionError("the reconcile does not settle")

    def put(self, *pods: Manifest) -> None:
        """Pods appear, or change."""
        self.pods |= {pod["metadata"]["name"]: pod for pod in pods}
        self.settle()

    def pass_time(self, **delta: float) -> None:
        """Time passes."""
        self.now += timedelta(**delta)

    def complete(self, *stages: str, attempt: int = 0) -> None:
        """Stages run and leave their results."""
        for stage in stages:
            self.settle()
            self.put(running_pod(self.job, stage, attempt))
            self.put(succeeded_pod(self.job, stage, attempt))
