"""The user of the benchmark: it creates TrainingJobs, and sees by a watch when each has its first child."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bench.operator.meters import Requests
from cluster.controlplane import ControlPlane

NAMESPACE = "bench"
GROUPS = {"trainingjobs": "/apis/lmops.dev/v1alpha1", "jobs": "/apis/batch/v1", "pods": "/api/v1"}
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PARALLEL = 16


class Load:
    """One client of an API server."""

    def __init__(self, session: aiohttp.ClientSession, spec: dict[str, Any]) -> None:
        self.session, self.spec = session, spec
        self.requests = Requests()
        """What it has asked for itself."""
        self.sent: dict[str, float] = {}
        """When each job was sent."""
        self.children: dict[str, tuple[float, dict[str, Any]]] = {}
        """When the first child of each was seen, and its metadata."""

    async def create(self, name: str) -> None:
        """Creates a job."""
        self.sent[name] = time.monotonic()
        metadata = {"name": name}
        body = {"apiVersion": "lmops.dev/v1alpha1", "kind": "TrainingJob", "metadata": metadata, "spec": self.spec}
        await self.post("trainingjobs", body)

    async def post(self, resource: str, body: Any) -> None:
        """Creates an object."""
        self.requests["POST", resource] += 1
        await self._send("POST", _path(resource), body)

    async def patch_status(self, resource: str, name: str, status: Any) -> None:
        """Changes an object's status."""
        self.requests["PATCH", f"{resource}/status"] += 1
        await self._send("PATCH", f"{_path(resource)}/{name}/status", {"status": status}, "merge-patch+json")

    async def burst(self, names: Iterable[str]) -> None:
        """Creates jobs as fast as they are taken."""
        await together(self.create, names)

    async def paced(self, names: Iterable[str], every: float) -> None:
        """Creates a job at a time."""
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                await asyncio.sleep(max(0.0, began + number * every - loop.time()))
                group.create_task(self.create(name))

    async def seen(self, names: Iterable[str], patience: float = 900.0) -> None:
        """Returns when all of these jobs have their first child."""
        wanted, until = set(names), time.monotonic() + patience
        while missing := len(wanted - self.children.keys()):
            if time.monotonic() > until:
                raise TimeoutError(f"{missing} of {len(wanted)} jobs have no child")
            await asyncio.sleep(0.1)

    async def watch(self) -> None:
        """Notes each child when it appears; of it only its metadata is sent."""
        query = {"watch": "1", "timeoutSeconds": "7200"}
        async with self.session.get(_path("jobs"), params=query, headers={"Accept": METADATA}) as answer:
            async for line in answer.content:
                metadata = json.loads(line)["object"]["metadata"]
                self.children.setdefault(metadata["labels"]["lmops.dev/job"], (time.monotonic(), metadata))

    def latencies(self, names: Iterable[str]) -> list[float]:
        """Milliseconds from sending each job to seeing its child."""
        return [1e3 * (self.children[name][0] - self.sent[name]) for name in names]

    async def _send(self, method: str, path: str, body: Any, content_type: str = "json") -> None:
        headers = {"Content-Type": f"application/{content_type}"}
        async with self.session.request(method, path, data=json.dumps(body), headers=headers) as answer:
            if not answer.ok:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            await answer.read()


def _path(resource: str) -> str:
    return f"{GROUPS[resource]}/namespaces/{NAMESPACE}/{resource}"


async def together(work: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Does a thing for each name, a few at once."""
    waiting = iter(names)

    async def worker() -> None:
        for name in waiting:
            await work(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(PARALLEL):
            group.create_task(worker())


@asynccontextmanager
async def load(plane: ControlPlane, spec: dict[str, Any]) -> AsyncIterator[Load]:
    """A client that watches, with a namespace to work in."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, account)
    trusted = ssl.create_default_context(cafile=plane.ca)
    trusted.load_cert_chain(*plane.authority.issue("bench", "system:masters").write(plane.folder, "bench"))
    async with aiohttp.ClientSession(
        f"https://{plane.address}:{plane.port}",
        connector=aiohttp.TCPConnector(ssl=trusted),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        read_bufsize=2**20,
    ) as session:
        user = Load(session, spec)
        watching = asyncio.create_task(user.watch())
        try:
            yield user
        finally:
            watching.cancel()
