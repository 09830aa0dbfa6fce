"""The endpoint's Service has its name here too."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from lmops.progress import server
from replicas import HOST


@pytest.fixture(autouse=True)
def cluster_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Service's name leads to this machine."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host == HOST else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(server, "RETRY", 0.01)
