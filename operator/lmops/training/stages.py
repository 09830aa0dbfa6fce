"""The stages of a TrainingJob, in their order: what each one wants created."""

from __future__ import annotations

from lmops.api import Resolved, Run, RunId, TrainingJob
from lmops.api.status import Stage
from lmops.parts import child_name, claims, labels, owned, pod_template, reaches_hub
from lmops.plan import Manifest, Ref
from lmops.settings import Settings
from lmops.training.backends import pytorchjob

STAGES: tuple[Stage, ...] = ("prepare", "train", "evaluate")
DONE_AFTER: dict[Stage, int] = {"prepare": 5, "train": 95, "evaluate": 100}
"""Percent of the whole job that is done when a stage is."""


def ref(job: TrainingJob, stage: Stage, attempt: int) -> Ref:
    """The child that an attempt at a stage has."""
    return Ref(kind_of(stage), child_name(job.metadata.name, stage, attempt))


def kind_of(stage: Stage) -> str:
    """The kind of child that runs a stage."""
    return pytorchjob.KIND if stage == "train" else "Job"


def manifest(job: TrainingJob, stage: Stage, attempt: int, settings: Settings) -> Manifest:
    """The child that runs an attempt at a stage."""
    if stage == "train":
        return pytorchjob.render(job, metadata(job, stage, attempt), template(job, stage, attempt, settings))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(job, stage, attempt),
        "spec": {"backoffLimit": 0, "template": template(job, stage, attempt, settings)},
    }


def metadata(job: TrainingJob, stage: Stage, attempt: int) -> Manifest:
    """The metadata of an attempt's child."""
    name = ref(job, stage, attempt).name
    return owned(job.kind, job.metadata, name, labels(job.kind, job.metadata.name, name, stage, attempt))


def document(job: TrainingJob, stage: Stage, attempt: int) -> str:
    """All that the runtime is told: the spec, which run it is, and what earlier stages have made."""
    return Run(
        spec=job.spec,
        run=RunId(job=job.metadata.name, uid=job.metadata.uid, stage=stage, attempt=attempt),
        resolved=Resolved(dataset=job.status.dataset, best=job.status.best if stage == "evaluate" else None),
    ).document()


def template(job: TrainingJob, stage: Stage, attempt: int, settings: Settings) -> Manifest:
    """The pod of an attempt. Preparation needs no accelerator, evaluation at most one."""
    name = ref(job, stage, attempt).name
    share = job.spec.resources.per_node
    limits = {"memory": share.memory} if share.memory else {}
    if (accelerator := job.spec.resources.accelerator) and stage != "prepare":
        limits[accelerator.name] = str(accelerator.per_node if stage == "train" else 1)
    return pod_template(
        container=pytorchjob.CONTAINER if stage == "train" else "trainer",
        image=settings.trainer_image,
        command=["python", "-m", "lmops_trainer", stage],
        argument=document(job, stage, attempt),
        labels=labels(job.kind, job.metadata.name, name, stage, attempt),
        claims=claims(job.spec),
        settings=settings,
        env={**_hub(job), **_progress(job, name, settings), **_threads(job, stage)},
        secret=job.spec.credentials.secret_name if job.spec.credentials else None,
        resources=limits,
        requests={"cpu": share.cpu} if share.cpu else {},
    )


def _hub(job: TrainingJob) -> dict[str, str]:
    """Offline, unless the job itself names the hub."""
    return {} if reaches_hub(job.spec) else {"HF_HUB_OFFLINE": "1"}


def _progress(job: TrainingJob, run: str, settings: Settings) -> dict[str, str]:
    """Where the run posts its progress. Hugging Face's own reporter speaks the same protocol, so it is kept quiet."""
    quiet = {"DISABLE_KUBEFLOW_INTEGRATION": "TRUE"}
    if not settings.progress_url:
        return quiet
    path = f"namespaces/{job.metadata.namespace}/trainingjobs/{job.metadata.name}/runs/{run}"
    return {**quiet, "KUBEFLOW_TRAINER_SERVER_URL": f"{settings.progress_url}/{path}"}


def _threads(job: TrainingJob, stage: Stage) -> dict[str, str]:
    """One thread a core, shared among the processes of a pod."""
    if (cpu := job.spec.resources.per_node.cpu) is None:
        return {}
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    processes = job.spec.resources.processes if stage == "train" else 1
    return {"OMP_NUM_THREADS": str(max(1, int(cores // processes)))}
