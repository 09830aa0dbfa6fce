"""How many inputs a replica has taken on: what is beyond that is refused at once, so that the rest is answered."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from lmops_server.faults import overloaded, wrong

WINDOW = 32
"""Inputs by whose pace a time to come back is told."""


class Admission:
    """A count of inputs, and its bound."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._ends: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    @contextmanager
    def take(self, inputs: int) -> Iterator[None]:
        """Holds places for a request as long as it is worked on."""
        if inputs > self.most:
            raise wrong(
                f"The request has {inputs:,} inputs; the server takes {self.most:,} at a time (limits.queue). "
                "Send them in several requests."
            )
        if self.taken + inputs > self.most:
            raise overloaded(self.taken, self.most, self._seconds())
        self.taken += inputs
        try:
            yield
        finally:
            self.taken -= inputs
            self._ends.append((time.monotonic(), inputs))

    def _seconds(self) -> int:
        """Until half of the places should be free again, by the pace of late; between one and thirty."""
        if len(self._ends) < 2:
            return 1
        pace = sum(count for _, count in self._ends) / max(1e-3, time.monotonic() - self._ends[0][0])
        return max(1, min(30, round(self.taken / 2 / pace)))
