"""What the pods of a resource said."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from lmops.api.base import GROUP
from lmops.local.home import Folder
from lmops.plan import Manifest


def print_logs(folder: Folder, stage: str, follow: bool, out: TextIO) -> bool:
    """Prints the logs of each stage's last attempt; with `follow`, while an engine works. Whether there were any."""
    read: dict[Path, int] = {}
    while True:
        over = not folder.alive
        for name, file in _logs(folder, stage):
            with file.open(encoding="utf-8", errors="replace") as log:
                log.seek(read.get(file, 0))
                for text in log:
                    out.write(f"{name}{text}" if text.endswith("\n") else f"{name}{text}\n")
                read[file] = log.tell()
        out.flush()
        if not follow or over:
            return bool(read)
        time.sleep(0.5)


def _logs(folder: Folder, stage: str) -> list[tuple[str, Path]]:
    """The log files in order, each with what stands before its lines where several pods speak."""
    pods = _present([(pod, path) for pod, path in folder.past_pods() if (path / "log").exists()])
    last: dict[str, int] = {}
    for pod, _ in pods:
        last[_stage(pod)] = max(last.get(_stage(pod), 0), _attempt(pod))
    chosen = [(p, path) for p, path in pods if _attempt(p) == last[_stage(p)] and stage in ("", _stage(p))]
    groups = [_stage(pod) for pod, _ in chosen]
    return [
        (f"[{pod['metadata']['name']}] " if groups.count(_stage(pod)) > 1 else "", path / "log") for pod, path in chosen
    ]


def _present(pods: list[tuple[Manifest, Path]]) -> list[tuple[Manifest, Path]]:
    """All pods of a job; of a service, whose pods replace each other, those that are there, or the last one."""
    there = [row for row in pods if not row[0].get("gone")] or pods[-1:]
    return [row for row in pods if _stage(row[0]) != "serve" or row in there]


def _stage(pod: Manifest) -> str:
    return str(pod["metadata"]["labels"].get(f"{GROUP}/stage", ""))


def _attempt(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"].get(f"{GROUP}/attempt", 0))
