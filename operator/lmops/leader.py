"""One replica leads: it holds a Lease, checks it before every write, and ends when it has lost it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import NamedTuple

from lmops.cluster import Cluster, RefusedError, UnreachableError
from lmops.plan import Manifest

HOLD, RETRY = 15.0, 2.0
"""Seconds a lease holds, and between two tries to renew it: those of client-go."""
PATIENCE = 60.0
"""Seconds without an answer before a leader ends. It writes nothing meanwhile, and leads on if nobody else did."""

log = logging.getLogger("lmops.leader")


class LostError(RuntimeError):
    """This replica may not write any more."""


class Seen(NamedTuple):
    """A version of another's lease: when it was first seen, and how long it holds from then on."""

    version: str
    at: float
    holds: float


class Leader:
    """A candidate for a Lease, or its holder.

    The times in a Lease are those of other machines' clocks, so they are never compared: another's lease has run out
    when it was seen unchanged for as long as it holds (client-go's rule).
    """

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self.cluster, self.namespace, self.name, self.identity = cluster, namespace, name, identity
        self.until = 0.0
        """The monotonic time until which the lease is surely ours."""
        self._seen: Seen | None = None

    @property
    def leads(self) -> bool:
        """Whether the lease is surely ours now."""
        return time.monotonic() < self.until

    @property
    def overdue(self) -> float:
        """For how many seconds a lease that was ours has not been renewed."""
        return max(0.0, time.monotonic() - self.until) if self.until else 0.0

    def permit(self) -> None:
        """Raises `LostError` where nothing may be written."""
        if not self.leads:
            raise LostError(f"{self.identity} does not hold Lease {self.namespace}/{self.name}")

    async def elected(self) -> None:
        """Returns once the lease is ours."""
        while not await self._try():
            await asyncio.sleep(RETRY)
        log.info("%s leads", self.identity)

    async def keep(self) -> None:
        """Renews the lease; raises `LostError` when that has failed for too long, or another one holds it."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(RETRY)
            if await self._try():
                renewed = time.monotonic()
            elif not self.until or time.monotonic() - renewed > PATIENCE:
                raise LostError(f"{self.identity} has lost Lease {self.namespace}/{self.name}")

    async def resign(self) -> None:
        """Gives the lease back, so that the next one need not wait for its end."""
        if not self.leads:
            return
        try:
            lease = await self.cluster.get("Lease", self.namespace, self.name)
            if lease["spec"].get("holderIdentity") == self.identity:
                await self.cluster.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except (RefusedError, UnreachableError) as error:
            log.warning("Lease %s/%s was not given back: %s", self.namespace, self.name, error)
        self.until = 0.0

    async def _try(self) -> bool:
        """Takes or renews the lease where that is allowed."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(HOLD / 3):
                lease = await self._written()
        except RefusedError as refusal:
            if refusal.status not in (404, 409):
                log.warning("Lease %s/%s: %s", self.namespace, self.name, refusal)
            return False
        except (UnreachableError, TimeoutError) as error:
            log.warning("Lease %s/%s: %s", self.namespace, self.name, error or "no answer")
            return False
        if lease is None:
            return False
        self.until = began + HOLD
        return True

    async def _written(self) -> Manifest | None:
        try:
            lease = {**await self.cluster.get("Lease", self.namespace, self.name), "kind": "Lease"}
        except RefusedError as refusal:
            if not refusal.is_missing:
                raise
            if self._seen and time.monotonic() - self._seen.at <= self._seen.holds:
                return None  # its holder does not know yet that it is gone
            return await self.cluster.create(self._lease(0))
        spec = lease.get("spec", {})
        holder, turns = spec.get("holderIdentity") or "", spec.get("leaseTransitions", 0)
        if holder and holder != self.identity:
            if self.until:  # it was ours, and somebody else was sure that it was not
                self.until = 0.0
            if not self._has_run_out(lease):
                return None
        mine = self._lease(turns + (holder != self.identity), spec if holder == self.identity else {})
        return await self.cluster.replace({**mine, "metadata": lease["metadata"]})

    def _has_run_out(self, lease: Manifest) -> bool:
        version, now = lease["metadata"]["resourceVersion"], time.monotonic()
        if not self._seen or version != self._seen.version:
            self._seen = Seen(version, now, float(lease["spec"].get("leaseDurationSeconds", HOLD)))
        return now - self._seen.at > self._seen.holds

    def _lease(self, transitions: int, before: Manifest | None = None) -> Manifest:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(HOLD),
                "acquireTime": (before or {}).get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
