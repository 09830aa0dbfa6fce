"""The wiring to Kopf: it watches; what it sees goes into the cache, and the key of its resource into the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import kopf
from yarl import URL

from lmops.cache import SELECTOR, Cache
from lmops.cluster import PAGE, RESOURCES
from lmops.discovery import ChangedError, changes
from lmops.kinds import Kind
from lmops.plan import Key, Manifest

FIRST, LONGEST, CALM = 0.5, 15.0, 60.0
"""Seconds before Kopf is started again, before any later start at the most, and after which all is well again."""
ENDING = 8.0
"""Seconds that Kopf may take to end when it is told to."""
RECONNECT = 300
"""Seconds after which the server ends a watch, so that even in an idle cluster something is heard of it."""

NOTHING = {"fieldSelector": "metadata.name=-", "resourceVersion": "0"}
"""What makes a list empty, and cheap for the server: no object has such a name, and its memory of a moment ago will do.
"""

WATCHER: Any = "lmops"
"""Kopf's name for itself. It has no peers, but would ask for the name of its user, whom passwd need not know."""

log = logging.getLogger("lmops.watch")


class Watch:
    """What Kopf sees of our kinds, of their children, and of the children's pods.

    Kopf gives up where it meets what it does not know: an error within a watch, half a line, a refusal that stays.
    It is started again then. (`kopf.operator` itself would cancel every task of the loop, and hang on its own.)

    Before it watches, Kopf lists, and makes a task of each object. It is given the version that a watch begins with and
    no object: what there is, the resync lists for the cache after that, in a fraction of the time.
    """

    def __init__(
        self,
        kinds: dict[str, Kind],
        cache: Cache,
        enqueue: Callable[[Key], None],
        missed: Callable[[], None],
        serves: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`missed` is called where a watch begins, so that a list is needed; `serves` knows what is installed."""
        self.cache, self.enqueue, self.missed, self.serves = cache, enqueue, missed, serves
        self.starts = 0
        """How often Kopf was started."""
        self.namespaces: tuple[str, ...] | None = None
        """What is watched, empty for all; `None` until somebody says it."""
        self._confined = asyncio.Event()
        self.children = sorted({child for kind in kinds.values() for child in (*kind.children, "Pod")})
        self._kinds = (*kinds, *self.children)
        self._plurals = {RESOURCES[name].plural for name in self._kinds}
        self._vital = {RESOURCES[name].plural for name in (*kinds, "Pod")}
        self._heard: dict[str, float] = {}
        """When each watch that cannot be missing was last answered, or refused; and any request at all."""
        self._begun = set[str]()
        self.opened = asyncio.Event()
        """Set once something was heard of each watch that cannot be missing: what happens from then on will be told."""
        self.registry = kopf.OperatorRegistry()
        kopf.on.login(registry=self.registry)(self._login)
        for name in self._kinds:
            resource = RESOURCES[name]
            kopf.on.event(*resource.group_version, resource.plural, registry=self.registry)(self._see)

    @property
    def silence(self) -> float:
        """For how many seconds a watch was not even tried to be opened: that is no fault of the server's."""
        return time.monotonic() - min(self._heard.values(), default=time.monotonic())

    @property
    def unopened(self) -> float:
        """For how many seconds no watch at all is open."""
        return time.monotonic() - self._heard.get("", time.monotonic()) if self._heard.keys() <= {""} else 0.0

    def confine(self, namespaces: tuple[str, ...]) -> None:
        """From now on watches these namespaces, or all: Kopf gives up all of them where it may not read one."""
        if namespaces != self.namespaces:
            self.namespaces = namespaces
            self._confined.set()

    async def run(self, started: Callable[[], None]) -> None:
        """Watches until it is cancelled, however often Kopf gives up. `started` is called after each of its starts."""
        wait = FIRST
        while True:
            began = time.monotonic()
            try:
                await self._once(await self._known(), started)
            except Exception as error:
                wait = FIRST if time.monotonic() - began > CALM else min(LONGEST, wait * 2)
                log.warning("the watch has ended and starts again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)

    async def _known(self) -> tuple[str, ...]:
        """What is to be watched, once that is known."""
        while self.namespaces is None:
            await self._confined.wait()
        return self.namespaces

    async def _moved(self, watched: tuple[str, ...]) -> None:
        """Raises `ChangedError` when other namespaces are to be watched than these."""
        while self.namespaces == watched:
            self._confined.clear()
            await self._confined.wait()
        raise ChangedError(f"{', '.join(self.namespaces or ())} can be read now, and no other namespace")

    async def _once(self, namespaces: tuple[str, ...], started: Callable[[], None]) -> None:
        """One run of Kopf; raises what Kopf gave up at."""
        self._begun.clear()
        last = self._heard.get("", time.monotonic())  # a start that fails before it asks anything is heard of by nobody
        self._heard, self.starts, stop = {"": last}, self.starts + 1, asyncio.Event()
        tasks = await kopf.spawn_tasks(
            registry=self.registry,
            settings=settings(self.children, scans=not namespaces),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            identity=WATCHER,
            stop_flag=stop,
        )
        # Kopf scans once when a CRD comes, which may be before its kind is served, and where it watches all alone.
        looking = [changes(self.serves, self._kinds), *([self._moved(namespaces)] if namespaces else [])]
        tasks = [*tasks, *map(asyncio.create_task, looking)]
        try:
            started()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stop.set()  # without it Kopf sends SIGKILL to this process when it does not end in time
            await _ended({task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")})
            await _ended(set(tasks))

    async def _see(self, event: Any, **_: Any) -> None:
        """An event of any kind that is watched."""
        manifest: Manifest = dict(event["object"])
        key = self.cache.drop(manifest) if event["type"] == "DELETED" else self.cache.take(manifest)
        if key is not None:
            self.enqueue(key)

    async def _login(self, **known: Any) -> kopf.AiohttpSession:
        """The pod's own ServiceAccount, or what KUBECONFIG names; in a session that tells what it hears."""
        info = kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)
        if info is None:
            raise kopf.LoginError("neither a ServiceAccount nor KUBECONFIG says where the cluster is")
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._unanswered)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),  # each watch holds a connection
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trust_env=info.trust_env or False,
            trace_configs=[trace],
            middlewares=[self._emptied],
        )
        return kopf.AiohttpSession(
            server=info.server, default_namespace=info.default_namespace, aiohttp_session=session
        )

    async def _emptied(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Sends a request of Kopf's; where that is a list, one that brings a version and no objects."""
        if self._is_list(request.url):
            request.url = request.url.update_query(NOTHING)
        return await send(request)

    async def _answered(self, session: object, context: object, told: aiohttp.TraceRequestEndParams) -> None:
        """A list means that a watch begins, and knows nothing of what was before; 403, that it may not."""
        self._hear(told.url)
        if told.response.status == 403:
            self.missed()
        if not self._is_list(told.url):
            return
        self.missed()
        self._begun.add(told.url.path)
        vital = [path for path in self._begun if path.rpartition("/")[2] in self._vital]
        if len(vital) == len(self._vital) * max(1, len(self.namespaces or ())):
            self.opened.set()

    def _is_list(self, url: URL) -> bool:
        return url.path.rpartition("/")[2] in self._plurals and "watch" not in url.query

    async def _unanswered(self, session: object, context: object, told: aiohttp.TraceRequestExceptionParams) -> None:
        self._hear(told.url)

    def _hear(self, url: URL) -> None:
        self._heard[""] = now = time.monotonic()
        if (plural := url.path.rpartition("/")[2]) in self._vital:
            self._heard[plural] = now


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Ends tasks, and waits for that as long as it is worth while."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=ENDING)


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
    chosen.watching.server_timeout = RECONNECT
    chosen.watching.client_timeout = RECONNECT + 10
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = PAGE
    for name in children:
        resource = RESOURCES[name]
        chosen.watching.label_selectors[(*resource.group_version, resource.plural)] = SELECTOR
    return chosen
