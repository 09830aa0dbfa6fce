"""The group of pods that runs an attempt: what each of them waits for, when it ended, and whether one was lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lmops.api import Failure
from lmops.api.base import GROUP
from lmops.api.status import FailureClass
from lmops.jobs.failure import failure, terminated_of
from lmops.plan import Manifest, Observed

OVERDUE = timedelta(minutes=2)
"""How long after its grace a pod may stay on a node that no longer answers."""
BLOCKED: dict[str, FailureClass] = {
    "Unschedulable": "Unschedulable",
    "ImagePullBackOff": "Image",
    "InvalidImageName": "Image",
    "ErrImageNeverPull": "Image",
    "ImageInspectError": "Image",
    "RegistryUnavailable": "Image",
    "ContainerCreating": "Volume",
}
"""What a pod may wait for in vain, by the scheduler's or the kubelet's word; other words speak of its settings."""
SECRET = "Make the Secret, or correct its name in the spec."
SILENT = "ContainerCreating"
"""What the kubelet says of a pod whose volumes, network or image it is still busy with."""


@dataclass(frozen=True)
class Blocked:
    """Something without which a pod cannot start, and since when."""

    failure: Failure
    since: datetime


def pods_of(observed: Observed, run: str) -> list[Manifest]:
    """The pods of a run, in the order of their names."""
    mine = [pod for pod in observed.pods if pod["metadata"].get("labels", {}).get(f"{GROUP}/run") == run]
    return sorted(mine, key=lambda pod: pod["metadata"]["name"])


def is_running(pod: Manifest) -> bool:
    """Whether its container works."""
    return bool(pod["status"].get("phase") == "Running") and not has_ended(pod)


def has_ended(pod: Manifest) -> bool:
    """Whether it will not run any more. A kubelet tells that of the container a moment before the phase follows."""
    return pod["status"].get("phase") in ("Succeeded", "Failed") or bool(terminated_of(pod))


def overdue_in(pod: Manifest, now: datetime) -> timedelta | None:
    """The time left to a pod that is to go; below zero its node no longer answers. `None` for one that may stay."""
    deletion = pod["metadata"].get("deletionTimestamp")
    return None if deletion is None else datetime.fromisoformat(deletion) + OVERDUE - now


def is_overdue(pod: Manifest, now: datetime) -> bool:
    """Whether a pod has not gone although it should have long ago."""
    left = overdue_in(pod, now)
    return left is not None and left < timedelta(0)


def born(pod: Manifest) -> datetime | None:
    """When it was created."""
    created = pod["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(created) if created else None


def newest(pods: list[Manifest]) -> datetime | None:
    """When the last of them was created."""
    return max((birth for pod in pods if (birth := born(pod))), default=None)


def started(pod: Manifest) -> datetime | None:
    """When its container began to work."""
    state = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {})
    start = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return datetime.fromisoformat(start) if start else None


def ended(pods: list[Manifest]) -> datetime | None:
    """When the last of them ended; `None` while one runs."""
    ends = [str(terminated_of(pod).get("finishedAt") or "") for pod in pods]
    return max(map(datetime.fromisoformat, ends)) if ends and all(ends) else None


def lost(pods: list[Manifest], wanted: int, gathered: datetime | None) -> Failure | None:
    """What happened to a pod that was there once: `gathered` is when the last of a complete group was created.

    Kubeflow's controller puts a new pod in the place of one that was deleted, whatever `restartPolicy` says. A group
    that has begun to train cannot take it in.
    """
    if gathered is None:
        return None
    for pod in pods:
        if (birth := born(pod)) and birth > gathered:
            return _gone(f"{pod['metadata']['name']} was deleted while it ran, and another pod has taken its place.")
    if len(pods) < wanted:
        return _gone(f"A pod was deleted while it ran: {len(pods)} of {wanted} are left.")
    return None


def _gone(message: str) -> Failure:
    return failure("WorkerLost", "PodDeleted", message, remedy="Look at who deletes pods: kubectl get events.")


def waiting(pod: Manifest) -> tuple[str, str]:
    """What a pod that does not run waits for: a word and a sentence of the scheduler's or the kubelet's own.

    A kubelet that pulls in vain says ErrImagePull and ImagePullBackOff in turn: one word is enough.
    """
    status = pod["status"]
    if status.get("phase") not in (None, "Pending"):
        return "", ""
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    state = (status.get("containerStatuses") or [{}])[0].get("state", {}).get("waiting")
    if state:
        word = state.get("reason", "")
        return ("ImagePullBackOff" if word == "ErrImagePull" else word), state.get("message", "")
    return SILENT, ""


def blocked(pod: Manifest) -> Blocked | None:
    """What a pod waits for that may never come. A wait for a node is not counted against an image."""
    word, sentence = waiting(pod)
    since = placed(pod)
    if not word or since is None:
        return None
    class_ = "Volume" if "persistentvolumeclaim" in sentence else BLOCKED.get(word)
    class_ = class_ or ("Credentials" if "secret" in sentence else "Settings")
    told = sentence or ("its volumes or its network are not there: kubectl describe pod" if word == SILENT else word)
    said = f"{pod['metadata']['name']} could not start: {told.rstrip('.')}."
    why = failure(class_, word, said, remedy=SECRET if class_ == "Credentials" else "")
    return Blocked(why, since)


def placed(pod: Manifest) -> datetime | None:
    """When a node took it, else when it was created."""
    taken = (c for c in pod["status"].get("conditions", ()) if c["type"] == "PodScheduled" and c["status"] == "True")
    since = next((c.get("lastTransitionTime") for c in taken), None)
    return datetime.fromisoformat(since) if since else born(pod)
