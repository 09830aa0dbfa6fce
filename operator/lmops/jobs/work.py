"""A job with what only its kind knows: its stages, what each wants created, and what its end means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from lmops.api import Failure, Job, JobStatus
from lmops.api.status import Phase, Stage
from lmops.jobs.backends import job as plain
from lmops.parts import QUEUE, Program, child_name, labels, owned, pod_template, progress_access
from lmops.plan import Manifest, Observed, Ref
from lmops.settings import Settings

J_co = TypeVar("J_co", bound=Job, covariant=True)


@dataclass(frozen=True)
class Standing:
    """Where a job stands, from which all conditions follow."""

    phase: Phase
    reason: str
    message: str
    accepted: bool = True
    display: str = ""
    running: int = 0
    wanted: int = 0


@dataclass(frozen=True)
class Work(ABC, Generic[J_co]):
    """A job and the platform's settings. A kind adds its stages; what becomes of their runs is the same for all."""

    job: J_co
    settings: Settings

    PHASES: ClassVar[Mapping[Stage, Phase]]
    """What a job is called while a stage runs."""
    RESUMED: ClassVar[frozenset[Stage]] = frozenset()
    """The stages that go on from a checkpoint; the others begin again."""

    @property
    def is_ours(self) -> bool:
        """Whether our own runtime runs it, which says in a document how it ended."""
        return True

    @property
    def queue(self) -> str | None:
        """The Kueue queue that its runs wait in."""
        return self.job.spec.queue_name or self.settings.defaults.queue_name

    @property
    def metric(self) -> str | None:
        """The metric that leads, where the job names one."""
        return None

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Its stages, in their order."""

    @abstractmethod
    def share(self, stage: Stage) -> tuple[int, int]:
        """The percent of the whole job at which a stage begins and ends."""

    @abstractmethod
    def program(self, stage: Stage, attempt: int) -> Program:
        """What the pods of an attempt run."""

    @abstractmethod
    def verdict(self) -> Standing | Failure:
        """What the end of the last stage means, told from the status that it has left."""

    def refusal(self, observed: Observed) -> Failure | None:
        """What is wrong with the job before anything of it starts."""
        return None

    def resolved(self, observed: Observed) -> Work[J_co] | Standing:
        """The work with all that it refers to written down; or what it waits for."""
        return self

    def shown(self, status: JobStatus) -> dict[str, str]:
        """What `kubectl get` shows of it besides what it shows of every job."""
        return {}

    def backend(self, stage: Stage) -> str:
        """The kind of child that runs a stage."""
        return plain.KIND

    def wanted(self, stage: Stage) -> int:
        """The number of pods that run a stage together."""
        return 1

    def workload(self, stage: Stage, metadata: Manifest, template: Manifest, held: bool) -> Manifest:
        """The child that runs this pod."""
        return plain.render(metadata, template, held)

    def ref(self, stage: Stage, attempt: int) -> Ref:
        """The child that an attempt at a stage has."""
        return Ref(self.backend(stage), child_name(self.job.metadata.name, stage, attempt))

    def manifest(self, stage: Stage, attempt: int) -> Manifest:
        """The child that runs an attempt at a stage. What has a queue is born held back: Kueue lets it go."""
        job, name = self.job, self.ref(stage, attempt).name
        ours = labels(job.kind, job.metadata.name, name, stage, attempt)
        metadata = owned(job.kind, job.metadata, name, ours | ({QUEUE: self.queue} if self.queue else {}))
        return self.workload(stage, metadata, self.template(stage, attempt), held=self.queue is not None)

    def template(self, stage: Stage, attempt: int) -> Manifest:
        """The pod of an attempt."""
        job, name = self.job, self.ref(stage, attempt).name
        ours = labels(job.kind, job.metadata.name, name, stage, attempt)
        pod = job.spec.pod.over(self.settings.defaults.pod)
        template = pod_template(self.program(stage, attempt), ours, pod, self.settings)
        return progress_access(template, self.settings)

    def having(self, **changes: object) -> Work[J_co]:
        """The same work with another status."""
        status = self.job.status.model_copy(update=changes)
        return replace(self, job=self.job.model_copy(update={"status": status}))


AnyWork = Work[Job]
"""The work of a job of any kind."""
