"""What a platform team decides for all jobs, and no job by itself: images, the progress endpoint, pod defaults."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """The operator's configuration. The laptop has one of its own."""

    model_config = ConfigDict(frozen=True)

    trainer_image: str = "lmops-trainer:dev"
    """The image of prepare, train and evaluate."""
    progress_url: str = ""
    """Where pods post their progress; `/namespaces/<ns>/trainingjobs/<job>/runs/<run>` is added. Empty: nowhere."""
    user: int | None = 1000
    """The user and group id of pods; none where the platform assigns it, as OpenShift does."""
    scratch: str = "20Gi"
    """The size of a pod's local scratch."""
    shared_memory: str = "2Gi"
    """The size of /dev/shm, counted in the memory limit."""
    grace_seconds: int = 60
    """How long a pod may take to save a checkpoint after SIGTERM."""
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
