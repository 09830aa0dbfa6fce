"""The whole operator against an API server over HTTP: in the loop of the test, or as processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fakeapi import CUSTOM, FakeApi
from lives import Nodes, Script, succeeds
from lmops.cluster import Kubernetes, connected
from lmops.leader import Leader
from lmops.metrics import Metrics
from lmops.service import LEASE, Service
from lmops.settings import Settings
from store import Store

PATIENCE = 60.0
"""Seconds that anything may take: only a hang is ever this slow."""


@asynccontextmanager
async def world(folder: Path, script: Script = succeeds, seconds: float = 0) -> AsyncIterator[FakeApi]:
    """An API server with our CRD and Kubeflow's, and nodes that run what is created, each pod for so many seconds."""
    async with FakeApi(Store()) as api:
        api.install(*CUSTOM)
        nodes = asyncio.create_task(_nodes(Nodes(api.store, script, seconds)))
        before, os.environ["KUBECONFIG"] = os.environ.get("KUBECONFIG", ""), str(api.kubeconfig(folder))
        try:
            yield api
        finally:
            os.environ["KUBECONFIG"] = before
            nodes.cancel()


async def _nodes(nodes: Nodes) -> None:
    while True:
        nodes.step(datetime.now(UTC))
        await asyncio.sleep(0.05)


@asynccontextmanager
async def operator(resync: float = 300, **settings: Any) -> AsyncIterator[Service]:
    """A replica of the operator in this loop, at work."""
    metrics, chosen = Metrics(), Settings(resync_seconds=resync, **settings)
    async with connected() as client:
        leader = Leader(Kubernetes(client), chosen.namespace, LEASE, "one")
        service = Service(chosen, Kubernetes(client, leader.permit, metrics.sent), leader, metrics)
        running = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


class Replica:
    """A replica of the operator in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """The process's exit code."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@asynccontextmanager
async def replica(api: FakeApi, folder: Path, who: str, *options: str) -> AsyncIterator[Replica]:
    """`lmops operator run`, killed at the end."""
    log = folder / f"{who}.log"
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig(folder, who))}
    command = (sys.executable, "-m", "lmops", "operator", "run", "--port", "0", "--progress-port", "0", *options)
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=file, stderr=file)
        try:
            yield Replica(process, log)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def until(claim: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Waits until a claim is true; how many seconds that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not claim():
        assert loop.time() - began < seconds, f"it did not come true within {seconds} s"
        await asyncio.sleep(0.02)
    return loop.time() - began
