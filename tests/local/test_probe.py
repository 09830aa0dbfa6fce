"""A probe of a laptop's server: what answers well is ready, and one bad answer does not change that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lmops.local import probe
from lmops.local.probe import Probe


class Server(ThreadingHTTPServer):
    """Answers as it is told, and counts how often it was asked."""

    answers: list[int]
    last = 503
    asked = 0


class Handler(BaseHTTPRequestHandler):
    """The next answer, or the last one again."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.last = self.server.answers.pop(0) if self.server.answers else self.server.last
        self.send_response(self.server.last)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is asked often."""
    monkeypatch.setattr(probe, "OFTEN", 0.02)
    monkeypatch.setattr(probe, "SELDOM", 0.02)
    made = Server(("127.0.0.1", 0), Handler)
    made.answers = []
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        ([503], False),
        ([503, 200], True),
        ([200, 503, 503, 200], True),
        ([200, 503, 503, 503], False),
        ([200, 503, 503, 503, 503, 200], True),
    ],
)
def test_it_takes_some_bad_answers_to_be_called_unready(
    server: Server, answers: list[int], ready: bool, eventually: Any
) -> None:
    server.answers = list(answers)
    asking = Probe(f"http://127.0.0.1:{server.server_address[1]}/v2/health/ready")
    eventually(lambda: server.asked > len(answers) + 2)

    assert asking.is_ready is ready
    asking.stop()


def test_two_bad_answers_are_not_enough(server: Server, eventually: Any) -> None:
    server.answers = [200]
    asking, seen = Probe(f"http://127.0.0.1:{server.server_address[1]}/"), set[bool]()
    eventually(lambda: asking.is_ready)
    for _ in range(5):
        server.answers, before = [503, 503, 200], server.asked
        while server.asked < before + 3:
            seen.add(asking.is_ready)

    assert seen == {True}
    asking.stop()
