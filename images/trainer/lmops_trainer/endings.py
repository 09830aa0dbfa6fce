"""How a run ends: the `Ending` that reaches the termination log, and the records that ranks leave for it on scratch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lmops.api import Compression, Ending, LastWords, Run
from lmops.api.run import Stopped
from lmops.api.status import Failure
from lmops_trainer.failures import is_permanent
from lmops_trainer.uris import path

AnyRun = Run | Compression
"""A run of any kind of job."""
LIMIT = 4096
"""What a container's termination log holds, in bytes."""


class Stop(BaseException):
    """The run was asked to stop; raised where nothing is left to save.

    It comes in the midst of libraries, as a KeyboardInterrupt does, and no more than that may they take it for a fault
    of theirs: torch's exporters try another way after every Exception.
    """

    def __init__(self, signal: str, step: int | None = None) -> None:
        super().__init__(f"stopped by {signal}")
        self.signal = signal
        self.step = step


def job_folder(run: AnyRun) -> Path:
    """Where this job keeps its checkpoints, logs and results."""
    return path(run.spec.workspace_uri) / "jobs" / run.run.uid


def write(ending: LastWords) -> None:
    """Leaves the ending in the termination log, or on standard output when there is none: by hand, on a shell."""
    text = fitted(ending)
    try:
        Path(os.environ.get("LMOPS_TERMINATION_LOG", "/dev/termination-log")).write_text(text)
    except OSError:
        print(text, flush=True)


def keep(ending: Ending, run: AnyRun) -> None:
    """Writes a success into the workspace, whole or not at all."""
    target = job_folder(run) / "results" / f"{ending.stage}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, _json(ending))


def replace(target: Path, text: str) -> None:
    """Writes a file so that a reader finds the old text or the new one, after a power cut as well."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def fitted(ending: LastWords) -> str:
    """The ending in at most 4096 bytes: what is long and least missed goes first."""
    text = _json(ending)
    document = json.loads(text)
    for shrink in _SHRINKING:
        if len(text.encode()) <= LIMIT:
            return text
        shrink(document)
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text


@cache
def scratch() -> Path:
    """The local folder of this pod; ranks find the launcher's by the environment."""
    if "LMOPS_SCRATCH" not in os.environ:
        folder = Path("/scratch")
        writable = folder.is_dir() and os.access(folder, os.W_OK)
        os.environ["LMOPS_SCRATCH"] = str(folder) if writable else tempfile.mkdtemp(prefix="lmops-")
    return Path(os.environ["LMOPS_SCRATCH"])


class Ranks:
    """What the ranks of this pod have left behind: `<restart>-<rank>.json`, one file each."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or scratch() / "ranks"

    def clear(self) -> None:
        """Forgets an earlier run in the same pod."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("*.json"):
            file.unlink()

    def record(self, ending: Ending) -> None:
        """Leaves how this rank ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        restart, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("RANK", "0")
        document = {"time": time.time(), "rank": int(rank), "restart": int(restart), "ending": _document(ending)}
        replace(self.folder / f"{restart}-{rank}.json", json.dumps(document))

    def endings(self) -> list[Ending]:
        """How the ranks of the last restart ended, the earliest first."""
        records = list(self._records())
        last = max((record["restart"] for record in records), default=0)
        ordered = sorted((record for record in records if record["restart"] == last), key=lambda record: record["time"])
        return [Ending.model_validate(record["ending"]) for record in ordered]

    def permanent(self) -> Failure | None:
        """The failure that every further try in this pod would only repeat."""
        ordered = sorted(self._records(), key=lambda record: record["time"])
        failures = (Ending.model_validate(record["ending"]).failure for record in ordered)
        return next((failed for failed in failures if failed and is_permanent(failed)), None)

    def stopped(self) -> Stopped | None:
        """That the ranks have stopped in order."""
        return next((ending.stopped for ending in self.endings() if ending.stopped), None)

    def _records(self) -> Iterator[dict[str, Any]]:
        for file in self.folder.glob("[0-9]*.json"):
            yield json.loads(file.read_text())


def tail(file: Path, lines: int = 20) -> list[str]:
    """The last lines of a log, however long it is."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16 * 1024))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def _document(ending: LastWords) -> dict[str, Any]:
    return ending.model_dump(mode="json", by_alias=True, exclude_none=True)


def _json(ending: LastWords) -> str:
    return json.dumps(_document(ending), ensure_ascii=False, separators=(",", ":"))


def _held(document: dict[str, Any], place: str) -> dict[str, Any]:
    """What lies at `result.report`; `{}` where nothing does."""
    holder: Any = document
    for key in place.split("."):
        holder = holder.get(key) or {}
    return holder  # type: ignore[no-any-return]


def _cut(place: str, names: tuple[str, ...], length: int) -> Any:
    def cut(document: dict[str, Any]) -> None:
        holder = _held(document, place)
        for name in names:
            if isinstance(value := holder.get(name), str) and len(value) > length:
                holder[name] = value[: length - 1] + "…"

    return cut


def _first(place: str, names: tuple[str, ...], count: int, length: int = LIMIT) -> Any:
    """Of these lists the first entries, and of the texts in them the beginning."""

    def cut(document: dict[str, Any]) -> None:
        holder = _held(document, place)
        for name in names:
            if name in holder:
                kept = holder[name][:count]
                holder[name] = [_begun(entry, length) for entry in kept]

    return cut


def _begun(entry: Any, length: int) -> Any:
    if isinstance(entry, dict):
        return {name: _begun(value, length) for name, value in entry.items()}
    return entry[:length] if isinstance(entry, str) else entry


def _compared(model: str) -> Any:
    """Of one of two models that metric alone which decides."""

    def cut(document: dict[str, Any]) -> None:
        report = _held(document, "result.report")
        figures = _held(report, model).get("metrics", {})
        for name in [*figures]:
            if name != report["metric"]:
                del figures[name]

    return cut


def _evidence(count: int, length: int) -> Any:
    def cut(document: dict[str, Any]) -> None:
        if failed := document.get("failure"):
            failed["evidence"] = [line[:length] for line in failed.get("evidence", [])[-count:]]

    return cut


def _without(*keys: str) -> Any:
    def drop(document: dict[str, Any]) -> None:
        *parents, last = keys
        holder: Any = document
        for key in parents:
            holder = holder.get(key, {})
        if isinstance(holder, dict):
            holder.pop(last, None)

    return drop


def _overall(name: str) -> Any:
    """Leaves out the figures of single classes."""

    def drop(document: dict[str, Any]) -> None:
        evaluation = document.get("result", {}).get("evaluation", {})
        if figures := evaluation.get(name):
            evaluation[name] = {figure: value for figure, value in figures.items() if ":" not in figure}

    return drop


_SHRINKING = [
    _evidence(20, 160),
    _first("result.search", ("trials",), 8),
    _evidence(10, 160),
    _first("result.search", ("trials",), 5),
    _compared("original"),
    _compared("compressed"),
    _first("result.report.original", ("latency",), 4),
    _first("result.report.compressed", ("latency",), 4),
    _first("result.search", ("trials",), 3),
    _first("result.report", ("notes", "checks"), 8, 160),
    _without("result", "report", "changes"),
    _first("result.report.original", ("latency",), 1),
    _first("result.report.compressed", ("latency",), 1),
    _cut("result.report", ("method", "sentence"), 400),
    _without("result", "report", "notes"),
    _first("result.search", ("trials",), 0),
    _without("result", "evaluation", "confusion"),
    _without("result", "evaluation", "classes"),
    _overall("baseline"),
    _overall("metrics"),
    _evidence(5, 120),
    _cut("failure", ("message", "remedy"), 800),
    _without("result", "dataset", "train", "labels"),
    _without("result", "dataset", "validation", "labels"),
    _without("result", "dataset", "test", "labels"),
    _without("result", "dataset", "notes"),
    _evidence(2, 80),
    _cut("failure", ("message", "remedy"), 300),
    _without("failure", "evidence"),
]


def refuse_twice() -> None:
    """Ends a restarted rank at once when the pod already knows that it cannot succeed."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and Ranks().permanent():
        sys.exit(1)
