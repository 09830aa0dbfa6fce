"""What the manifests of all kinds share: names, labels, owners, and a pod that runs restricted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lmops.api.base import API_VERSION, GROUP, Model, ObjectMeta
from lmops.plan import Manifest
from lmops.settings import Settings

VOLUMES = "/volumes"
SCRATCH = "/scratch"
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


def pod_template(
    *,
    container: str,
    image: str,
    command: list[str],
    argument: str,
    labels: dict[str, str],
    claims: list[str],
    settings: Settings,
    env: dict[str, str] | None = None,
    secret: str | None = None,
    resources: dict[str, str] | None = None,
    requests: dict[str, str] | None = None,
) -> Manifest:
    """A pod under the *restricted* standard: no root, no privileges, nothing writable but `/scratch` and its volumes.

    `resources` are limits and requests at once, `requests` are requests alone.
    """
    variables = {
        "USER": "lmops",
        "LMOPS_VOLUMES": VOLUMES,
        "LMOPS_SCRATCH": SCRATCH,
        **{name: SCRATCH + folder for name, folder in CACHES.items()},
        **(env or {}),
    }
    main = {
        "name": container,
        "image": image,
        "command": command,
        "args": [argument],
        "env": [{"name": k, "value": v} for k, v in variables.items()],
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}),
        "resources": {"limits": {**(resources or {})}, "requests": {**(resources or {}), **(requests or {})}},
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": f"claim-{i}", "mountPath": f"{VOLUMES}/{claim}"} for i, claim in enumerate(claims)),
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "metadata": {"labels": {**labels}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": settings.grace_seconds,
            "securityContext": _security(settings),
            "containers": [main],
            "volumes": [
                {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch}},
                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
                *({"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": c}} for i, c in enumerate(claims)),
            ],
        },
    }


def _security(settings: Settings) -> Manifest:
    common: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.user is None:
        return common
    ids = {"runAsUser": settings.user, "runAsGroup": settings.user, "fsGroup": settings.user}
    return {**common, **ids, "fsGroupChangePolicy": "OnRootMismatch"}
