"""Environments for what does not go with ours: each made once, out of a hashed file, in the user's cache."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops"
PATIENCE = 1500
"""Seconds that an installation may take: one of them holds torch."""


class AbsentError(Exception):
    """Why there is no such environment here, in a sentence."""


@functools.cache
def python(name: str) -> Path:
    """The interpreter that has what requirements/NAME.txt says."""
    requirements = REQUIREMENTS / f"{name}.txt"
    text = requirements.read_bytes() + sys.version.encode()
    target = CACHE / name / hashlib.sha256(text).hexdigest()[:12]
    if not target.exists():
        with _alone(target.parent):
            if not target.exists():  # another run may have been faster
                _make(target, requirements)
    return target / "bin" / "python"


def _make(target: Path, requirements: Path) -> None:
    uv = shutil.which("uv", path=os.path.dirname(sys.executable)) or shutil.which("uv")
    if uv is None:
        raise AbsentError(f"the environment of {requirements.name} is missing: `uv` is not installed (pip install uv)")
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    install = ["pip", "install", "--quiet", "--require-hashes", "-r", str(requirements)]
    for command in (
        [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(part)],
        [uv, *install, "--python", str(part / "bin" / "python")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            said = f"`{' '.join(command)}` said: {done.stderr.strip()[-500:]}"
            raise AbsentError(f"the environment of {requirements.name} is missing: {said}")
    part.rename(target)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
