"""What the manifests of all kinds share: names, labels, owners, and a pod that runs restricted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmops.api.base import API_VERSION, GROUP, Model, ObjectMeta
from lmops.api.job import NodeResources
from lmops.api.pod import PodSettings
from lmops.plan import Manifest
from lmops.settings import Settings

VOLUMES = "/volumes"
SCRATCH = "/scratch"
QUEUE = "kueue.x-k8s.io/queue-name"
"""The label by which Kueue knows the queue of a workload."""
CACHES = {
    "HOME": "",
    "TMPDIR": "",
    "HF_HOME": "/huggingface",
    "XDG_CACHE_HOME": "/cache",
    "MPLCONFIGDIR": "/matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "/inductor",
    "TRITON_CACHE_DIR": "/triton",
}
"""Where programs would otherwise write below a home folder that is read-only or unknown."""
ACCESS = "/var/run/lmops"
AUTHORITIES = f"{GROUP}/progress-ca"
TOKEN_SECONDS = 3600
_UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def child_name(job: str, stage: str, attempt: int | None = None) -> str:
    """The name of a child, made of its parent's alone, so that to create it twice is to create it once."""
    return f"{job}-{stage}" if attempt is None else f"{job}-{stage}-a{attempt}"


def labels(kind: str, job: str, run: str, stage: str, attempt: int) -> dict[str, str]:
    """Our labels on a child and its pods; the parent's own are never copied."""
    return {
        f"{GROUP}/kind": kind,
        f"{GROUP}/job": job,
        f"{GROUP}/run": run,
        f"{GROUP}/stage": stage,
        f"{GROUP}/attempt": str(attempt),
    }


def owned(kind: str, owner: ObjectMeta, name: str, labels: dict[str, str]) -> Manifest:
    """The metadata of a child."""
    reference = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "namespace": owner.namespace, "labels": labels, "ownerReferences": [reference]}


def claims(spec: Model) -> list[str]:
    """The volumes that a spec names anywhere, in the order of their names."""
    return sorted({m[1] for text in _strings(spec.manifest()) if (m := re.match(r"pvc://([^/]+)", text))})


def reaches_hub(spec: Model) -> bool:
    """Whether a spec names anything on the Hugging Face hub."""
    return any(text.startswith("hf://") for text in _strings(spec.manifest()))


def hub(spec: Model) -> dict[str, str]:
    """Nothing of the Hugging Face hub is asked for unless a spec names it."""
    return {} if reaches_hub(spec) else {"HF_HUB_OFFLINE": "1"}


def offline(spec: Model) -> dict[str, str]:
    """What a run of ours is told: offline unless its spec names the hub, and that it reports by itself."""
    return {**hub(spec), "DISABLE_KUBEFLOW_INTEGRATION": "TRUE"}


def progress_url(plural: str, owner: ObjectMeta, run: str, settings: Settings) -> dict[str, str]:
    """Where a run posts its progress, in the variable that Hugging Face's own reporter reads."""
    if not settings.tells_progress:
        return {}
    path = f"namespaces/{owner.namespace}/{plural}/{owner.name}/runs/{run}"
    return {"KUBEFLOW_TRAINER_SERVER_URL": f"{settings.progress_url}/{path}"}


def limits(resources: NodeResources, settings: Settings, accelerators: int | None = None) -> dict[str, str]:
    """The memory and the accelerators of a pod: all that the node has, or as many as are named."""
    found = {"memory": resources.per_node.memory} if resources.per_node.memory else {}
    if (accelerator := resources.accelerator) and accelerators != 0:
        name = accelerator.name or settings.defaults.accelerator
        found[name] = str(accelerators or accelerator.per_node)
    return found


def quantity(text: str | int | float) -> float:
    """The number that a Kubernetes quantity means."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text} is not a quantity")
    return float(match[1]) * _UNITS[match[2]]


def threads(resources: NodeResources, processes: int = 1) -> dict[str, str]:
    """One thread a core, shared among the processes of a pod."""
    if (cpu := resources.per_node.cpu) is None:
        return {}
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return {"OMP_NUM_THREADS": str(max(1, int(cores // processes)))}


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _strings(inner)
        case list():
            for inner in value:
                yield from _strings(inner)


@dataclass(frozen=True)
class Program:
    """What a pod runs, and what it may use."""

    container: str
    """The name of its container."""
    image: str
    command: list[str]
    arguments: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    secret: str | None = None
    """A Secret whose keys become variables."""
    limits: dict[str, str] = field(default_factory=dict)
    """What it may use at the most, and is promised."""
    requests: dict[str, str] = field(default_factory=dict)
    """What it is promised, and may go beyond."""
    claims: list[str] = field(default_factory=list)
    """The volumes it finds at `/volumes/<claim>`."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Secrets whose keys it finds as files, by the folder."""
    serving: Manifest = field(default_factory=dict)
    """Where it listens, and how it is asked whether it is well: further fields of its container."""
    is_ours: bool = True
    """Whether it writes nowhere but where it was told: a user's own image may need its root."""


def progress_access(template: Manifest, settings: Settings) -> Manifest:
    """A pod that can prove to the progress endpoint whose it is, and knows by which authorities the endpoint does.

    Both are files of one volume: a token of its own, and the certificates that it carries as an annotation. Over plain
    HTTP, on a laptop, there is neither.
    """
    if not (settings.progress_ca and settings.progress_url.startswith("https://")):
        return template
    metadata, spec = template["metadata"], template["spec"]
    annotations = {**metadata.get("annotations", {}), AUTHORITIES: settings.progress_ca}
    token = {"audience": settings.progress_audience, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    bundle = {"path": "ca.crt", "fieldRef": {"fieldPath": f"metadata.annotations['{AUTHORITIES}']"}}
    sources = [{"serviceAccountToken": token}, {"downwardAPI": {"items": [bundle]}}]
    volume = {"name": "progress", "projected": {"sources": sources}}
    files = {"KUBEFLOW_TRAINER_SERVER_CA_CERT": "ca.crt", "KUBEFLOW_TRAINER_SERVER_TOKEN": "token"}
    told = [{"name": name, "value": f"{ACCESS}/{file}"} for name, file in files.items()]
    mount = {"name": "progress", "mountPath": ACCESS, "readOnly": True}
    containers = [
        {**each, "env": [*each["env"], *told], "volumeMounts": [*each["volumeMounts"], mount]}
        for each in spec["containers"]
    ]
    return {
        "metadata": {**metadata, "annotations": annotations},
        "spec": {**spec, "containers": containers, "volumes": [*spec["volumes"], volume]},
    }


def pod_template(program: Program, labels: dict[str, str], pod: PodSettings, settings: Settings) -> Manifest:
    """A pod under the *restricted* standard: no root and no privileges; ours write to `/scratch` and volumes alone."""
    claims = [
        {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}} for i, claim in enumerate(program.claims)
    ]
    secrets = [
        {"name": f"secret-{i}", "secret": {"secretName": secret}} for i, secret in enumerate(program.secrets.values())
    ]
    return {
        "metadata": {
            "labels": {**pod.labels, **labels},
            **({"annotations": {**pod.annotations}} if pod.annotations else {}),
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": settings.grace_seconds,
            "securityContext": _security(settings),
            **_placement(pod),
            "containers": [_container(program, pod)],
            "volumes": [
                {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
                *claims,
                *secrets,
            ],
        },
    }


def _container(program: Program, pod: PodSettings) -> Manifest:
    variables = {
        "USER": "lmops",
        "LMOPS_VOLUMES": VOLUMES,
        "LMOPS_SCRATCH": SCRATCH,
        **{name: SCRATCH + folder for name, folder in CACHES.items()},
        **program.env,
        **{variable.name: variable.value for variable in pod.env},
    }
    return {
        "name": program.container,
        "image": program.image,
        "command": program.command,
        **({"args": program.arguments} if program.arguments else {}),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        **({"envFrom": [{"secretRef": {"name": program.secret}}]} if program.secret else {}),
        "resources": {"limits": {**program.limits}, "requests": {**program.limits, **program.requests}},
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": f"claim-{i}", "mountPath": f"{VOLUMES}/{claim}"} for i, claim in enumerate(program.claims)),
            *(
                {"name": f"secret-{i}", "mountPath": folder, "readOnly": True}
                for i, folder in enumerate(program.secrets)
            ),
        ],
        **program.serving,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": program.is_ours,
        },
    }


def _placement(pod: PodSettings) -> Manifest:
    """Where a pod runs, in Kubernetes' words; what is not set is not written."""
    said = pod.manifest()
    names = ("nodeSelector", "tolerations", "affinity", "serviceAccountName", "priorityClassName", "runtimeClassName")
    secrets = [{"name": secret} for secret in pod.image_pull_secrets]
    return {name: said[name] for name in names if said.get(name)} | ({"imagePullSecrets": secrets} if secrets else {})


def _security(settings: Settings) -> Manifest:
    common: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.user is None:
        return common
    ids = {"runAsUser": settings.user, "runAsGroup": settings.user, "fsGroup": settings.user}
    return {**common, **ids, "fsGroupChangePolicy": "OnRootMismatch"}
