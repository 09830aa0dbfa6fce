"""A job in its second attempt at training, and what its pods post."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lmops.api import TrainingJob, TrainingJobStatus
from lmops.cluster import RefusedError
from lmops.jobs.work import AnyWork
from lmops.patches import merged
from lmops.plan import Key, Manifest
from lmops.progress.advance import Post
from lmops.progress.endpoint import ConflictError
from lmops.progress.tokens import Holder
from lmops.settings import Settings
from lmops.training.work import Training

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=10)
SPEC = {
    "model": {"from": {"uri": "pvc://m/x"}, "task": "SequenceClassification"},
    "dataset": {"train": {"uri": "pvc://d/x"}},
    "output": {"uri": "pvc://m/y"},
}


def status(**changes: Any) -> TrainingJobStatus:
    """A job in its second attempt at training."""
    runs = [
        {"name": "a-prepare-a0", "stage": "prepare", "state": "Succeeded"},
        {"name": "a-train-a0", "stage": "train", "state": "Failed"},
        {"name": "a-train-a1", "stage": "train", "attempt": 1, "state": "Running"},
    ]
    return TrainingJobStatus.model_validate({"runs": runs, "progress": {"stage": "train", "percent": 5}, **changes})


def job(status: TrainingJobStatus, **spec: Any) -> TrainingJob:
    """The job."""
    metadata = {"name": "a", "uid": "u-1"}
    return TrainingJob.model_validate({"metadata": metadata, "spec": {**SPEC, **spec}, "status": status.manifest()})


def work(job: TrainingJob) -> AnyWork:
    """The job with what its kind knows."""
    return Training(job, Settings())


def body(percent: float = 50, **metrics: Any) -> dict[str, Any]:
    """What a pod sends."""
    told = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return {"trainerStatus": {"progressPercentage": percent, "estimatedRemainingSeconds": 46, "metrics": told}}


def post(percent: float = 50, **metrics: Any) -> Post:
    """The same, as it is read."""
    return Post.model_validate(body(percent, **metrics))


def reported(step: int, at: datetime = NOON) -> dict[str, Any]:
    """The progress of a run that has reported a step."""
    run = {"attempt": 1, "percent": step, "step": step, "steps": 100, "updatedAt": at}
    return {"stage": "train", "percent": 5, "updatedAt": at, "runs": {"a-train-a1": run}}


class Shelf:
    """Jobs in memory. `conflicts` are the writes that come too late."""

    def __init__(self, status: TrainingJobStatus, conflicts: int = 0) -> None:
        self.job = job(status)
        self.conflicts, self.reads = conflicts, 0
        self.patches: list[dict[str, Any]] = []

    async def read(self, job: Key) -> tuple[AnyWork, str]:
        self.reads += 1
        return {Key("TrainingJob", "default", "a"): (work(self.job), "7")}[job]

    async def write(self, job: Key, status: dict[str, Any], version: str) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError
        self.patches.append(status)


HOLDER = Holder("default", "a-train-a1-master-0", "p-1")
OWNERS: dict[str, Manifest] = {
    "TrainingJob": {"apiVersion": "lmops.dev/v1alpha1", "kind": "TrainingJob", "name": "a", "uid": "u-1"},
    "PyTorchJob": {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "a-train-a1", "uid": "c-1"},
}


def made(kind: str, name: str, uid: str, owner: Manifest | None = None) -> Manifest:
    """An object with its controller."""
    references = [{**owner, "controller": True}] if owner else []
    metadata = {"name": name, "namespace": "default", "uid": uid, "ownerReferences": references}
    return {"kind": kind, "metadata": metadata}


def chain() -> list[Manifest]:
    """A pod, its workload, and the job of both."""
    return [
        made("Pod", HOLDER.pod, HOLDER.uid, OWNERS["PyTorchJob"]),
        made("PyTorchJob", "a-train-a1", "c-1", OWNERS["TrainingJob"]),
        {**job(status()).manifest(), "kind": "TrainingJob"},
    ]


class Objects:
    """A cluster of a few objects, and whose tokens are whose. What is in `troubles` is raised, one at a request."""

    def __init__(self, *manifests: Manifest, **tokens: Holder) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.tokens, self.requests, self.version = tokens, list[str](), 0
        self.troubles: list[Exception] = []
        for manifest in manifests:
            self._put(manifest)

    async def serves(self, kind: str) -> bool:
        """Everything is installed here."""
        return True

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        self._meet(f"get {kind}")
        if (kind, namespace, name) not in self.objects:
            raise RefusedError(404, "NotFound", f"{kind} {name} not found")
        return self.objects[kind, namespace, name]

    async def create(self, manifest: Manifest) -> Manifest:
        self._meet(f"create {manifest['kind']}")
        if manifest["kind"] == "TokenReview":
            return {**manifest, "status": self._review(manifest["spec"]["token"])}
        return self._put(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        self._meet(f"replace {manifest['kind']}")
        metadata = manifest["metadata"]
        self._check(manifest["kind"], metadata["namespace"], metadata["name"], metadata["resourceVersion"])
        return self._put(manifest)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Manifest, version: str) -> Manifest:
        self._meet(f"patch {kind}")
        found = self._check(kind, namespace, name, version)
        return self._put({**found, "status": merged(found["status"], patch)})

    def _meet(self, request: str) -> None:
        self.requests.append(request)
        if self.troubles:
            raise self.troubles.pop(0)

    def _check(self, kind: str, namespace: str, name: str, version: str) -> Manifest:
        found = self.objects[kind, namespace, name]
        if found["metadata"]["resourceVersion"] != version:
            raise RefusedError(409, "Conflict", "the object has been modified")
        return found

    def _put(self, manifest: Manifest) -> Manifest:
        self.version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self.version)}
        kept = {**manifest, "metadata": metadata}
        self.objects[manifest["kind"], metadata["namespace"], metadata["name"]] = kept
        return kept

    def _review(self, token: str) -> Manifest:
        if (holder := self.tokens.get(token)) is None:
            return {"authenticated": False}
        extra = {f"authentication.kubernetes.io/pod-{part}": [getattr(holder, of)] for part, of in PARTS}
        user = {"username": f"system:serviceaccount:{holder.namespace}:default", "extra": extra}
        return {"authenticated": True, "audiences": ["lmops.dev"], "user": user}


PARTS = (("name", "pod"), ("uid", "uid"))
