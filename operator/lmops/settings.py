"""What a platform team decides for all jobs, and no job by itself: images, the progress endpoint, pod defaults."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lmops.api.base import Model
from lmops.api.pod import PodSettings
from lmops.api.trainingjob import Credentials


class Defaults(Model):
    """What a resource gets that does not say it itself."""

    pod: PodSettings = PodSettings()
    """Where pods run and what they carry; what a resource says is added, or goes before."""
    credentials: Credentials | None = None
    """The Secret of a resource that names none. It has to be in the resource's namespace."""
    queue_name: str | None = None
    """The Kueue queue of a resource that names none."""
    ttl_seconds_after_finished: int | None = None
    """How long children stay after the end of a resource that does not say it."""
    accelerator: str = "nvidia.com/gpu"
    """The resource name of an accelerator that has none."""


class Settings(BaseModel):
    """The operator's configuration. The laptop has one of its own."""

    model_config = ConfigDict(frozen=True)

    trainer_image: str = "lmops-trainer:dev"
    """The image of prepare, train and evaluate."""
    progress_url: str = ""
    """Where pods post their progress; `/namespaces/<ns>/trainingjobs/<job>/runs/<run>` is added. Empty: nowhere."""
    progress_ca: str = ""
    """Whom pods trust at that place: certificates as PEM. An https URL without them is not told to pods."""
    progress_port: int = 8443
    """Where the operator serves the progress endpoint, and its Service too."""
    progress_service: str = "lmops-progress"
    """The Service that leads pods there."""
    progress_audience: str = "lmops.dev"
    """The audience of the tokens that pods show there."""
    user: int | None = 1000
    """The user and group id of pods; none where the platform assigns it, as OpenShift does."""
    scratch: str = "20Gi"
    """The size of a pod's local scratch."""
    shared_memory: str = "2Gi"
    """The size of /dev/shm, counted in the memory limit."""
    grace_seconds: int = 60
    """How long a pod may take to save a checkpoint after SIGTERM."""
    image_pull_seconds: int = 900
    """How long an image may not be had before the job has failed, where it does not say that itself."""
    defaults: Defaults = Defaults()
    """What a resource gets that does not say it itself."""
    stops_without_progress: int = 3
    """How often in a row a run may be stopped from outside before a newer checkpoint was saved."""
    namespaces: tuple[str, ...] = ()
    """The namespaces that the operator watches; none is all."""
    namespace: str = "default"
    """The operator's own namespace, where its Lease is."""
    resync_seconds: float = 300
    """Seconds between two full lists, which find what watches have missed."""
    port: int = 8080
    """Where health and metrics are served."""

    @property
    def tells_progress(self) -> bool:
        """Whether pods can post their progress: to an https URL only if they know whom to trust there."""
        return bool(self.progress_ca) if self.progress_url.startswith("https://") else bool(self.progress_url)
