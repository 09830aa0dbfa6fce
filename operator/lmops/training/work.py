"""The work of a TrainingJob: prepare, train, evaluate; or a trainer of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lmops.api import Failure, JobStatus, Resolved, Run, RunId, TrainingJob, TrainingJobStatus
from lmops.api.status import Phase, Stage
from lmops.api.trainingjob import RecipeSpec
from lmops.jobs.backends import pytorchjob
from lmops.jobs.work import Standing, Work
from lmops.parts import VOLUMES, Program, claims, limits, offline, progress_url, threads
from lmops.plan import Manifest, Observed
from lmops.training.policies import refusal

STAGES: tuple[Stage, ...] = ("prepare", "train", "evaluate")
DONE_AFTER: dict[Stage, int] = {"prepare": 5, "train": 95, "evaluate": 100}
"""Percent of the whole job that is done when a stage is."""


class Training(Work[TrainingJob]):
    """A TrainingJob at work."""

    PHASES: ClassVar[Mapping[Stage, Phase]] = {"prepare": "Preparing", "train": "Running", "evaluate": "Evaluating"}
    RESUMED: ClassVar[frozenset[Stage]] = frozenset({"train"})

    @property
    def is_ours(self) -> bool:
        """Whether our own trainer runs it."""
        return self.job.spec.trainer is None

    @property
    def metric(self) -> str | None:
        """What chooses the best checkpoint."""
        return self.job.spec.evaluation.metric

    def stages(self) -> tuple[Stage, ...]:
        """Its stages. A trainer of its own prepares and evaluates as it likes."""
        return STAGES if self.is_ours else ("train",)

    def share(self, stage: Stage) -> tuple[int, int]:
        """The percent of the whole job at which a stage begins and ends."""
        if not self.is_ours:
            return 0, 100
        before = STAGES.index(stage)
        return DONE_AFTER[STAGES[before - 1]] if before else 0, DONE_AFTER[stage]

    def refusal(self, observed: Observed) -> Failure | None:
        """What is wrong with the job before anything of it starts."""
        return refusal(self.job, document(self.job, "prepare", 0) if self.is_ours else "", mounted(self.job), observed)

    def backend(self, stage: Stage) -> str:
        """A PyTorchJob trains."""
        return pytorchjob.KIND if stage == "train" else super().backend(stage)

    def wanted(self, stage: Stage) -> int:
        """The nodes train together."""
        return self.job.spec.resources.nodes if stage == "train" else 1

    def workload(self, stage: Stage, metadata: Manifest, template: Manifest, held: bool) -> Manifest:
        """torchrun on the nodes, and a Job for the other stages."""
        if stage != "train":
            return super().workload(stage, metadata, template, held)
        resources = self.job.spec.resources
        return pytorchjob.render(metadata, template, resources.nodes, resources.processes, held)

    def program(self, stage: Stage, attempt: int) -> Program:
        """What the pods of an attempt run. Preparation needs no accelerator, evaluation at most one."""
        job, settings = self.job, self.settings
        spec, own = job.spec, job.spec.trainer
        secret = spec.credentials or settings.defaults.credentials
        accelerators = {"prepare": 0, "train": None, "evaluate": 1}[stage]
        processes = spec.resources.processes if stage == "train" else 1
        return Program(
            container=pytorchjob.CONTAINER if stage == "train" else "trainer",
            image=own.image if own else settings.trainer_image,
            command=own.command if own else ["python", "-m", "lmops_trainer", stage],
            arguments=[] if own else [document(job, stage, attempt)],
            env={
                **(_places(job) if own else offline(spec)),
                **progress_url("trainingjobs", job.metadata, self.ref(stage, attempt).name, settings),
                **threads(spec.resources, processes),
            },
            secret=secret.secret_name if secret else None,
            limits=limits(spec.resources, settings, accelerators),
            requests={"cpu": spec.resources.per_node.cpu} if spec.resources.per_node.cpu else {},
            claims=mounted(job),
            is_ours=own is None,
        )

    def shown(self, status: JobStatus) -> dict[str, str]:
        """The leading metric of the best checkpoint, or of the model."""
        if not isinstance(status, TrainingJobStatus) or not (best := status.best):
            return {}
        value = (status.evaluation.metrics if status.evaluation else {}).get(best.metric, best.value)
        return {"metric": f"{best.metric}={value:.2f}"}

    def verdict(self) -> Standing:
        """The model is published and measured; one that does not beat a linear model is said to be so."""
        evaluation = self.job.status.evaluation
        verdict = (evaluation.verdict if evaluation else None) or f"The output is at {self.job.spec.output.uri}."
        shown = verdict if evaluation and evaluation.beats_baseline is False else ""
        return Standing("Succeeded", "Completed", verdict, display=shown)


def document(job: TrainingJob, stage: Stage, attempt: int) -> str:
    """All that our runtime is told: the spec, which run it is, and what earlier stages have made."""
    return Run(
        spec=RecipeSpec.model_construct(**dict(job.spec)),
        run=RunId(job=job.metadata.name, uid=job.metadata.uid, stage=stage, attempt=attempt),
        resolved=Resolved(dataset=job.status.dataset, best=job.status.best if stage == "evaluate" else None),
    ).document()


def mounted(job: TrainingJob) -> list[str]:
    """The claims that the pods of a job mount."""
    own = job.spec.trainer.volumes if job.spec.trainer else []
    return sorted({*claims(job.spec), *own})


def shared_claims(job: TrainingJob) -> tuple[str, ...]:
    """The claims whose access modes matter: nothing has run yet, and several pods will run at once."""
    return tuple(mounted(job)) if job.spec.resources.nodes > 1 and not job.status.runs else ()


def _places(job: TrainingJob) -> dict[str, str]:
    """What a trainer of the user's own is told: where its output goes, and what its attempts share."""
    checkpoints = f"{job.spec.workspace_uri.rstrip('/')}/jobs/{job.metadata.uid}/checkpoints"
    return {"LMOPS_OUTPUT": _path(job.spec.output.uri), "LMOPS_CHECKPOINTS": _path(checkpoints)}


def _path(uri: str) -> str:
    return f"{VOLUMES}/{uri.removeprefix('pvc://')}"
