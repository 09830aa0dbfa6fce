"""Keys come to a worker: once, one at a time, and again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from lmops.queue import Queue
from simulation import virtually


def worked(script: Callable[[Queue[str]], Coroutine[Any, Any, None]], work: Any, workers: int = 4) -> list[str]:
    """The keys in the order in which they were worked on."""
    order: list[str] = []

    async def recorded(key: str) -> float | None:
        order.append(key)
        result: float | None = await work(key)
        return result

    async def play() -> None:
        queue = Queue[str](recorded, workers=workers)
        running = asyncio.create_task(queue.run())
        await script(queue)
        running.cancel()

    asyncio.run(play())
    return order


async def nothing(key: str) -> None:
    """Work that is done at once."""


def test_a_key_that_is_added_twice_before_its_turn_is_worked_on_once():
    async def script(queue: Queue[str]) -> None:
        for key in ("a", "b", "a"):
            queue.add(key)
        assert queue.depth == 2
        await asyncio.sleep(0.02)

    assert worked(script, nothing) == ["a", "b"]


def test_a_key_that_is_added_while_it_is_worked_on_has_another_turn_afterwards():
    at_once = {"now": 0, "most": 0}

    async def slow(key: str) -> None:
        at_once["now"] += 1
        at_once["most"] = max(at_once.values())
        await asyncio.sleep(0.02)
        at_once["now"] -= 1

    async def script(queue: Queue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.01)
        queue.add("a")
        await asyncio.sleep(0.06)

    assert (worked(script, slow), at_once["most"]) == (["a", "a"], 1)


def test_what_fails_comes_back_and_does_not_hold_up_the_others():
    tries = {"bad": 0}

    async def poisoned(key: str) -> None:
        if key == "bad":
            tries["bad"] += 1
            raise ValueError("poison")

    async def script(queue: Queue[str]) -> None:
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(0.5)
        assert queue.failures["bad"] == tries["bad"]

    order = worked(script, poisoned, workers=1)
    assert order[:2] == ["bad", "good"]
    assert 2 <= tries["bad"] <= 4  # 0.1, 0.2, 0.4 seconds, less some jitter


def test_a_key_that_wants_to_be_looked_at_again_is():
    async def twice(key: str) -> float | None:
        done.append(key)
        return 0.01 if len(done) == 1 else None

    done: list[str] = []

    async def script(queue: Queue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.05)

    assert worked(script, twice) == ["a", "a"]


def test_a_long_queue_that_moves_is_not_stuck_and_one_whose_workers_hang_is():
    async def stuck(seconds: float, workers: int = 16) -> float:
        async def slow(key: int) -> None:
            await asyncio.sleep(seconds)

        queue = Queue[int](slow, workers=workers)
        for key in range(10_000):
            queue.add(key)
        await asyncio.sleep(100)  # the first list
        assert queue.stuck == 0
        running = asyncio.create_task(queue.run())
        await asyncio.sleep(100)
        found = queue.stuck
        running.cancel()
        return found

    assert virtually(stuck(0.4)) < 1
    assert virtually(stuck(1e6)) == 100
