"""Pods as manifests: how one is made from a template, and what its status says as it is scheduled, runs and ends."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from lmops.local.home import rfc3339
from lmops.parts import quantity
from lmops.plan import Manifest

STOPPED = "The lmops command that ran it on this machine has ended, and stopped it."


def from_template(owner: Manifest, template: Manifest, name: str, labels: dict[str, str]) -> Manifest:
    """A pod that a controller asks for. Its UID and its time of birth are added when it is stored."""
    metadata = template.get("metadata", {})
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"].get("namespace", "default"),
            "labels": {**metadata.get("labels", {}), **labels},
            "annotations": {**metadata.get("annotations", {})},
            "ownerReferences": [reference],
        },
        "spec": copy.deepcopy(template["spec"]),
        "status": {"phase": "Pending"},
    }


def owned_by(pods: list[Manifest], owner: Manifest) -> list[Manifest]:
    """The pods of a child."""
    uid = owner["metadata"]["uid"]
    return [pod for pod in pods if any(ref["uid"] == uid for ref in pod["metadata"].get("ownerReferences", ()))]


def phase(pod: Manifest) -> str:
    """The one word of the pod's status."""
    return str(pod["status"].get("phase", "Pending"))


def has_ended(pod: Manifest) -> bool:
    """Whether the pod will not run any more."""
    return phase(pod) in ("Succeeded", "Failed")


def is_leaving(manifest: Manifest) -> bool:
    """Whether its deletion was asked for."""
    return "deletionTimestamp" in manifest["metadata"]


def container(pod: Manifest) -> Manifest:
    """The container that counts: the first."""
    found: Manifest = pod["spec"]["containers"][0]
    return found


def grace(pod: Manifest) -> float:
    """The seconds between SIGTERM and SIGKILL."""
    return float(pod["spec"].get("terminationGracePeriodSeconds", 30))


def memory_limit(pod: Manifest) -> int | None:
    """The bytes that the pod may use."""
    limit = container(pod).get("resources", {}).get("limits", {}).get("memory")
    return None if limit is None else int(quantity(limit))


def accelerators(pod: Manifest) -> dict[str, int]:
    """The accelerators that the pod asks for, by resource name."""
    limits = container(pod).get("resources", {}).get("limits", {})
    return {name: int(quantity(number)) for name, number in limits.items() if "/" in name}


def unschedulable(pod: Manifest, message: str, now: datetime) -> Manifest:
    """The pod as a scheduler leaves it that has no node for it."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return _with_status(pod, phase="Pending", conditions=_flipped(pod, condition, now))


def waiting(pod: Manifest, reason: str, message: str, now: datetime) -> Manifest:
    """The pod as the kubelet leaves it whose container cannot start yet."""
    state = {"waiting": {"reason": reason, "message": message}}
    return _with_status(
        pod, phase="Pending", conditions=_scheduled(pod, now), containerStatuses=[_container(pod, state)]
    )


def running(pod: Manifest, now: datetime, restarts: int = 0, **address: Any) -> Manifest:
    """The pod whose container runs, and where it is asked."""
    status = _container(pod, {"running": {"startedAt": rfc3339(now)}}, restarts)
    started = pod["status"].get("startTime", rfc3339(now))
    conditions = _scheduled(pod, now)
    return _with_status(
        pod, phase="Running", startTime=started, conditions=conditions, containerStatuses=[status], **address
    )


def asked(pod: Manifest, ready: bool, now: datetime) -> Manifest:
    """The pod after its probe: whether it is ready."""
    conditions = _flipped(pod, {"type": "Ready", "status": "True" if ready else "False"}, now)
    return _with_status(pod, conditions=conditions, containerStatuses=[{**container_status(pod), "ready": ready}])


def is_ready(pod: Manifest) -> bool:
    """Whether its probe says so."""
    return any((c["type"], c["status"]) == ("Ready", "True") for c in pod["status"].get("conditions", ()))


def again(pod: Manifest, restarts: int, before: Manifest) -> Manifest:
    """The pod whose container was started anew, and how it had ended."""
    status = {**container_status(pod), "restartCount": restarts, "lastState": before}
    return _with_status(pod, containerStatuses=[status])


def probed(pod: Manifest) -> str:
    """The path at which its container is asked whether it is ready; empty where it is not asked."""
    return str(container(pod).get("readinessProbe", {}).get("httpGet", {}).get("path", ""))


def ended(pod: Manifest, code: int, now: datetime, reason: str | None = None, message: str = "") -> Manifest:
    """The pod whose container has ended."""
    last = container_status(pod)
    terminated = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        **({"message": message} if message else {}),
        "startedAt": last.get("state", {}).get("running", {}).get("startedAt", rfc3339(now)),
        "finishedAt": rfc3339(now),
    }
    statuses = [_container(pod, {"terminated": terminated}, last.get("restartCount", 0))]
    stopped = asked(pod, False, now) if is_ready(pod) else pod
    conditions = _scheduled(stopped, now)
    return _with_status(pod, phase="Failed" if code else "Succeeded", conditions=conditions, containerStatuses=statuses)


def shut_down(pod: Manifest, now: datetime) -> Manifest:
    """The ended pod as a kubelet marks it whose node goes down: here it is the command that does."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": STOPPED}
    conditions = _flipped(pod, condition, now)
    return _with_status(pod, phase="Failed", reason="Terminated", message=STOPPED, conditions=conditions)


def node_lost(pod: Manifest, at: datetime, message: str) -> Manifest:
    """The pod whose node went away while it ran; what it said last is kept."""
    lost = ended(pod, 137, at, reason="ContainerStatusUnknown", message=message)
    return _with_status(lost, reason="NodeLost", message="The engine that ran this pod was killed.")


def container_status(pod: Manifest) -> Manifest:
    """What is known of the container, `{}` before the first news."""
    found: Manifest = (pod["status"].get("containerStatuses") or [{}])[0]
    return found


def _with_status(pod: Manifest, **changes: Any) -> Manifest:
    return {**pod, "status": {**pod["status"], **changes}}


def _container(pod: Manifest, state: Manifest, restarts: int = 0) -> Manifest:
    main = container(pod)
    up = "running" in state
    return {
        "name": main["name"],
        "image": main.get("image", ""),
        "ready": up,
        "started": up,
        "restartCount": restarts,
        "state": state,
    }


def _scheduled(pod: Manifest, now: datetime) -> list[Manifest]:
    return _flipped(pod, {"type": "PodScheduled", "status": "True"}, now)


def _flipped(pod: Manifest, condition: Manifest, now: datetime) -> list[Manifest]:
    """The pod's conditions with this one, whose transition time moves only when it flips."""
    before = {c["type"]: c for c in pod["status"].get("conditions", ())}
    old = before.get(condition["type"])
    moved = old["lastTransitionTime"] if old and old["status"] == condition["status"] else rfc3339(now)
    return list({**before, condition["type"]: {**condition, "lastTransitionTime": moved}}.values())
