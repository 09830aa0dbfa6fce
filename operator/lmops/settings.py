"""What a platform team decides for all jobs, and no job by itself: images, the progress endpoint, pod defaults."""

from __future__ import annotations

import json

from pydantic import Field, ValidationError

from lmops import documents
from lmops.api.affinity import Labels
from lmops.api.base import Model, Quantity
from lmops.api.crd import structural
from lmops.api.job import Credentials, QueueName
from lmops.api.pod import PodSettings
from lmops.documents import AdmissionError
from lmops.words import sentence, stray, unknown, wrong


class Defaults(Model):
    """What a resource gets that does not say it itself."""

    pod: PodSettings = PodSettings()
    """Where pods run and what they carry; what a resource says is added, or goes before."""
    credentials: Credentials | None = None
    """The Secret of a resource that names none. It has to be in the resource's namespace."""
    queue_name: QueueName | None = None
    """The Kueue queue of a resource that names none."""
    ttl_seconds_after_finished: int | None = Field(None, ge=0)
    """How long children stay after the end of a resource that does not say it."""
    accelerator: str = "nvidia.com/gpu"
    """The resource name of an accelerator that has none."""


class Monitoring(Model):
    """How Prometheus and Grafana find what watches a service."""

    labels: Labels = Field({})
    """Labels of PodMonitors and PrometheusRules, where Prometheus chooses them by labels: `release`, for instance."""
    dashboards: bool = True
    """Whether each service has a dashboard, as a ConfigMap that Grafana's sidecar loads."""
    dashboard_labels: Labels = Field({"grafana_dashboard": "1"})
    """The labels by which the sidecar finds them."""
    runbooks: str = Field("", pattern=r"^(https?://\S+)?$")
    """The URL of the pages of alerts: its name and `.md` are added. Empty: an alert has no link, but its remedy."""


class Settings(Model):
    """The operator's configuration. The laptop has one of its own."""

    trainer_image: str = "lmops-trainer:dev"
    """The image of prepare, train and evaluate."""
    compressor_image: str = "lmops-compressor:dev"
    """The image of compress."""
    server_image: str = "lmops-server:dev"
    """The image of services."""
    vllm_image: str = "vllm/vllm-openai:v0.32.0"
    """The image of services that vLLM serves, 0.32 or newer. Empty: none is."""
    progress_url: str = ""
    """Where pods post their progress; `/namespaces/<ns>/<jobs>/<job>/runs/<run>` is added. Empty: the Service."""
    progress_ca: str = ""
    """Whom pods trust at that place: certificates as PEM. An https URL without them is not told to pods."""
    progress_port: int = Field(8443, ge=0, le=65535)
    """Where the operator serves the progress endpoint, and its Service too."""
    progress_service: str = "lmops-progress"
    """The Service that leads pods there."""
    progress_audience: str = "lmops.dev"
    """The audience of the tokens that pods show there."""
    user: int | None = 1000
    """The user and group id of pods; none where the platform assigns it, as OpenShift does."""
    scratch: Quantity = "20Gi"
    """The size of a pod's local scratch."""
    shared_memory: Quantity = "2Gi"
    """The size of /dev/shm, counted in the memory limit."""
    grace_seconds: int = Field(60, ge=0)
    """How long a pod may take to save a checkpoint after SIGTERM."""
    image_pull_seconds: int = Field(900, ge=0)
    """How long an image, or a candidate's model, may not be had before that has failed. A job may say it itself."""
    defaults: Defaults = Defaults()
    """What a resource gets that does not say it itself."""
    monitoring: Monitoring = Monitoring()
    """How Prometheus and Grafana find what watches a service."""
    stops_without_progress: int = Field(3, ge=1)
    """How often in a row a run may be stopped from outside before a newer checkpoint was saved."""
    namespaces: tuple[str, ...] = ()
    """The namespaces that the operator watches; none is all."""
    namespace: str = ""
    """The operator's own namespace, where its Lease is. Empty: that of its pod."""
    resync_seconds: float = Field(300, gt=0)
    """Seconds between two full lists, which find what watches have missed."""
    port: int = Field(8080, ge=1, le=65535)
    """Where health and metrics are served."""

    @property
    def tells_progress(self) -> bool:
        """Whether pods can post their progress: to an https URL only if they know whom to trust there."""
        return bool(self.progress_ca) if self.progress_url.startswith("https://") else bool(self.progress_url)


def read(file: str) -> Settings:
    """The settings of a YAML file; raises `AdmissionError` with a sentence for each field that is none."""
    found = documents.read([file])
    if not found:
        return Settings()
    document, *more = found
    if more:
        raise AdmissionError([f"{more[0].place(())}: a second document; all settings stand in one"])
    schema = structural(Settings.model_json_schema(by_alias=True))
    problems = [stray(path, names) for path, names in unknown(document.value, schema)]
    try:
        return Settings.model_validate_json(json.dumps(document.value, default=str), strict=True, by_name=False)
    except ValidationError as error:
        problems += wrong(error, document.value, schema)
    located = sorted(problems, key=lambda problem: document.line(problem.path))
    raise AdmissionError([sentence(document, problem) for problem in located])
