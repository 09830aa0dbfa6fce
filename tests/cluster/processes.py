"""Daemons of a test cluster: each has a log of its own, and all of them end with the process that started them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

TAIL = 2000
"""Characters of a log that an error shows."""


class Daemons:
    """Processes that are started one after the other and end in the opposite order: at once, for nothing is kept."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, tuple[tuple[str | Path, ...], dict[str, str] | None]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill_all()

    def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        """Starts a process."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*_dies_with_us(), *map(str, command)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests: they end their daemons in order
            )
        self._running[name], self._started[name] = process, (command, environment)

    def restart(self, name: str) -> None:
        """Starts a process that was ended once more."""
        command, environment = self._started[name]
        self.start(name, *command, environment=environment)

    def pid(self, name: str) -> int:
        """The id of a process that runs."""
        return self._running[name].pid

    def stop(self, name: str, patience: float = 10) -> None:
        """Ends a process, at first politely."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(patience)

    def kill(self, name: str) -> None:
        """Ends a process without a word."""
        process = self._running.pop(name)
        process.kill()
        process.wait(10)

    def kill_all(self) -> None:
        """Ends what runs, the last one first."""
        for name in reversed(list(self._running)):
            self.kill(name)

    def wait(self, what: str, happened: Callable[[], bool], seconds: float = 60) -> None:
        """Waits for something that the daemons bring about; raises with a log where one of them has ended."""
        end = time.monotonic() + seconds
        while not happened():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}, no {what}:\n{self.log(name)[-TAIL:]}")
            if time.monotonic() > end:
                last = next(reversed(self._running), "")
                raise TimeoutError(f"no {what} within {seconds:.0f} s; logs in {self.logs}:\n{self.log(last)[-TAIL:]}")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        """What a process has said."""
        file = self.logs / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _dies_with_us() -> list[str]:
    """On Linux a daemon is killed when its parent dies, however that comes about."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
