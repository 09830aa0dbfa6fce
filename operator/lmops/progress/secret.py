"""The Secret with the endpoint's certificates: all replicas read it, and the leader keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from lmops.cluster import Cluster, RefusedError
from lmops.plan import Manifest
from lmops.progress.certificates import Keyring, renewed
from lmops.settings import Settings

SECRET = "lmops-progress-tls"

log = logging.getLogger("lmops.progress")


class Certificates:
    """What a replica knows of that Secret, and on the leader also what it makes of it."""

    def __init__(self, cluster: Cluster, settings: Settings, leads: Callable[[], bool]) -> None:
        self.cluster, self.leads, self.namespace = cluster, leads, settings.namespace
        service = f"{settings.progress_service}.{settings.namespace}"
        self.names = (f"{service}.svc", f"{service}.svc.cluster.local", service, settings.progress_service)

    async def current(self, now: datetime) -> Keyring | None:
        """What the Secret holds; on the leader with what was due. `None` while there is none."""
        try:
            secret = await self.cluster.get("Secret", self.namespace, SECRET)
        except RefusedError as refusal:
            if not refusal.is_missing:
                raise
            secret = None
        held = _read(secret)
        if not self.leads():
            return held if held.server else None
        keyring = renewed(held, self.names, now)
        if keyring is not held:
            await self._write(secret, keyring)
        return keyring

    async def _write(self, secret: Manifest | None, keyring: Keyring) -> None:
        whole = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": self.namespace, **(secret or {}).get("metadata", {})},
            "type": "kubernetes.io/tls",
            "data": keyring.data(),
        }
        await (self.cluster.replace(whole) if secret else self.cluster.create(whole))
        assert keyring.server is not None
        log.info("Secret %s/%s: a certificate until %s", self.namespace, SECRET, keyring.server.ends.isoformat())


def _read(secret: Manifest | None) -> Keyring:
    try:
        return Keyring.read(secret.get("data", {})) if secret else Keyring()
    except ValueError as error:
        log.warning("Secret %s is not in order and will be made anew: %s", SECRET, error)
        return Keyring()
