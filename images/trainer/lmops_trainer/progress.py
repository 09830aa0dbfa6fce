"""Progress as Hugging Face's own trainer posts it: percent, seconds left, metrics; to one URL, never in the way."""

from __future__ import annotations

import json
import math
import os
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from lmops_trainer.log import log

INTERVAL = 2.0
TIMEOUT = 5.0


class Progress:
    """The client of the progress endpoint. Without a URL it is silent; what fails is left out, and the run goes on."""

    def __init__(
        self, url: str | None = None, ca: str | None = None, token: str | None = None, interval: float = INTERVAL
    ) -> None:
        self.url = url
        self._ca = ca
        self._token = token
        self._interval = interval
        self._latest: dict[str, Any] | None = None
        self._metrics: dict[str, str] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._failed: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Progress:
        """The endpoint that the pod was told of."""
        return cls(
            environment.get("KUBEFLOW_TRAINER_SERVER_URL"),
            environment.get("KUBEFLOW_TRAINER_SERVER_CA_CERT"),
            environment.get("KUBEFLOW_TRAINER_SERVER_TOKEN"),
        )

    def post(self, percent: float, remaining: float | None = None, **metrics: float | int) -> None:
        """Says how far the run has come. A newer post replaces one that still waits; metrics stay until replaced."""
        if not self.url:
            return
        with self._changed:
            self._metrics |= {name: _spelled(value) for name, value in metrics.items() if math.isfinite(value)}
            self._latest = body(percent, remaining, self._metrics, datetime.now(UTC))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, timeout: float = TIMEOUT) -> None:
        """Sends what is still waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not None or self._closed)
                latest, self._latest = self._latest, None
                if latest is None:
                    return
            self._send(latest)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=self._interval)

    def _send(self, latest: dict[str, Any]) -> None:
        try:
            headers = {"Content-Type": "application/json"}
            if self._token:  # read at each post: a projected token is replaced while the pod runs
                headers["Authorization"] = f"Bearer {Path(self._token).read_text().strip()}"
            request = urllib.request.Request(str(self.url), json.dumps(latest).encode(), headers, method="POST")
            context = ssl.create_default_context(cafile=self._ca) if self._ca else None
            urllib.request.urlopen(request, timeout=TIMEOUT, context=context).close()
        except (OSError, ValueError, HTTPException) as error:  # a lost post is replaced by the next one
            self._lament(_reason(error))

    def _lament(self, reason: str) -> None:
        """Says once why nobody hears, and again when it is for another reason."""
        if reason != self._failed:
            log.warning("progress does not reach its endpoint: %s", reason)
            self._failed = reason


def body(percent: float, remaining: float | None, metrics: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """The document of one post."""
    status: dict[str, Any] = {
        "progressPercentage": max(0, min(100, int(percent))),
        "lastUpdatedTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metrics": [{"name": name, "value": value} for name, value in metrics.items()],
    }
    if remaining is not None and math.isfinite(remaining):
        status["estimatedRemainingSeconds"] = max(0, int(remaining))
    return {"trainerStatus": status}


def _reason(error: Exception) -> str:
    """The kind of the error: its text may hold the URL or, of a header that is refused, the token."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    said = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _spelled(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
