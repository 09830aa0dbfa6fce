"""LanguageModelService: a model behind a web API, which follows the job that makes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import API_VERSION, Model, ObjectMeta, Uri, rules
from lmops.api.expose import Expose
from lmops.api.job import Credentials, NodeResources
from lmops.api.pod import DnsName, PodSettings
from lmops.api.reference import JobReference, ModelSource
from lmops.api.requestlog import RequestLog
from lmops.api.servicestatus import LanguageModelServiceStatus
from lmops.api.slo import Monitoring, Slo

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
ServedTask = Literal["SequenceClassification", "CausalLM", "MaskedLM", "FeatureExtraction"]
Engine = Literal["Auto", "Transformers", "ONNX", "VLLM"]
WITHOUT_AUTOSCALING = "goes with maxReplicas: without it the number of replicas is fixed"


class ServedSource(ModelSource):
    """Where the model is taken from. A service follows a job: what that makes anew is rolled out as `rollout` says."""

    uri: Uri | None = None
    """The folder of a model on a volume, or a model on the hub."""
    training_job: JobReference | None = None
    """The model that a TrainingJob has published."""
    quantize_job: JobReference | None = None
    """The model that a QuantizeJob has published, once it has passed."""


class ServedModel(Model):
    """The model to serve."""

    model_config = rules(
        (
            "!has(self.digest) || !has(self.from.uri) || !self.from.uri.startsWith('hf://')",
            "digest pins a model of ours: pin one of the hub by its revision, as in hf://owner/name@revision",
        )
    )

    from_: ServedSource = Field(alias="from")
    """Where it is."""
    digest: Digest | None = None
    """Pins the model of this digest: it stays when the job makes another, and a model of before comes back. Default: the newest."""
    task: ServedTask | None = None
    """What it does. FeatureExtraction: embeddings alone. Default: as its passport says, or its configuration."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""


class Generation(Model):
    """What a request for text gets that does not say it itself."""

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = 256
    """The most tokens that are written; the window of the model is a limit too."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How freely tokens are drawn; 0 takes the likeliest."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Tokens are drawn from the likeliest that together are this probable."""
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    """Tokens are drawn from this many of the likeliest; 0 is all."""
    chat_template: Annotated[str, Field(min_length=1, max_length=16_384)] | None = None
    """The Jinja template that turns messages into a prompt. Default: the model's own; one that has none answers no chat."""


class Limits(Model):
    """What a replica takes on. What is beyond it is refused at once, so that the rest is answered in time."""

    body_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] = 1_048_576
    """The longest body of a request; a longer one is answered with 413."""
    input_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """The most tokens of one input; a longer one is answered with 400. Default: the window of a model that writes, the length that an encoder was trained with; what is to be classified is read as `dataset.longTexts` of its training says, and the answer tells where it was cut."""
    queue: Annotated[int, Field(ge=1, le=100_000)] = 256
    """The most inputs that wait or are worked on; what comes then is answered with 429 and a time to come back."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """How long a request may take in all; a longer one is ended with 504."""


class ApiKeys(Model):
    """Who may ask."""

    secret_name: DnsName
    """A Secret: each of its values is a key that clients send as `Authorization: Bearer KEY`."""


class Scaling(Model):
    """How many replicas there are."""

    model_config = rules(
        ("!has(self.maxReplicas) || self.maxReplicas >= self.minReplicas", "maxReplicas is below minReplicas"),
        ("has(self.maxReplicas) || !has(self.metric)", f"metric {WITHOUT_AUTOSCALING}"),
        ("has(self.maxReplicas) || !has(self.target)", f"target {WITHOUT_AUTOSCALING}"),
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many there are at the least."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many there may be. Default: as many as `minReplicas`, always."""
    metric: Literal["CPU", "Memory"] | None = None
    """What is kept at the target by more or fewer replicas. Default: CPU."""
    target: Annotated[int, Field(ge=1, le=100)] | None = None
    """Percent of what a replica has asked for. Default: 80."""


class GateRow(Model):
    """An input that both models are asked."""

    text: Annotated[str, Field(min_length=1, max_length=2000)]
    """The text. A model that writes goes on with its beginning; one that fills masks gets one in its middle where it has none."""
    pair: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """The second text of a pair, where the model classifies these."""


class Gates(Model):
    """What a candidate must keep beside the running model to take over. What could not be measured is not kept."""

    max_error_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The largest share of its requests that it may leave without an answer."""
    max_latency_ratio: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """How many times as long its answers may take, in the median and at the 95th percentile."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """How alike their answers must be: the share of the same labels or top words, the mean cosine of embeddings, the share of the same tokens. Default: 0.8; a model that writes is not held to any, as two good ones rarely write the same."""
    rows: Annotated[list[GateRow], Field(max_length=64)] = []
    """What both are asked. Default: the sample that training left in the candidate's passport."""


class Rollout(Model):
    """How another model takes over."""

    model_config = rules(("!has(self.gates) || self.strategy == 'Gated'", "gates go with strategy: Gated"))

    strategy: Literal["Immediate", "Gated", "Manual"] = "Immediate"
    """Immediate: a newer model takes over once its replicas are ready. Gated: once it has kept `gates` as a candidate beside the running one; one that has not is not tried again before the spec changes, and as long as the running one does not answer nothing is judged, and the candidate waits. Manual: it waits until `model.digest` names it. The first model, and one that `model.digest` names, take over at once."""
    gates: Gates | None = None
    """What a candidate must keep. Default: the defaults of its fields."""
    surge: Annotated[int, Field(ge=0, le=100)] = 1
    """Replicas beyond the wanted ones while a model takes over. With 0 an old one ends first, for where there is no room for both."""


class ServerSpec(Model):
    """All that the server goes by: if it changes, replicas are replaced."""

    engine: Engine = "Auto"
    """What computes. Auto: ONNX for a model that was compressed to ONNX, VLLM for a model that a TrainingJob taught to write and that has an accelerator here, else Transformers."""
    generation: Generation = Generation()
    """What a request for text gets that does not say it itself."""
    limits: Limits = Limits()
    """What a replica takes on."""
    request_log: RequestLog | None = None
    """Keeps a part of what is asked and answered, to train on. Default: nothing is kept."""


class LanguageModelServiceSpec(ServerSpec):
    """What to serve, and how."""

    model: ServedModel
    """The model to serve."""
    api_keys: ApiKeys | None = None
    """Who may ask. Default: everybody who reaches it."""
    expose: Expose | None = None
    """By what name it answers outside of the cluster. Default: by none."""
    scaling: Scaling = Scaling()
    """How many replicas there are."""
    rollout: Rollout = Rollout()
    """How another model takes over."""
    slo: Slo = Slo()
    """What its users can count on: alerts follow from it."""
    monitoring: Monitoring = Monitoring()
    """How it is watched."""
    resources: NodeResources = NodeResources()
    """The machine of a replica."""
    credentials: Credentials | None = None
    """What it needs to reach private places."""
    pod: PodSettings = PodSettings()
    """Where its pods run and what they carry."""


class LanguageModelService(Model):
    """A language model behind a web API."""

    api_version: Literal["lmops.dev/v1alpha1"] = API_VERSION
    """The version of this resource's form."""
    kind: Literal["LanguageModelService"] = "LanguageModelService"
    """The kind of this resource."""
    metadata: ObjectMeta
    """Name, namespace, labels."""
    spec: LanguageModelServiceSpec
    """What to serve, and how."""
    status: LanguageModelServiceStatus = LanguageModelServiceStatus()
    """What was last observed."""
