"""The engine of one resource: look, move the cluster on, reconcile, carry the plan out, until all is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from lmops.local.cluster import Cluster
from lmops.local.front import Front
from lmops.local.home import Folder, Home
from lmops.local.kinds import Kind
from lmops.local.kubelet import Kubelet, Node
from lmops.patches import merged
from lmops.plan import Manifest, Plan, Ref, created
from lmops.settings import Settings

TICK = 0.1
"""Seconds between two looks."""
HEARD = timedelta(seconds=2)
"""How soon what servers say of their traffic is looked at again."""


class Outcome(StrEnum):
    """How an engine came to its end."""

    ENDED = "Ended"
    SUSPENDED = "Suspended"
    DELETED = "Deleted"
    STOPPED = "Stopped"


class Engine:
    """Runs one resource. It holds the resource's lock while it does."""

    def __init__(
        self, home: Home, folder: Folder, kind: Kind, settings: Settings, node: Node, show: Callable[[], None]
    ) -> None:
        self.home, self.folder, self.kind, self.settings, self.show = home, folder, kind, settings, show
        self.kubelet = Kubelet(home, folder, node)
        self.cluster = Cluster(folder, self.kubelet)
        self.resource: Manifest = {}
        self.stamp = self.told = -1
        self.again: datetime | None = None
        self.traffic: dict[str, Manifest] = {}
        self.traffic_at = datetime.min.replace(tzinfo=UTC)
        self.stopping = self.stale = False
        self.awaited: tuple[Ref, ...] = ()
        self.heard: tuple[int, ...] = ()
        """When each resource that this one waits for last changed."""

    @property
    def status(self) -> Manifest:
        """The present status."""
        status: Manifest = self.resource.get("status", {})
        return status

    async def run(self) -> Outcome:
        """Works until the resource has ended, is suspended or deleted, or the engine is stopped."""
        self.cluster.load(_now())
        self.stale = True
        front = await self._front()
        try:
            while True:
                outcome = self._tick(_now())
                if front:
                    front.lead(self.cluster.answering())
                self.show()
                if outcome:
                    return outcome
                await asyncio.sleep(0 if self.stale and not self.stopping else TICK)
        finally:
            if front:
                front.close()

    def stop(self) -> None:
        """Stops all pods in order; asked a second time, at once."""
        if self.stopping:
            self.kubelet.kill_all()
        self.stopping = True
        self.cluster.go_down(_now())

    def parsed(self) -> Any:
        """The resource as it is now."""
        return self.kind.crd.model.model_validate(self.resource)

    def merge(self, patch: Manifest) -> None:
        """Takes a merge patch of the status in, as the progress endpoint sends it."""
        self.resource["status"] = merged(self.status, patch)
        self.folder.write_status(self.status)

    async def _front(self) -> Front | None:
        """The address of a resource that answers."""
        if "InferenceService" not in self.kind.row.children:
            return None
        front = await Front.opened(self.home, self.folder)
        self.cluster.front = front.port
        return front

    def _tick(self, now: datetime) -> Outcome | None:
        self._look()
        moved = self.cluster.step(now)
        due = self.again is not None and now >= self.again
        if self.stopping:
            return self._stopped(now)
        if "deletionTimestamp" in self.resource["metadata"]:
            return self._deleted(now)
        if moved or due or self.stale or self._has_traffic(now):
            self._carry_out(self._plan(now), now)
        if not self.stale and self.told != self.stamp:
            self.told = self.stamp
            self.folder.tell(self.stamp)
        return self._end(now)

    def _has_traffic(self, now: datetime) -> bool:
        """Whether the servers say something new; they would every second."""
        if now < self.traffic_at + HEARD:
            return False
        before, self.traffic, self.traffic_at = self.traffic, self.cluster.figures(), now
        return before != self.traffic

    def _look(self) -> None:
        """Reads what the user asks for, when it has changed; and sees whether what it waits for has."""
        heard = self.home.changes(self.folder.namespace, self.awaited)
        self.heard, self.stale = heard, self.stale or heard != self.heard
        if (stamp := self.folder.stamp()) == self.stamp:
            return
        self.stamp, self.stale = stamp, True
        self.resource = {**(self.folder.applied() or self.resource), "status": self.status or self.folder.status()}

    def _plan(self, now: datetime) -> Plan[Any]:
        resource = self.parsed()
        self.awaited = self.kind.row.sources(resource)
        seen = tuple(found for ref in self.awaited for found in self.home.resources(self.folder.namespace, ref))
        return self.kind.row.reconcile(resource, replace(self.cluster.observed(), sources=seen), now, self.settings)

    def _carry_out(self, plan: Plan[Any], now: datetime, only_tell: bool = False) -> None:
        """Writes the status if it is another, then deletes, creates and tells the events: in the order of a cluster."""
        status = plan.status.manifest()
        changed = status != self.status
        if changed:
            self.resource["status"] = status
            self.folder.write_status(status)
        for ref in () if only_tell else plan.delete:
            self.cluster.delete(ref, now)
        for manifest in () if only_tell else plan.create:
            self.cluster.create(manifest, now)
        for manifest in () if only_tell else plan.apply:
            self.cluster.apply(manifest, now)
        born = () if only_tell else tuple(map(created, plan.create))
        self.folder.add_events((*(plan.events if changed else ()), *born), now)
        self.stale = bool(changed or plan.create or plan.apply or plan.delete)
        self.again = None if plan.again is None else now + plan.again

    def _stopped(self, now: datetime) -> Outcome | None:
        """Once no process is left, what happened is recorded, so that `get` tells it and the next engine goes on."""
        if not self.cluster.is_quiet():
            return None
        self._carry_out(self._plan(now), now, only_tell=True)
        return Outcome.ENDED if self.kind.story.is_over(self.status) else Outcome.STOPPED

    def _deleted(self, now: datetime) -> Outcome | None:
        for ref in self.cluster.children:
            self.cluster.delete(ref, now)
        if not self.cluster.is_empty():
            return None
        self.folder.remove()
        return Outcome.DELETED

    def _end(self, now: datetime) -> Outcome | None:
        """Nothing is left to do: the resource has ended or rests. What still runs then is stopped as with a node."""
        over, suspended = self.kind.story.is_over(self.status), is_suspended(self.status)
        if self.stale or self.cluster.is_leaving() or not (over or suspended):
            return None
        if self.cluster.is_quiet():
            return Outcome.ENDED if over else Outcome.SUSPENDED
        if over:
            self.cluster.go_down(now)
        return None


def is_suspended(status: Manifest) -> bool:
    """Whether the resource rests, because its spec says so."""
    return status.get("phase") == "Suspended"


def _now() -> datetime:
    return datetime.now(UTC)
