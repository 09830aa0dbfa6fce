"""The InferenceService (KServe 0.20, Standard mode) that serves a model, kept as it is written here."""

from __future__ import annotations

from dataclasses import replace

from lmops.api import LanguageModelService, Serving
from lmops.api.base import GROUP
from lmops.api.languagemodelservice import Scaling, ServerSpec
from lmops.api.reference import ResolvedModel
from lmops.api.run import ModelToServe, ServiceId
from lmops.parts import Program, child_name, claims, hub, labels, limits, owned, pod_template, threads
from lmops.plan import Manifest, Ref
from lmops.serving import vllm
from lmops.serving.kept import fingerprint
from lmops.settings import Settings

KIND = "InferenceService"
CONTAINER = "kserve-container"  # the webhook renames a container of any other name
PORT = 8080
KEYS = "/var/run/lmops/api-keys"
REVISION = f"{GROUP}/revision"
"""The label that tells pods of one model and settings from those of another, made of all that is said of them."""
ENGINE = f"{GROUP}/engine"
"""The label of pods that speak otherwise than our own server, with the name of what they run."""
UNSEEN = {"networking.kserve.io/visibility": "cluster-local"}
"""The label by which KServe makes no ingress."""
STARTS_WITHIN = 1800
"""Seconds that a model may take to load before its container is started anew."""
LEAVING = 10
"""Seconds that a replica that goes needs beside its longest answer."""


def ref(service: LanguageModelService) -> Ref:
    """The InferenceService of a service."""
    return Ref(KIND, service.metadata.name)


def inferenceservice(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> Manifest:
    """What serves this model. KServe's own ingress would lead to what vLLM asks no key for."""
    by_vllm = vllm.serves(service, model, settings)
    shown = UNSEEN if by_vllm and service.spec.api_keys else {}
    return _serves(service, model, settings, ref(service).name, service.spec.scaling, shown, by_vllm)


def candidate(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> Manifest:
    """The same beside it with a model that is to prove itself: one replica, with no way in from outside.

    What it is asked is the gate's own rows, which no request log is to hold.
    """
    unlogged = service.model_copy(update={"spec": service.spec.model_copy(update={"request_log": None})})
    by_vllm = vllm.serves(service, model, settings)
    return _serves(unlogged, model, settings, candidate_ref(service).name, Scaling(), UNSEEN, by_vllm)


def candidate_ref(service: LanguageModelService) -> Ref:
    """The InferenceService of a candidate."""
    return Ref(KIND, child_name(service.metadata.name, "candidate"))


def _serves(
    service: LanguageModelService,
    model: ResolvedModel,
    settings: Settings,
    name: str,
    scaling: Scaling,
    more: dict[str, str],
    by_vllm: bool,
) -> Manifest:
    template = _template(service, model, settings, name, by_vllm)
    revision = fingerprint(template)
    ours = labels(service.kind, service.metadata.name, name, "serve", 0)
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "hpa" if scaling.max_replicas else "none",
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": KIND,
        "metadata": {
            **owned(service.kind, service.metadata, name, {**ours, **more}),
            "annotations": annotations,
        },
        "spec": {
            "predictor": {
                **template["spec"],
                "labels": {**template["metadata"]["labels"], REVISION: revision},
                "annotations": template["metadata"]["annotations"],
                **_scaling(scaling),
                "deploymentStrategy": _strategy(service.spec.rollout.surge),
            }
        },
    }


def service_of(service: LanguageModelService) -> str:
    """The Service by which KServe leads to it, at port 80."""
    return f"{ref(service).name}-predictor"


def revision_of(manifest: Manifest) -> str:
    """The revision of an InferenceService's pods."""
    return str(manifest["spec"]["predictor"]["labels"][REVISION])


def document(service: LanguageModelService, model: ResolvedModel) -> str:
    """All that the server is told: what would not change its answers is left out, so that it does not replace pods."""
    spec, metadata = service.spec, service.metadata
    return Serving(
        service=ServiceId(name=metadata.name, namespace=metadata.namespace, uid=metadata.uid),
        spec=ServerSpec(
            engine=spec.engine, generation=spec.generation, limits=spec.limits, request_log=spec.request_log
        ),
        model=_told(service, model),
    ).document()


def _told(service: LanguageModelService, model: ResolvedModel) -> ModelToServe:
    said = service.spec.model
    return ModelToServe(uri=model.uri, digest=model.digest, task=said.task, trust_remote_code=said.trust_remote_code)


def _template(
    service: LanguageModelService, model: ResolvedModel, settings: Settings, name: str, by_vllm: bool
) -> Manifest:
    """The pod of a replica. A Deployment restarts what ends, so nothing is said of that."""
    ours = labels(service.kind, service.metadata.name, name, "serve", 0)
    pod = service.spec.pod.over(settings.defaults.pod)
    if by_vllm:
        ours[ENGINE] = "VLLM"
    program = (_vllm if by_vllm else _program)(service, model, settings)
    template = pod_template(program, ours, pod, settings)
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    spec = {name: value for name, value in template["spec"].items() if name != "restartPolicy"}
    longest = 0 if by_vllm else service.spec.limits.timeout_seconds + LEAVING  # vLLM is told when to end
    spec["terminationGracePeriodSeconds"] = max(settings.grace_seconds, longest)
    if by_vllm:  # a Service called vllm would make the variable VLLM_PORT, which vLLM reads as its own
        spec["enableServiceLinks"] = False
    if service.spec.resources.per_node.cpu is None:  # KServe gives a container what it lacks
        spec["containers"][0]["env"].append(_threads_of_limit())
    metadata = template["metadata"]
    return {"metadata": {**metadata, "annotations": {**scraped, **metadata.get("annotations", {})}}, "spec": spec}


def _program(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> Program:
    spec = service.spec
    secret = spec.credentials or settings.defaults.credentials
    cpu = {"cpu": spec.resources.per_node.cpu} if spec.resources.per_node.cpu else {}
    told = _told(service, model)
    return Program(
        container=CONTAINER,
        image=settings.server_image,
        command=["python", "-m", "lmops_server", "serve"],
        arguments=[document(service, model)],
        env={
            **hub(told),
            **threads(spec.resources),
            **({"LMOPS_API_KEYS": KEYS} if spec.api_keys else {}),
        },
        secret=secret.secret_name if secret else None,
        limits=cpu | limits(spec.resources, settings),  # KServe would add a limit of one core
        claims=sorted({*claims(told), *(claims(spec.request_log) if spec.request_log else ())}),
        secrets={KEYS: spec.api_keys.secret_name} if spec.api_keys else {},
        serving=_serving("/v2/health/ready", "/v2/health/live"),
    )


def _vllm(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> Program:
    """The same pod with vLLM in it, which is told all by its command line."""
    ours, keys = _program(service, model, settings), service.spec.api_keys
    return replace(
        ours,
        image=settings.vllm_image,
        command=vllm.command(KEYS if keys else None),
        arguments=vllm.arguments(service, model, PORT, settings),
        env={**{name: value for name, value in ours.env.items() if name != "LMOPS_API_KEYS"}, **vllm.ENV},
        serving={**_serving(vllm.HEALTH, vllm.HEALTH), **vllm.container()},
    )


def _serving(is_ready: str, is_live: str) -> Manifest:
    """A port, and probes that tell a server that loads, one that is busy and one that hangs from each other."""
    ready, live = ({"httpGet": {"path": path, "port": PORT}} for path in (is_ready, is_live))
    return {
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": STARTS_WITHIN // 2},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _threads_of_limit() -> Manifest:
    return {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}


def _scaling(scaling: Scaling) -> Manifest:
    if scaling.max_replicas is None:
        return {"minReplicas": scaling.min_replicas, "maxReplicas": scaling.min_replicas}
    return {
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "scaleMetric": (scaling.metric or "CPU").lower(),
        "scaleTarget": scaling.target or 80,
    }


def _strategy(surge: int) -> Manifest:
    """Either a new replica is there before an old one goes, or the other way round."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0 if surge else 1}}
