"""Many requests, one pass: what waits while the model works is taken together, by length, the oldest first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class Room:
    """What one pass takes."""

    rows: int
    tokens: int
    """Padded ones: rows times the longest of them."""


@dataclass(eq=False)
class _Waiting(Generic[I, O]):
    item: I
    length: int
    answer: asyncio.Future[O]


class Batcher(Generic[I, O]):
    """Feeds a function that answers many items at once. Nothing is held back to wait for company."""

    def __init__(
        self,
        work: Callable[[Sequence[I]], list[O]],
        length: Callable[[I], int],
        room: Room,
        workers: int = 1,
        took: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._work = work
        self._length = length
        self._room = room
        self._took = took
        self._waiting: deque[_Waiting[I, O]] = deque()
        self._pool = ThreadPoolExecutor(workers, "model")
        self._idle = workers
        self._again: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Items that no pass has taken yet."""
        return len(self._waiting)

    async def ask(self, items: Sequence[I]) -> list[O]:
        """The answers in order. Who is cancelled leaves the queue, and costs no pass that has not begun."""
        loop = asyncio.get_running_loop()
        mine: list[_Waiting[I, O]] = [_Waiting(item, self._length(item), loop.create_future()) for item in items]
        self._waiting.extend(mine)
        self._start()
        try:
            return [await mine[0].answer] if len(mine) == 1 else await asyncio.gather(*(each.answer for each in mine))
        finally:
            for entry in mine:
                entry.answer.cancel()

    def close(self) -> None:
        """Ends the threads, once their passes are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        while self._idle and (batch := self._batch()):
            self._idle -= 1
            self._took(len(batch))
            self._run(batch).add_done_callback(partial(self._ended, batch))

    def _run(self, batch: Sequence[_Waiting[I, O]]) -> asyncio.Future[list[O]]:
        return asyncio.get_running_loop().run_in_executor(self._pool, self._work, [entry.item for entry in batch])

    def _batch(self) -> list[_Waiting[I, O]]:
        """The oldest item, and of the others those of nearest length, as many as fit."""
        present = [entry for entry in self._waiting if not entry.answer.done()]
        if not present:
            self._waiting.clear()
            return []
        oldest = present[0]
        chosen: list[_Waiting[I, O]] = [oldest]
        longest = oldest.length
        for entry in sorted(present[1:], key=lambda entry: abs(entry.length - oldest.length)):
            width = max(longest, entry.length)
            if len(chosen) >= self._room.rows or (len(chosen) + 1) * width > self._room.tokens:
                break
            chosen.append(entry)
            longest = width
        taken = set(map(id, chosen))
        self._waiting = deque(entry for entry in present if id(entry) not in taken)
        return chosen

    def _ended(self, batch: Sequence[_Waiting[I, O]], work: asyncio.Future[list[O]]) -> None:
        """The next pass begins, then the answers of this one are told. A callback: a task would wait for its turn."""
        if work.cancelled():  # the threads were ended
            return
        error = work.exception()
        if error is not None and len(batch) > 1:
            task = asyncio.get_running_loop().create_task(self._one_by_one(batch))
            self._again.add(task)
            task.add_done_callback(self._again.discard)
            return
        self._idle += 1
        self._start()
        if error is not None:
            _tell(batch[0], error)
            return
        for entry, answer in zip(batch, work.result(), strict=True):
            _tell(entry, answer)

    async def _one_by_one(self, batch: Sequence[_Waiting[I, O]]) -> None:
        """Of a pass that has failed, each item is tried alone: one must not harm the others."""
        try:
            for entry in batch:
                (answers,) = await asyncio.gather(self._run([entry]), return_exceptions=True)
                _tell(entry, answers if isinstance(answers, BaseException) else answers[0])
        finally:
            self._idle += 1
            self._start()


def _tell(entry: _Waiting[Any, O], answer: O | BaseException) -> None:
    if entry.answer.done():  # who asked has gone
        return
    if isinstance(answer, BaseException):
        entry.answer.set_exception(answer)
    else:
        entry.answer.set_result(answer)
