"""A part of what is asked and answered, written as rows to train on: in a thread that no request waits for."""

from __future__ import annotations

import json
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmops.api.requestlog import RequestLog
from lmops_server.redaction import Redaction
from lmops_trainer import uris
from lmops_trainer.log import log

Row = dict[str, Any]
WAITING = 1_000
"""Requests that wait to be written, at the most: a disk that is slow shall not fill the memory."""
LONGEST = 65_536
"""Characters of a text; a longer one is left out, for half of a text is another text."""
FILE = 16 * 1024 * 1024
"""Bytes of a file, at the most."""
FILES = 8
"""The fewest files that fill a folder: one at a time goes when it is full."""
QUIET = 60.0
"""Seconds between two complaints."""
TEXTS = ("text", "pair", "answer")
"""What is redacted in a row."""
GLOB = "requests-*.jsonl"


class RowLog:
    """The files of one server. A file holds whole lines only, whatever happens to the disk."""

    def __init__(self, spec: RequestLog, count: Callable[[str, int], None] = lambda outcome, rows: None) -> None:
        self._spec, self._count = spec, count
        self._folder = uris.mounted(spec.uri)
        self._redacted = Redaction(spec.redact)
        self._size = min(FILE, spec.max_bytes // FILES)
        self._queue: queue.Queue[list[Row] | None] = queue.Queue(WAITING)
        self._file: _File | None = None
        self._complained = -1e9
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def draws(self) -> bool:
        """Whether the next request is one of those that are kept."""
        return random.random() < self._spec.fraction

    def add(self, rows: list[Row]) -> None:
        """Rows of one request, to be written soon; they are dropped where too much waits."""
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self._count("dropped", len(rows))

    def close(self) -> None:
        """Writes what waits, within some seconds."""
        try:
            self._queue.put(None, timeout=5)
        except queue.Full:
            return
        self._thread.join(5)

    def _run(self) -> None:
        while (rows := self._queue.get()) is not None:
            lines = [line for row in rows if (line := self._line(row)) is not None]
            self._count("dropped", len(rows) - len(lines))
            try:
                self._write(lines)
            except OSError as error:
                self._count("dropped", len(lines))
                self._complain(f"the request log in {self._spec.uri} cannot be written: {error}")
        if self._file:
            self._file.close()

    def _line(self, row: Row) -> bytes | None:
        texts = {name: row[name] for name in TEXTS if name in row}
        if any(len(text) > LONGEST for text in texts.values()):
            return None
        try:
            redacted = {name: self._redacted(text) for name, text in texts.items()}
        except TimeoutError:
            self._complain("a pattern of requestLog.redact takes too long; texts that it was to look at are not kept")
            return None
        return (json.dumps({**row, **redacted}, ensure_ascii=False) + "\n").encode("utf-8", "replace")

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        data = b"".join(lines)
        if self._file and self._file.size + len(data) > self._size:
            self._file.close()
            self._file = None
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._prune(self._spec.max_bytes - self._size)
            self._file = _File(self._folder / _name())
        try:
            self._file.write(data)
        except OSError:
            self._file.close()
            self._file = None
            raise
        self._count("written", len(lines))

    def _prune(self, most: int) -> None:
        """Removes the oldest files of all servers, until what stays is small enough. Others may remove them as well."""
        found = []
        for file in self._folder.glob(GLOB):
            with suppress(FileNotFoundError):
                told = file.stat()
                found.append((told.st_mtime, told.st_size, file))
        found.sort()
        total = sum(size for _, size, _ in found)
        for _, size, file in found:
            if total <= most:
                return
            file.unlink(missing_ok=True)
            total -= size

    def _complain(self, sentence: str) -> None:
        if time.monotonic() - self._complained > QUIET:
            self._complained = time.monotonic()
            log.warning("%s", sentence)


class _File:
    """A file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o660)
        self.size = 0

    def write(self, data: bytes) -> None:
        """All of it, or nothing."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._handle, data[written:])
        except OSError:
            os.ftruncate(self._handle, self.size)
            raise
        self.size += written

    def close(self) -> None:
        """One that is empty does not stay."""
        os.close(self._handle)
        if self.size == 0:
            self._path.unlink(missing_ok=True)


def _name() -> str:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return f"requests-{now}-{socket.gethostname()}-{os.getpid()}.jsonl"
