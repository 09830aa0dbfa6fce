"""The operator's process: it waits until it leads, fills its cache, and works until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from lmops import __version__, obstacles
from lmops.cluster import Kubernetes, RefusedError, UnreachableError, connected
from lmops.controller import Controller, NotCreatedError
from lmops.handlers import RECONNECT, Watch
from lmops.kinds import kinds
from lmops.leader import Leader, LostError
from lmops.metrics import Metrics
from lmops.plan import Key
from lmops.progress.secret import Certificates
from lmops.progress.server import Server
from lmops.queue import Queue
from lmops.settings import Settings

SETTLE, LONGEST = 0.5, 15.0
"""Seconds between a lost watch and the list that follows, and between two tries to list at the most."""
STUCK = 60.0
"""Seconds in which keys wait and no work is finished, or a lease waits for its renewal, before all this is unwell."""
DEAF = 2.0 * RECONNECT
"""Seconds in which a watch was not even opened anew, before it does."""
BLIND = 30.0
"""Seconds without a single watch before it does not call itself ready."""
LEASE = "lmops-operator"
OPENED_WITHIN = 10.0
"""Seconds that the first list waits for the watches."""
PUBLISHED_WITHIN = 10.0
"""Seconds that the first reconcile waits for the certificates that pods are created with."""

log = logging.getLogger("lmops")


class Service:
    """One replica of the operator."""

    def __init__(
        self, settings: Settings, cluster: Kubernetes, leader: Leader, metrics: Metrics, progress: Server | None = None
    ) -> None:
        self.settings, self.leader, self.metrics = settings, leader, metrics
        self.kinds = kinds(settings)
        self.controller = Controller(self.kinds, cluster, settings)
        self.queue = Queue[Key](self._work, self._failed, observer=metrics)
        self.controller.changed = self.queue.add
        metrics.serves(self.kinds, self.queue.workers)
        self.missed = asyncio.Event()
        """Set where a watch may have missed events."""
        self.watch = Watch(self.kinds, self.controller.cache, self.queue.add, self.missed.set, cluster.serves)
        if not settings.namespaces:
            self.watch.confine(())
        self._stopped = asyncio.Event()
        self.works, self.trouble = False, "the first list is not through yet"
        self.progress = progress

    async def run(self) -> None:
        """Returns after SIGTERM; raises `LostError` when another replica has taken over."""
        self._listen()
        stopped = asyncio.create_task(self._stopped.wait())
        elected = asyncio.create_task(self.leader.elected())
        try:
            await asyncio.wait({stopped, elected}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                await self._lead()
        finally:
            stopped.cancel()
            elected.cancel()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.leader.keep()),
                group.create_task(self.watch.run(started=self._listen)),
                group.create_task(self._reconcile()),
                group.create_task(self._look_for_obstacles()),
            ]
            await self._stopped.wait()
            log.info("ending: what is under way is finished by the next leader")
            for task in reversed(tasks):
                task.cancel()
        await self.leader.resign()

    def _listen(self) -> None:
        """Takes SIGTERM and SIGINT, which each start of Kopf takes to itself."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopped.set)

    def problem(self) -> str:
        """What is wrong with this process, empty when nothing is: one that holds no lease is well and waits."""
        if self.leader.overdue > STUCK:
            return f"the lease ran out {self.leader.overdue:.0f} s ago"
        if self.queue.stuck > STUCK:
            return f"keys wait, and no work was finished for {self.queue.stuck:.0f} s"
        if self.works and self.watch.silence > DEAF:
            return f"a watch was not opened for {self.watch.silence:.0f} s"
        return self.progress.problem() if self.progress else ""

    def waits(self) -> str:
        """What this process still waits for before it does its part, empty when nothing."""
        if self.progress and not self.progress.ready.is_set():
            return "the progress endpoint has no certificate yet"
        if self.works and self.watch.unopened > BLIND:
            return f"no watch is open for {self.watch.unopened:.0f} s"
        return self.trouble if self.leader.leads else ""

    def lacks(self) -> str:
        """What it does without meanwhile, empty when nothing: the other namespaces are served."""
        forbidden = self.controller.forbidden
        return f"namespaces that may not be read: {', '.join(sorted(forbidden))}" if forbidden else ""

    def exposed(self) -> bytes:
        """The metrics, with the gauges of this moment."""
        self.metrics.working(self.kinds, self.queue.busy)
        self.metrics.stand(self.controller.cache.standings(), self.controller.now())
        self.metrics.leads.labels(LEASE).set(float(self.leader.leads))
        return self.metrics.text()

    def trust(self, bundle: str) -> None:
        """From now on pods are created with these authorities of the progress endpoint."""
        self.controller.settings = self.controller.settings.model_copy(update={"progress_ca": bundle})

    async def _reconcile(self) -> None:
        """Workers start once everything was listed: before that, what was not seen yet would seem to be gone."""
        async with asyncio.TaskGroup() as group:
            await self._listened()
            await self._resync()
            if self.progress:
                await self.progress.published(PUBLISHED_WITHIN)
            self.works = True
            group.create_task(self.queue.run())
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.resync_seconds):
                        await self.missed.wait()
                    await asyncio.sleep(SETTLE)  # all watches lose their connection together
                self.missed.clear()
                await self._resync()

    async def _listened(self) -> None:
        """Waits for the watches, but no longer: a list that begins before them has to be repeated.

        Where only some namespaces are watched, the list is to say first which of them can be.
        """
        if self.watch.namespaces is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.watch.opened.wait(), OPENED_WITHIN)
        await asyncio.sleep(SETTLE)  # the others begin with them
        self.missed.clear()

    async def _look_for_obstacles(self) -> None:
        """Asks from time to time what keeps children from their pods: neither they nor watches of ours tell it."""
        while True:
            await asyncio.sleep(obstacles.OFTEN)
            if self.works:
                await self.controller.obstacles.look(self.queue.add)

    async def _resync(self) -> None:
        """Lists everything, however often that takes."""
        wait = 1.0
        while True:
            try:
                await self.controller.resync(self.settings.namespaces or ("",), self.queue.add)
            except (RefusedError, UnreachableError) as error:
                self.trouble, wait = f"the cluster could not be listed: {error}", min(LONGEST, wait * 2)
                log.warning("%s (again in %.0f s)", self.trouble, wait)
                await asyncio.sleep(wait)
                continue
            if self.trouble:
                self.controller.since = self.controller.now()
            self.trouble = ""
            self._confine()
            log.debug("listed %d resources", len(self.controller.cache))
            return

    def _confine(self) -> None:
        """Watches what could be listed, and tells what could not."""
        asked, forbidden = self.settings.namespaces, self.controller.forbidden
        readable = tuple(where for where in asked if where not in forbidden)
        for where in asked:
            self.metrics.readable.labels(where).set(float(where in readable))
        if readable != self.watch.namespaces and (forbidden or self.watch.namespaces):
            log.warning("%s", f"{self.lacks()}: {next(iter(forbidden.values()))}" if forbidden else "all can be read")
        self.watch.confine(readable)

    async def _work(self, key: Key) -> float | None:
        with self.metrics.reconciling(key.kind.lower()):
            return await self.controller.reconcile(key)

    def _failed(self, key: Key, error: Exception, delay: float) -> None:
        known = isinstance(error, RefusedError | UnreachableError | NotCreatedError | LostError)
        words, trace = (key, error, delay), None if known else error
        log.warning("%s: %s (again in %.1f s)", *words, exc_info=trace, extra={"resource": key._asdict()})


async def run(settings: Settings) -> None:
    """Runs a replica until it is told to end."""
    metrics = Metrics()
    async with connected() as api:
        leases = Kubernetes(api, sent=metrics.sent)
        identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        leader = Leader(leases, settings.namespace, LEASE, identity)
        cluster = Kubernetes(api, leader.permit, metrics.sent)
        settings = addressed(settings)
        # What it writes needs no lease: all replicas answer. Only the Secret is the leader's.
        progress = Server(settings, leases, Certificates(cluster, settings, lambda: leader.leads))
        service = Service(settings, cluster, leader, metrics, progress)
        async with _probes(service, settings.port), progress.serving(service.trust):
            where = f"Lease {settings.namespace}/{LEASE} at {api.configuration.host}"
            log.info("lmops %s, %s: %s waits for %s", __version__, watched(settings), identity, where)
            await service.run()


def watched(settings: Settings) -> str:
    """The namespaces that are watched, in words."""
    return f"watching {', '.join(settings.namespaces) or 'all namespaces'}"


def addressed(settings: Settings) -> Settings:
    """The settings with the URL by which pods reach the progress endpoint, where none was given."""
    host = f"{settings.progress_service}.{settings.namespace}.svc"
    url = settings.progress_url or f"https://{host}:{settings.progress_port}"
    return settings.model_copy(update={"progress_url": url})


@asynccontextmanager
async def _probes(service: Service, port: int) -> AsyncIterator[None]:
    """`/healthz`, `/readyz` and `/metrics`."""

    async def healthz(request: web.Request) -> web.Response:
        problem = service.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=500 if problem else 200)

    async def readyz(request: web.Request) -> web.Response:
        waits = service.waits()
        return web.Response(text=f"{waits or service.lacks() or 'ok'}\n", status=503 if waits else 200)

    async def exposed(request: web.Request) -> web.Response:
        return web.Response(body=service.exposed(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposed)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def own_namespace() -> str:
    """The namespace of this pod; `default` outside of a cluster."""
    file = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    if not os.path.exists(file):
        return "default"
    with open(file) as text:
        return text.read().strip()
