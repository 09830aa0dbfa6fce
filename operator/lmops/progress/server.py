"""The endpoint on a cluster: it speaks HTTPS on every replica, and reads and writes jobs at the API server."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from lmops.cluster import Cluster, RefusedError, UnreachableError
from lmops.jobs.work import AnyWork
from lmops.kinds import JOBS, KINDS
from lmops.plan import Key
from lmops.progress.certificates import Keyring
from lmops.progress.endpoint import ConflictError, Endpoint
from lmops.progress.secret import Certificates
from lmops.progress.tokens import Issuer, Remembered, reviewer
from lmops.progress.trust import Trust
from lmops.settings import Settings

RELOAD, RETRY = 60.0, 2.0
"""Seconds between two looks at the Secret, and before there is any."""
GRACE = 5.0
"""Seconds that posts under way have when the operator ends."""

log = logging.getLogger("lmops.progress")


class Jobs:
    """The jobs of a cluster, for the endpoint."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self.cluster, self.settings = cluster, settings

    async def read(self, job: Key) -> tuple[AnyWork, str]:
        """A job as it is now."""
        try:
            found = await self.cluster.get(*job)
            work = JOBS[job.kind](KINDS[job.kind].form.model.model_validate(found), self.settings)
            return work, found["metadata"]["resourceVersion"]
        except RefusedError as refusal:
            raise _told(refusal) from refusal
        except ValidationError as error:  # of another version's form: it has no runs
            raise LookupError(str(job)) from error

    async def write(self, job: Key, status: dict[str, Any], version: str) -> None:
        """Merges a patch into the status of the version that was read."""
        try:
            await self.cluster.patch_status(*job, status, version)
        except RefusedError as refusal:
            raise _told(refusal) from refusal


def _told(refusal: RefusedError) -> Exception:
    if refusal.is_missing:
        return LookupError(refusal.message)
    return ConflictError(refusal.message) if refusal.is_stale else refusal


class Server:
    """The endpoint of one replica. Whether it leads makes no difference to those who post."""

    def __init__(self, settings: Settings, cluster: Cluster, certificates: Certificates) -> None:
        self.settings, self.certificates = settings, certificates
        self.endpoint = Endpoint(Jobs(cluster, settings), guard=guard(cluster, settings))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.port = settings.progress_port
        self._shown = ("", "")
        self._task: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        """Set once there is a certificate to show."""

    @asynccontextmanager
    async def serving(self, publish: Callable[[str], None] = lambda bundle: None) -> AsyncIterator[None]:
        """Serves the endpoint; who comes before there is a certificate waits in the queue of the socket.

        `publish` is told the authorities that pods must be created with, whenever they change.
        """
        listening = _listening(self.settings.progress_port)
        self.port = listening.getsockname()[1]
        app = self.endpoint.application()
        app.middlewares.append(unavailable)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
        await runner.setup()
        self._task = asyncio.create_task(self._work(runner, listening, publish))
        self._task.add_done_callback(_ended)
        try:
            yield
        finally:
            self._task.cancel()
            await runner.cleanup()
            listening.close()

    def problem(self) -> str:
        """What is wrong with it, empty when nothing is."""
        return "the progress endpoint has ended" if self._task and self._task.done() else ""

    async def published(self, within: float) -> None:
        """Waits until there is a certificate, but no longer: jobs that tell no progress are better than no jobs."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ready.wait(), within)

    async def _work(self, runner: web.AppRunner, listening: socket.socket, publish: Callable[[str], None]) -> None:
        while True:
            try:
                keyring = await self.certificates.current(datetime.now(UTC))
            except (RefusedError, UnreachableError) as error:
                log.warning("the endpoint's certificates: %s", error)
                keyring = None
            if keyring:
                self.show(keyring)
                publish(keyring.bundle)
            if keyring and not self.ready.is_set():
                await web.SockSite(runner, listening, ssl_context=self.context).start()
                self.ready.set()
            await asyncio.sleep(RELOAD if self.ready.is_set() else RETRY)

    def show(self, keyring: Keyring) -> None:
        """Shows this certificate to those who come from now on; connections that are open stay."""
        if keyring.chain != self._shown:
            _load(self.context, *keyring.chain)
            self._shown = keyring.chain


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the progress endpoint has ended", exc_info=error)


def _listening(port: int) -> socket.socket:
    """All addresses of this pod, of both families where there are two."""
    both = socket.has_dualstack_ipv6()
    return socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)


def guard(cluster: Cluster, settings: Settings) -> Trust:
    """Tokens are reviewed, which only a cluster-wide role allows; else their issuer's keys verify them."""
    audience = settings.progress_audience
    known = Issuer(cluster.document, audience).verify if settings.namespaces else reviewer(cluster.create, audience)
    return Trust(cluster, Remembered(known), audience)


@web.middleware
async def unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A post that meets an API server in trouble is to be posted again."""
    try:
        return await handler(request)
    except (RefusedError, UnreachableError) as error:
        log.warning("%s: %s", request.path, error)
        raise web.HTTPServiceUnavailable(text="the API server does not take it now; post again later\n") from None


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python loads certificates from files alone; a pipe is one that never lies on a disk."""
    with _piped(certificate) as first, _piped(key) as second:
        context.load_cert_chain(first, second)


@contextmanager
def _piped(text: str) -> Iterator[str]:
    reading, writing = os.pipe()
    try:
        os.write(writing, text.encode())
        os.close(writing)
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)
