"""Checkpoints on disk: `checkpoints/<attempt>/checkpoint-<step>`, complete once the marker is there, or ignored."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmops_trainer.endings import replace

MARKER = "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was written to its end."""

    step: int
    attempt: int
    folder: Path


def latest(root: Path) -> Checkpoint | None:
    """The complete checkpoint of the highest step, whichever attempt wrote it."""
    return max(complete(root), key=_age, default=None)


def complete(root: Path) -> list[Checkpoint]:
    """All complete checkpoints under the job's `checkpoints` folder."""
    return [found for folder in _folders(root) if (found := _read(folder))]


def passed_over(root: Path, chosen: Checkpoint | None) -> list[Path]:
    """Checkpoints of later steps than the chosen one that bear a marker and are not whole any more."""
    since, whole = chosen.step if chosen else -1, {found.folder for found in complete(root)}
    marked = [folder for folder in _folders(root) if folder not in whole and (folder / MARKER).exists()]
    return sorted(folder for folder in marked if int(folder.name.removeprefix("checkpoint-")) > since)


def seal(folder: Path, step: int) -> None:
    """Makes the checkpoint complete: its files reach the disk first, then the marker that lists them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        flush(file)
    flush(folder)
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    replace(folder / MARKER, json.dumps({"step": step, "files": sizes}, indent=1))
    flush(folder)
    flush(folder.parent)


def prune(root: Path, keep: int, attempt: int) -> None:
    """Removes all but the newest complete checkpoints, and what earlier attempts did not finish."""
    finished = sorted(complete(root), key=_age, reverse=True)
    kept = {checkpoint.folder for checkpoint in finished[:keep]}
    outdated = {checkpoint.folder for checkpoint in finished[keep:]}
    for folder in _folders(root):
        if folder in outdated or (folder not in kept and int(folder.parent.name) < attempt):
            remove(folder)


def remove(folder: Path) -> None:
    """Removes a checkpoint, its marker first: what is left of it is never taken for a whole one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replaced(folder: Path, marker: str) -> Iterator[Path]:
    """A folder to fill that then takes the place of `folder`; `marker` names the file that is written into it last."""
    partial, old = _beside(folder, "new"), _beside(folder, "old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        flush_all(partial)
        recover(folder, marker)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def recover(folder: Path, marker: str) -> None:
    """Puts back the old folder when a replacement was cut short between its two renames."""
    old = _beside(folder, "old")
    if not (folder / marker).exists() and (old / marker).exists():
        shutil.rmtree(folder, ignore_errors=True)
        old.rename(folder)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _age(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.step, checkpoint.attempt


def _folders(root: Path) -> list[Path]:
    found = root.glob("*/checkpoint-*")
    return [folder for folder in found if folder.parent.name.isdigit() and re.fullmatch(r"checkpoint-\d+", folder.name)]


def _read(folder: Path) -> Checkpoint | None:
    try:
        marker = json.loads((folder / MARKER).read_text())
        if any((folder / name).stat().st_size != size for name, size in marker["files"].items()):
            return None
        return Checkpoint(step=int(marker["step"]), attempt=int(folder.parent.name), folder=folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def flush(place: Path) -> None:
    """Has a file, or the names in a folder, reach the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Has a folder with all that is in it reach the disk."""
    for place in [*folder.rglob("*"), folder]:
        flush(place)
