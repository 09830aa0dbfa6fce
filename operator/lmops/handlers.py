"""The wiring to Kopf: it watches; what it sees goes into the cache, and the key of its resource into the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import kopf

from lmops.cache import SELECTOR, Cache, Key
from lmops.cluster import RESOURCES
from lmops.kinds import Kind
from lmops.plan import Manifest


class Watch:
    """What Kopf sees of our kinds, of their children, and of the children's pods."""

    def __init__(self, kinds: dict[str, Kind], cache: Cache, enqueue: Callable[[Key], None]) -> None:
        self.cache, self.enqueue = cache, enqueue
        self.seen = time.monotonic()
        """When anything was seen last."""
        self.children = sorted({child for kind in kinds.values() for child in (*kind.children, "Pod")})
        self.registry = kopf.OperatorRegistry()
        kopf.on.login(registry=self.registry)(login)
        for name in (*kinds, *self.children):
            resource = RESOURCES[name]
            kopf.on.event(*resource.group_version, resource.plural, registry=self.registry)(self.see)

    async def see(self, event: Any, **_: Any) -> None:
        """An event of any kind that is watched."""
        self.seen = time.monotonic()
        manifest: Manifest = dict(event["object"])
        key = self.cache.drop(manifest) if event["type"] == "DELETED" else self.cache.take(manifest)
        if key is not None:
            self.enqueue(key)

    async def run(self, namespaces: tuple[str, ...], ready: asyncio.Event) -> None:
        """Watches until the process is told to end."""
        await kopf.operator(
            registry=self.registry,
            settings=settings(self.children, scans=not namespaces),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            ready_flag=ready,
        )


class Blind(kopf.DiffBaseStorage):
    """Kopf is not to compare versions of an object, for which it would copy each of them: the cache does that."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Keeps nothing."""


def settings(children: list[str], scans: bool) -> kopf.OperatorSettings:
    """Kopf as a watcher and no more: it writes nothing, and of what is not ours it sees nothing.

    It scans for CRDs and namespaces only where it may: one that watches some namespaces has rights in these alone.
    """
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = not scans
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.persistence.diffbase_storage = Blind()
    chosen.queueing.idle_timeout = 0.1  # a task for each object that was seen shortly before is kept that long
    chosen.process.ultimate_exiting_timeout = 20
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.networking.error_backoffs = (0.5, 1, 2, 4, 8)
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = 500
    for name in children:
        resource = RESOURCES[name]
        chosen.watching.label_selectors[(*resource.group_version, resource.plural)] = SELECTOR
    return chosen


def login(**known: Any) -> kopf.ConnectionInfo | None:
    """The pod's own ServiceAccount, or what KUBECONFIG names."""
    return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)
