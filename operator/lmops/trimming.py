"""As much of a resource, a child or a pod as a plan is made of: the rest would only fill memory and wake us."""

from __future__ import annotations

from sys import intern
from typing import Any

from lmops.api.base import GROUP
from lmops.parts import QUEUE
from lmops.plan import Manifest

Json = dict[str, Any]
KEPT = ("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
OWNER = ("name", "uid", "controller")


def trimmed(manifest: Manifest) -> Manifest:
    """A child or a pod without what no reconcile reads. What is kept as written is read as it was written."""
    if manifest["kind"] in KEPT_AS_WRITTEN:
        return _without_managers(manifest)
    metadata, spec = manifest["metadata"], manifest.get("spec", {})
    kept = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
    references = [{part: owner[part] for part in OWNER if part in owner} for owner in owners(manifest)]
    given = metadata.get("labels") or {}
    ours = {name: value for name, value in given.items() if name.startswith(f"{GROUP}/") or name == QUEUE}
    # the same few texts on thousands of objects
    labels = {intern(name): intern(value) for name, value in ours.items()}
    slim = {name: metadata[name] for name in kept if name in metadata}
    slim |= {"labels": labels, "ownerReferences": references}
    if editors := _editors(metadata):
        slim["editors"] = editors
    return {
        "kind": manifest["kind"],
        "metadata": slim,
        "spec": _trimmed_spec(spec),
        "status": _trimmed_status(manifest),
    }


KEPT_AS_WRITTEN = ("InferenceService", "PodMonitor", "PrometheusRule", "ConfigMap", "Ingress", "HTTPRoute")


TOLD = ("conditions", "address", "loadBalancer", "parents")
"""What is read of the status of a child that was applied."""


def _without_managers(manifest: Manifest) -> Manifest:
    """A child that was applied. Its controller's counters are left out."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    status = {name: manifest.get("status", {}).get(name) for name in TOLD}
    told = {name: value for name, value in status.items() if value}
    content: Manifest = {part: manifest[part] for part in ("spec", "data") if part in manifest}
    return {"kind": manifest["kind"], "metadata": metadata, **content, "status": told}


SPEAKING = ("PodScheduled", "DisruptionTarget")
"""The conditions of a pod that tell why it waits or went; the others only follow its phase, but where it serves."""


def _trimmed_status(manifest: Manifest) -> Json:
    """What a plan is made of. Counters and heartbeats of controllers are left out: they would wake us for nothing."""
    status = manifest.get("status", {})
    is_pod = manifest["kind"] == "Pod"
    serves = (manifest["metadata"].get("labels") or {}).get(f"{GROUP}/stage") == "serve"
    speaking = (*SPEAKING, "Ready") if serves else SPEAKING
    told = ("type", "status", "reason", "message", "lastTransitionTime")
    conditions = [
        {name: condition[name] for name in told if name in condition}
        for condition in status.get("conditions") or ()
        if not is_pod or condition["type"] in speaking
    ]
    known = ("phase", "reason", "message", *(("podIP",) if serves and is_pod else ()))
    slim = {name: status[name] for name in known if name in status}
    parts = ("state", "lastState") if serves else ("state",)  # a run's container never starts again
    main = _main_container(manifest)
    containers = [{part: main.get(part) or {} for part in parts}] if main else []
    return {
        **slim,
        **({"conditions": conditions} if conditions else {}),
        **({"containerStatuses": containers} if containers else {}),
    }


def _main_container(pod: Manifest) -> Json | None:
    """The status of a pod's first container, which is ours: what others inject comes after it."""
    statuses: list[Json] = pod.get("status", {}).get("containerStatuses") or []
    name = next((container.get("name") for container in pod.get("spec", {}).get("containers", ())), None)
    return next((each for each in statuses if each.get("name") == name), statuses[0] if statuses else None)


def _trimmed_spec(spec: Json) -> Json:
    """Whether it is held back, how many pods it wants, and the limits of a pod's container."""
    if "containers" in spec:
        return {"containers": [{"resources": spec["containers"][0].get("resources", {})}]}
    if "pytorchReplicaSpecs" in spec:
        pods = {role: {"replicas": each.get("replicas", 1)} for role, each in spec["pytorchReplicaSpecs"].items()}
        policy = {name: value for name, value in spec.get("runPolicy", {}).items() if name == "suspend"}
        return {"pytorchReplicaSpecs": pods, **({"runPolicy": policy} if policy else {})}
    return {"suspend": spec["suspend"]} if "suspend" in spec else {}


def _editors(metadata: Json) -> list[str]:
    """Who has changed the spec since we created it, by the names of their field managers; Kueue may."""
    fields = metadata.get("managedFields") or ()
    return sorted({
        entry["manager"]
        for entry in fields
        if not entry.get("subresource") and "f:spec" in entry.get("fieldsV1", {})
        if entry["manager"] != "lmops" and not entry["manager"].startswith("kueue")
    })  # fmt: skip


def trimmed_owner(manifest: Manifest) -> Manifest:
    """A resource of ours without the metadata that no plan reads."""
    kept = (
        "name",
        "namespace",
        "uid",
        "generation",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "labels",
    )
    metadata = {name: manifest["metadata"][name] for name in kept if manifest["metadata"].get(name)}
    return {**manifest, "metadata": metadata}


def owners(manifest: Manifest) -> list[Json]:
    """The reference to what controls an object, if anything does."""
    return [owner for owner in manifest["metadata"].get("ownerReferences", ()) if owner.get("controller")]


def controller(manifest: Manifest) -> str | None:
    """The UID of what controls an object."""
    return next((owner["uid"] for owner in owners(manifest)), None)
