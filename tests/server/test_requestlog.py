"""The pace of the last minute is that of what was really asked, soon after the start and under a flood too."""

from __future__ import annotations

import pytest

from lmops_server import requestlog
from lmops_server.requestlog import KEPT, Requests


class Clock:
    """The time, as it is told."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("before", "gap", "count", "rate", "seconds"),
    [
        (0, 0.1, 100, 10, 10),  # ten seconds after the start
        (500, 0.1, 2000, 10, 60),  # for a long time
        (500, 0.001, 2 * KEPT, 1000, KEPT / 1000),  # more than are remembered
    ],
)
def test_the_pace_is_that_of_the_last_minute_or_of_what_there_is(
    monkeypatch: pytest.MonkeyPatch, before: float, gap: float, count: int, rate: float, seconds: float
):
    clock = Clock()
    monkeypatch.setattr(requestlog, "time", clock)
    requests = Requests(sample=0)
    clock.now += before
    for _ in range(count):
        clock.now += gap
        requests.add("/v1/classify", 200, 0.02, None)

    found = requests.pace()

    assert found["requestsPerSecond"] == pytest.approx(rate, rel=0.01)
    assert found["seconds"] == pytest.approx(seconds, rel=0.01)
    assert found["latencySeconds"]["p95"] == 0.02
