"""How a resource stands that no engine works on: its last status would tell of work that nobody does."""

from __future__ import annotations

from lmops.local.home import Folder, in_namespace
from lmops.local.kinds import KINDS
from lmops.plan import Manifest

STOPPED = "Stopped"


def seen(folder: Folder, alive: bool | None = None) -> Manifest | None:
    """The resource as it stands: `Stopped` where no engine is at work on what it has begun and not ended."""
    if alive is None:
        alive = folder.alive  # looked at first, so that the status is the last word of an engine that has just ended
    resource = folder.resource()
    if resource is None or alive or _rests(folder, resource["status"]):
        return resource
    return {**resource, "status": _stopped(resource["status"], _goes_on(folder, resource))}


def _rests(folder: Folder, status: Manifest) -> bool:
    """Whether it says what stays true without an engine; an empty status is of one that is about to start."""
    return not status or status.get("phase") == "Suspended" or KINDS[folder.kind].story.is_over(status)


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
