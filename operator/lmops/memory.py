"""What is remembered for a while, and of which only so much."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Values that are forgotten after some seconds, or when there are too many: then the oldest go first."""

    def __init__(self, seconds: float, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.size, self.clock = seconds, size, clock
        self._kept: dict[K, tuple[float, V]] = {}

    def __len__(self) -> int:
        self._forget()
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """The value, unless it is forgotten."""
        self._forget()
        return self._kept[key][1] if key in self._kept else None

    def put(self, key: K, value: V) -> None:
        """Keeps a value from now on."""
        self._kept.pop(key, None)
        self._kept[key] = (self.clock() + self.seconds, value)
        self._forget()

    def drop(self, key: K) -> None:
        """Forgets a value now."""
        self._kept.pop(key, None)

    def _forget(self) -> None:
        """All are kept equally long, so the first of them is the next to go."""
        while self._kept:
            first = next(iter(self._kept))
            if len(self._kept) <= self.size and self.clock() < self._kept[first][0]:
                return
            del self._kept[first]
