"""Hours of an operator's life in seconds: its queue, its lists and its cluster in a loop whose clock jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from builders import NOON, SETTINGS
from fakecluster import FakeCluster
from faults import NONE, Faults
from lives import Nodes, Script, submit, succeeds
from lmops.leader import Leader
from lmops.metrics import Metrics
from lmops.plan import Key
from lmops.service import Service
from store import Change, Store

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: its clock jumps to the next timer."""

    jumped = 0.0

    def time(self) -> float:
        return self.jumped

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.jumped = max(self.jumped, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def virtually(play: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in no time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(play)


class Operator:
    """A replica's queue and lists, in front of a server of its own face to a store."""

    def __init__(self, simulation: Simulation, faults: Faults, **settings: Any) -> None:
        self.simulation, self.server = simulation, FakeCluster(simulation.store)
        self.server.faults = faults
        self.deaf, self.dice = 0.0, random.Random(1)
        """The share of events that its watch loses."""
        self.settings = SETTINGS.model_copy(update={"resync_seconds": 300, **settings})
        self.start()

    def start(self) -> None:
        """A new process begins to work."""
        leader = Leader(self.server, "lmops", "operator", "one")
        self.service = Service(self.settings, self.server, leader, Metrics())  # type: ignore[arg-type]
        self.service.controller.now = self.simulation.now
        self.work = asyncio.create_task(self.service._reconcile())
        self.simulation.store.listeners.append(self.see)

    async def stop(self) -> None:
        """The process is gone."""
        self.simulation.store.listeners.remove(self.see)
        self.work.cancel()
        with suppress(asyncio.CancelledError):
            await self.work

    def see(self, change: Change) -> None:
        """What a watch tells, if it is not lost."""
        cache, queue = self.service.controller.cache, self.service.queue
        if self.dice.random() < self.deaf:
            return
        key = cache.drop(change.manifest) if change.type == "DELETED" else cache.take(change.manifest)
        if key is not None:
            queue.add(key)


class Simulation:
    """A cluster with users, nodes and operators."""

    def __init__(self, script: Script = succeeds, seconds: float = 0, step: float = 1) -> None:
        self.store, self.every = Store(), step
        self.nodes = Nodes(self.store, script, seconds)
        self.turning = asyncio.create_task(self._turn())

    def now(self) -> datetime:
        """The cluster's clock."""
        return NOON + timedelta(seconds=asyncio.get_running_loop().time())

    def operator(self, faults: Faults = NONE, **settings: Any) -> Operator:
        """A replica at work."""
        return Operator(self, faults, **settings)

    def submit(self, count: int, prefix: str = "job") -> list[Key]:
        """Users create so many jobs."""
        return [submit(self.store, f"{prefix}-{n}") for n in range(count)]

    def phase(self, key: Key) -> str:
        """The phase of a job."""
        found: str = self.store.objects[key].get("status", {}).get("phase", "")
        return found

    async def ended(self, keys: list[Key], seconds: float = 7200) -> float:
        """Waits for the end of jobs; how long that took."""
        began = asyncio.get_running_loop().time()
        while not all(self.phase(key) in ("Succeeded", "Failed") for key in keys):
            assert asyncio.get_running_loop().time() - began < seconds, [(key, self.phase(key)) for key in keys]
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time() - began

    def twice(self) -> list[str]:
        """The children that were created more than once."""
        return [ref.name for ref, n in self.store.made.items() if n > 1 and ref.kind in ("Job", "PyTorchJob")]

    async def _turn(self) -> None:
        while True:
            self.nodes.step(self.now())
            await asyncio.sleep(self.every)
