"""The stages of a TrainingJob, in their order: what each one wants created."""

from __future__ import annotations

from lmops.api import Resolved, Run, RunId, TrainingJob
from lmops.api.status import Stage
from lmops.api.trainingjob import RecipeSpec
from lmops.parts import (
    QUEUE,
    VOLUMES,
    Program,
    child_name,
    claims,
    labels,
    owned,
    pod_template,
    progress_access,
    reaches_hub,
)
from lmops.plan import Manifest, Ref
from lmops.settings import Settings
from lmops.training.backends import pytorchjob

STAGES: tuple[Stage, ...] = ("prepare", "train", "evaluate")
DONE_AFTER: dict[Stage, int] = {"prepare": 5, "train": 95, "evaluate": 100}
"""Percent of the whole job that is done when a stage is."""


def stages(job: TrainingJob) -> tuple[Stage, ...]:
    """The stages of a job. A trainer of its own prepares and evaluates as it likes."""
    return ("train",) if job.spec.trainer else STAGES


def share(job: TrainingJob, stage: Stage) -> tuple[int, int]:
    """The percent of the whole job at which a stage begins and ends."""
    if job.spec.trainer:
        return 0, 100
    before = STAGES.index(stage)
    return DONE_AFTER[STAGES[before - 1]] if before else 0, DONE_AFTER[stage]


def ref(job: TrainingJob, stage: Stage, attempt: int) -> Ref:
    """The child that an attempt at a stage has."""
    return Ref(kind_of(stage), child_name(job.metadata.name, stage, attempt))


def kind_of(stage: Stage) -> str:
    """The kind of child that runs a stage."""
    return pytorchjob.KIND if stage == "train" else "Job"


def wanted(job: TrainingJob, stage: Stage) -> int:
    """The number of pods that run a stage together."""
    return job.spec.resources.nodes if stage == "train" else 1


def queue_of(job: TrainingJob, settings: Settings) -> str | None:
    """The Kueue queue that the runs of a job wait in."""
    return job.spec.queue_name or settings.defaults.queue_name


def manifest(job: TrainingJob, stage: Stage, attempt: int, settings: Settings) -> Manifest:
    """The child that runs an attempt at a stage. What has a queue is born held back: Kueue lets it go."""
    queue = queue_of(job, settings)
    metadata, pods = _metadata(job, stage, attempt, queue), template(job, stage, attempt, settings)
    if stage == "train":
        return pytorchjob.render(job, metadata, pods, held=queue is not None)
    held = {"suspend": True} if queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"backoffLimit": 0, **held, "template": pods},
    }


def _metadata(job: TrainingJob, stage: Stage, attempt: int, queue: str | None) -> Manifest:
    name = ref(job, stage, attempt).name
    ours = labels(job.kind, job.metadata.name, name, stage, attempt)
    return owned(job.kind, job.metadata, name, ours | ({QUEUE: queue} if queue else {}))


def document(job: TrainingJob, stage: Stage, attempt: int) -> str:
    """All that our runtime is told: the spec, which run it is, and what earlier stages have made."""
    return Run(
        spec=RecipeSpec.model_construct(**dict(job.spec)),
        run=RunId(job=job.metadata.name, uid=job.metadata.uid, stage=stage, attempt=attempt),
        resolved=Resolved(dataset=job.status.dataset, best=job.status.best if stage == "evaluate" else None),
    ).document()


def template(job: TrainingJob, stage: Stage, attempt: int, settings: Settings) -> Manifest:
    """The pod of an attempt."""
    name = ref(job, stage, attempt).name
    ours = labels(job.kind, job.metadata.name, name, stage, attempt)
    pod = job.spec.pod.over(settings.defaults.pod)
    return progress_access(pod_template(program(job, stage, attempt, settings), ours, pod, settings), settings)


def program(job: TrainingJob, stage: Stage, attempt: int, settings: Settings) -> Program:
    """What the pods of an attempt run. Preparation needs no accelerator, evaluation at most one."""
    per_node, secret = job.spec.resources.per_node, job.spec.credentials or settings.defaults.credentials
    limits = {"memory": per_node.memory} if per_node.memory else {}
    if (accelerator := job.spec.resources.accelerator) and stage != "prepare":
        count = accelerator.per_node if stage == "train" else 1
        limits[accelerator.name or settings.defaults.accelerator] = str(count)
    name, own = ref(job, stage, attempt).name, job.spec.trainer
    return Program(
        container=pytorchjob.CONTAINER if stage == "train" else "trainer",
        image=own.image if own else settings.trainer_image,
        command=own.command if own else ["python", "-m", "lmops_trainer", stage],
        arguments=[] if own else [document(job, stage, attempt)],
        env={**(_places(job) if own else _quiet(job)), **_progress(job, name, settings), **_threads(job, stage)},
        secret=secret.secret_name if secret else None,
        limits=limits,
        requests={"cpu": per_node.cpu} if per_node.cpu else {},
        claims=mounted(job),
        is_ours=own is None,
    )


def mounted(job: TrainingJob) -> list[str]:
    """The claims that the pods of a job mount."""
    own = job.spec.trainer.volumes if job.spec.trainer else []
    return sorted({*claims(job.spec), *own})


def _quiet(job: TrainingJob) -> dict[str, str]:
    """What our own trainer is told: offline unless the job names the hub, and that it reports by itself."""
    offline = {} if reaches_hub(job.spec) else {"HF_HUB_OFFLINE": "1"}
    return {**offline, "DISABLE_KUBEFLOW_INTEGRATION": "TRUE"}


def _places(job: TrainingJob) -> dict[str, str]:
    """What a trainer of the user's own is told: where its output goes, and what its attempts share."""
    checkpoints = f"{job.spec.workspace_uri.rstrip('/')}/jobs/{job.metadata.uid}/checkpoints"
    return {"LMOPS_OUTPUT": _path(job.spec.output.uri), "LMOPS_CHECKPOINTS": _path(checkpoints)}


def _path(uri: str) -> str:
    return f"{VOLUMES}/{uri.removeprefix('pvc://')}"


def _progress(job: TrainingJob, run: str, settings: Settings) -> dict[str, str]:
    """Where the run posts its progress, in the variables that Hugging Face's own reporter reads."""
    if not settings.tells_progress:
        return {}
    path = f"namespaces/{job.metadata.namespace}/trainingjobs/{job.metadata.name}/runs/{run}"
    return {"KUBEFLOW_TRAINER_SERVER_URL": f"{settings.progress_url}/{path}"}


def _threads(job: TrainingJob, stage: Stage) -> dict[str, str]:
    """One thread a core, shared among the processes of a pod."""
    if (cpu := job.spec.resources.per_node.cpu) is None:
        return {}
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    processes = job.spec.resources.processes if stage == "train" else 1
    return {"OMP_NUM_THREADS": str(max(1, int(cores // processes)))}
