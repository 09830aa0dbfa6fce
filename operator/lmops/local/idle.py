"""How a resource stands that no engine works on: its last status would tell of work that nobody does."""

from __future__ import annotations

from lmops.local.home import Folder, in_namespace
from lmops.plan import Manifest

STOPPED = "Stopped"
RESTING = ("Succeeded", "Failed", "Suspended")
"""Phases that stay true without an engine."""


def seen(folder: Folder) -> Manifest | None:
    """The resource as it stands: `Stopped` where no engine is at work on what has not ended."""
    alive = folder.alive  # looked at first, so that the status is the last word of an engine that has just ended
    resource = folder.resource()
    if resource is None or alive or resource["status"].get("phase") in RESTING:
        return resource
    return {**resource, "status": _stopped(resource["status"], _goes_on(folder, resource))}


def _stopped(status: Manifest, reason: str) -> Manifest:
    """A status without what it tells of processes: they are gone, or nobody looks after them."""
    shown = {**status.get("display", {}), "load": "", "reason": reason}
    for counted in ("nodes", "replicas"):
        if wanted := shown.get(counted, "").partition("/")[2]:
            shown[counted] = f"0/{wanted}"
    return {**status, "phase": STOPPED, "display": shown}


def _goes_on(folder: Folder, resource: Manifest) -> str:
    apply = f"apply{in_namespace(folder.namespace)} -f FILE"
    command = f"delete {folder}" if "deletionTimestamp" in resource["metadata"] else apply
    return f"no engine is at work: lmops local {command} goes on"
