"""Whether a server on this machine is ready, and what it says of its traffic: asked from time to time."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.client import HTTPException
from typing import Any

OFTEN, SELDOM = 0.2, 2.0
"""Seconds between two questions while it is not ready, and while it is."""
FAILURES = 3
"""How many in a row make a server unready that was ready."""
TIMEOUT = 5.0


class Probe(threading.Thread):
    """Asks an address until it is stopped: a good answer is ready, and what is ready may miss a few."""

    def __init__(self, url: str, figures_url: str = "") -> None:
        super().__init__(daemon=True)
        self.url, self.is_ready = url, False
        self.figures_url = figures_url
        self.figures: dict[str, Any] = {}
        """The last answer there; `{}` where it has none."""
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.start()

    def stop(self) -> None:
        """Asks no more."""
        self._stopped.set()

    def run(self) -> None:
        """One question after the other."""
        failures = FAILURES
        while not self._stopped.wait(SELDOM if self.is_ready and not failures else OFTEN):
            failures = 0 if self._answers() else failures + 1
            if failures == 0 and self.figures_url:
                self.figures = self._told()
            self.is_ready = failures == 0 or (self.is_ready and failures < FAILURES)

    def _answers(self) -> bool:
        try:
            with self._opener.open(self.url, timeout=TIMEOUT) as answer:
                return 200 <= int(answer.status) < 400
        except (OSError, HTTPException):  # refused, too late, an answer that is an error, or half of one
            return False

    def _told(self) -> dict[str, Any]:
        try:
            with self._opener.open(self.figures_url, timeout=TIMEOUT) as answer:
                found = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
