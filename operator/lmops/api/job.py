"""What all kinds of jobs say alike: where their pods run, how long they may, and how they are stopped."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmops.api.base import Cores, Model, ObjectMeta, Quantity, VolumeUri
from lmops.api.pod import DnsName, PodSettings
from lmops.api.status import JobStatus

QueueName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class Share(Model):
    """What one node of the job gets."""

    cpu: Cores | None = None
    """Processor cores, requested and, as threads, used."""
    memory: Quantity | None = None
    """Memory, requested and at the same time the limit."""


class Accelerator(Model):
    """The accelerators of one node."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[a-zA-Z0-9._-]+$", max_length=128)] | None = None
    """The resource name. Default: the operator's, which is nvidia.com/gpu where nobody has chosen another."""
    per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of them a node has."""


class NodeResources(Model):
    """The machine of a run."""

    per_node: Share = Share()
    """What one pod gets."""
    accelerator: Accelerator | None = None
    """The accelerators of a pod."""


class Retry(Model):
    """What becomes of a run that was lost. Evictions and preemptions are not counted."""

    restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """How often the whole group may start again, each time from the last complete checkpoint."""
    deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """The longest time the job may work, over all its runs; waiting in a queue does not count."""
    hung_after_seconds: Annotated[int, Field(ge=60)] = 1800
    """How long all pods may run without a report, once there was one, before the job is called Hung; after twice as long the attempt has failed."""
    pending_seconds: Annotated[int, Field(ge=1)] | None = None
    """How long a pod may wait for a node or an image before the job has failed. Default: a quarter of an hour for an image, and any time for a node."""


class Workspace(Model):
    """Where prepared data and checkpoints live."""

    uri: VolumeUri
    """A folder on a volume; jobs that share it share prepared data."""


class Output(Model):
    """Where models go."""

    uri: VolumeUri
    """A collection: the model is published in a folder of it, named by its digest."""


class Credentials(Model):
    """What a job needs to reach private places."""

    secret_name: DnsName
    """A Secret whose keys become environment variables, as `HF_TOKEN`."""


class JobSpec(Model):
    """What every job says, whatever it makes."""

    output: Output
    """Where the model goes."""
    workspace: Workspace | None = None
    """Where prepared data and checkpoints live. Default: `.lmops` in `output.uri`."""
    resources: NodeResources = NodeResources()
    """The machine of the run."""
    retry: Retry = Retry()
    """What becomes of a run that was lost."""
    credentials: Credentials | None = None
    """What the job needs to reach private places."""
    pod: PodSettings = PodSettings()
    """Where its pods run and what they carry."""
    queue_name: QueueName | None = None
    """The Kueue queue that every run of the job waits in."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """How long the job's children and their pods stay after its end. The job itself, its status and its model stay."""
    suspend: bool = False
    """Stops the job after it has saved what it can; it goes on from there when this is false again."""

    @property
    def workspace_uri(self) -> str:
        """Where prepared data and checkpoints live."""
        return self.workspace.uri if self.workspace else f"{self.output.uri.rstrip('/')}/.lmops"


class Job(Model):
    """A resource that comes to an end."""

    kind: str
    """The kind of this resource."""
    metadata: ObjectMeta
    """Name, namespace, labels."""
    spec: JobSpec
    """What is wanted."""
    status: JobStatus
    """What was last observed."""
