"""Keys that wait for a worker: each of them once, never two workers on one, and failures come back ever later."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST, LONGEST = 0.1, 60.0
"""Seconds before the first repetition, and before any later one at the most."""


class Observer(Generic[Key]):
    """Is told what becomes of the keys of a queue; this one keeps none of it."""

    def added(self, key: Key) -> None:
        """A key waits for a worker from now on."""

    def began(self, key: Key, waited: float) -> None:
        """A worker has taken it, so many seconds later."""

    def ended(self, key: Key, worked: float) -> None:
        """The worker is done with it, well or not."""

    def retried(self, key: Key) -> None:
        """It has failed, and will come back."""


class Queue(Generic[Key]):
    """Runs `work(key)` for every key that was added, at least once after each addition.

    `work` returns the seconds after which it wants the key again, or `None`; what it raises is told to `failed`, and
    the key is tried again after a delay that doubles.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        failed: Callable[[Key, Exception, float], None] = lambda key, error, delay: None,
        workers: int = 16,
        observer: Observer[Key] | None = None,
    ) -> None:
        self.work, self.failed, self.workers = work, failed, workers
        self.observer = observer or Observer[Key]()
        self.failures = Counter[Key]()
        self.busy: dict[Key, float] = {}
        """The keys that are worked on, and since when, by the monotonic clock."""
        self._finished: float | None = None
        """When some work was finished last, or there was some again, by the loop's clock; `None` without workers."""
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._since: dict[Key, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Wants a key to be worked on as soon as a worker is free."""
        if key in self._since:
            return
        if self._finished is not None and not self._since and not self.busy:
            self._finished = asyncio.get_running_loop().time()  # it had nothing to do until now
        self._since[key] = time.monotonic()
        self.observer.added(key)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key not in self.busy:
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Wants a key to be worked on in so many seconds, or before if it is wanted before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if key in self._since or ((timer := self._timers.get(key)) and timer.when() <= due):
            return
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._since)

    @property
    def age(self) -> float:
        """How many seconds the longest-waiting key has waited."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    @property
    def stuck(self) -> float:
        """For how many seconds keys have waited while no work was finished: a long queue that moves is only long."""
        if self._finished is None or not self._since:
            return 0.0
        return asyncio.get_running_loop().time() - self._finished

    async def run(self) -> None:
        """Works until it is cancelled."""
        self._finished = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                group.create_task(self._worker())

    def _due(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self.busy[key] = time.monotonic()
            self.observer.began(key, self.busy[key] - self._since.pop(key))
            try:
                again = await self.work(key)
            except Exception as error:
                self._fail(key, error)
            else:
                self.failures.pop(key, None)
                if again is not None:
                    self.add_after(key, again)
            finally:
                self._finished = asyncio.get_running_loop().time()
                self.observer.ended(key, time.monotonic() - self.busy.pop(key))
                if key in self._since:  # it was added while it was worked on
                    self._ready.put_nowait(key)

    def _fail(self, key: Key, error: Exception) -> None:
        self.failures[key] += 1
        self.observer.retried(key)
        delay = min(LONGEST, FIRST * 2.0 ** min(self.failures[key] - 1, 16)) * random.uniform(0.5, 1.0)
        delay = max(delay, getattr(error, "retry_after", 0.0))
        self.failed(key, error, delay)
        self.add_after(key, delay)
