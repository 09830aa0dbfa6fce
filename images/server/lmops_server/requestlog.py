"""What was asked of late: a line for each failure and for a sample of the rest, and the pace of the last minute."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from lmops_server.metrics import Usage

SECONDS = 60
LINES = 50
"""The most lines in a second: a flood of failures must not fill the disk."""
KEPT = 20_000
log = logging.getLogger("lmops.requests")


@dataclass(frozen=True)
class Ended:
    """A request that is over."""

    at: float
    status: int
    seconds: float
    tokens: int


class Requests:
    """The requests of this server. What was said in them is not written."""

    def __init__(self, sample: float) -> None:
        self._sample = sample
        self._recent: deque[Ended] = deque(maxlen=KEPT)
        self._begun = time.monotonic()
        self._second, self._lines = 0, 0

    def add(self, route: str, status: int, seconds: float, usage: Usage | None) -> None:
        """One more is over."""
        tokens = usage.output_tokens if usage else 0
        if not route.startswith(("/v1", "/v2")) or route.startswith("/v2/health"):
            return  # probes and pages are no load
        self._recent.append(Ended(time.monotonic(), status, seconds, tokens))
        if (status >= 400 or random.random() < self._sample) and self._may_write():
            line = {"route": route, "status": status, "milliseconds": round(1000 * seconds, 1)}
            if usage:
                line |= {"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens}
            log.info("request %s", json.dumps(line))

    def pace(self) -> dict[str, Any]:
        """Rate and latency of the last minute, or of less: since the start, or as far as the last ones reach."""
        now = time.monotonic()
        since = max(now - SECONDS, self._begun, self._recent[0].at if len(self._recent) == KEPT else 0)
        recent, seconds = [one for one in self._recent if one.at >= since], max(1.0, now - since)
        good = sorted(one.seconds for one in recent if one.status < 400)
        return {
            "seconds": round(seconds, 1),
            "requests": len(recent),
            "requestsPerSecond": round(len(recent) / seconds, 3),
            "failed": sum(one.status >= 500 for one in recent),
            "refused": sum(400 <= one.status < 500 for one in recent),
            "tokensPerSecond": round(sum(one.tokens for one in recent) / seconds, 2),
            "latencySeconds": {name: _quantile(good, q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        }

    def _may_write(self) -> bool:
        second = int(time.monotonic())
        self._lines = self._lines + 1 if second == self._second else 1
        self._second = second
        return self._lines <= LINES


def _quantile(ordered: list[float], q: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 6) if ordered else None
