"""A pod's processes: the one that was started and all that came of it, told by a mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from lmops.local.home import read_json, write_json

MARK = "LMOPS_POD_UID"
FAMILY_FOR = 1.0
"""How long, in seconds, the list of a pod's processes is taken as good."""
DYING_FOR = 2.0
"""How long, in seconds, a killed process may take to go."""


class Process:
    """The running container of a pod."""

    def __init__(self, argv: list[str], env: dict[str, str], folder: Path, log: Path, uid: str) -> None:
        self.uid = uid
        with log.open("ab") as output:
            self.started = subprocess.Popen(
                argv,
                env={**env, MARK: uid},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal reaches the engine, which stops pods in order
            )
        self.family: list[psutil.Process] = []
        self.family_until = 0.0

    def remember(self, file: Path) -> None:
        """Writes down what tells this process from a later one of the same number."""
        with suppress(psutil.NoSuchProcess):
            write_json(file, {"pid": self.started.pid, "since": psutil.Process(self.started.pid).create_time()})

    def exit_code(self) -> int | None:
        """The exit code as a container has it, 128 and the signal's number for a killed one; `None` while it runs."""
        code = self.started.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Asks the first process to end, as the kubelet does."""
        self.started.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the whole family now."""
        descendants: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self.started.pid).children(recursive=True)
        self.started.kill()
        self.started.wait()  # here and not in psutil, which would take the exit code for itself
        _kill(descendants)
        self.bury()

    def bury(self) -> None:
        """Ends what outlives the first process, as the end of a container does."""
        kill_marked([self.uid])

    def memory(self, limit: int) -> int:
        """Bytes the family holds, close enough to compare with a limit: shared pages are told apart only near it."""
        resident = _sum(self._family(), lambda process: process.memory_info().rss)
        return resident if resident <= limit else _sum(self._family(), _proportional)

    def _family(self) -> list[psutil.Process]:
        if time.monotonic() > self.family_until:
            self.family = []
            with suppress(psutil.NoSuchProcess):
                first = psutil.Process(self.started.pid)
                self.family = [first, *first.children(recursive=True)]
            self.family_until = time.monotonic() + FAMILY_FOR
        return self.family


def kill_left_over(files: Iterable[Path], uids: Iterable[str]) -> None:
    """Ends processes of an engine that was killed: those it wrote down, and those that carry a pod's mark."""
    for file in files:
        with suppress(psutil.NoSuchProcess, KeyError, TypeError):
            known = read_json(file)
            process = psutil.Process(known["pid"])
            if process.create_time() == known["since"]:
                _kill([process, *process.children(recursive=True)])
    kill_marked(uids)


def kill_marked(uids: Iterable[str]) -> None:
    """Ends every process of ours that carries the mark of one of these pods."""
    marks = {uid for uid in uids if uid}
    found = []
    for process in psutil.process_iter() if marks else ():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) in marks:
                found.append(process)
    _kill(found)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    until = time.monotonic() + DYING_FOR
    while time.monotonic() < until and any(_is_alive(process) for process in processes):
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sum(processes: list[psutil.Process], of: Callable[[psutil.Process], int]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += of(process)
    return total


def _proportional(process: psutil.Process) -> int:
    """A process's own pages and its share of shared ones, where the system tells; else all it has resident."""
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", 0) or full.rss)
