"""Events: what `kubectl describe` tells of a resource."""

from __future__ import annotations

import hashlib
import logging
import socket
from datetime import UTC, datetime

from lmops.cluster import Cluster, RefusedError, UnreachableError
from lmops.plan import Event, Manifest

CONTROLLER = "lmops.dev/operator"
LONGEST = 1024
"""The longest note that the API takes."""

log = logging.getLogger("lmops.events")


async def post(cluster: Cluster, owner: Manifest, event: Event, now: datetime) -> None:
    """Tells an event. A lost one is logged and no more: the status has said the same already."""
    try:
        await cluster.create(manifest(owner, event, now))
    except (RefusedError, UnreachableError) as error:
        if not (isinstance(error, RefusedError) and error.is_taken):
            log.warning("event %s of %s was not told: %s", event.reason, owner["metadata"]["name"], error)


def manifest(owner: Manifest, event: Event, now: datetime) -> Manifest:
    """An Event whose name is made of what it says about which version, so that it is told once, and sorted by it.

    `kubectl describe` sorts events without a `lastTimestamp`, as those of this API are, by their names.
    """
    metadata = owner["metadata"]
    said = "\0".join((metadata["uid"], metadata["resourceVersion"], event.reason, event.message))
    digest = hashlib.sha256(said.encode()).hexdigest()
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{_order(metadata['resourceVersion'])}{digest[:8]}",
            "namespace": metadata["namespace"],
        },
        "type": event.type,
        "reason": event.reason,
        "action": event.reason,
        "note": event.message if len(event.message) <= LONGEST else event.message[: LONGEST - 1] + "…",
        "eventTime": now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": socket.gethostname()[:128],
        "regarding": {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    }


def _order(version: str) -> str:
    """A version as a text of fixed length, so that later ones sort after earlier ones."""
    return f"{int(version) if version.isdigit() else 0:012x}"
