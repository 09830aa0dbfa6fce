"""The clients that people use, in an environment of their own: made once, out of a hashed file, in the user's cache."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "clients.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops" / "clients"


def run(script: Path, *arguments: str) -> Any:
    """What a script of one of the clients prints: JSON."""
    done = subprocess.run([python(), script, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@functools.cache
def python() -> Path:
    """The interpreter that has them. They do not go with what the server is made of: KServe's wants an older psutil."""
    text = REQUIREMENTS.read_bytes() + sys.version.encode()
    target = CACHE / hashlib.sha256(text).hexdigest()[:12]
    if not target.exists():
        with _alone():
            if not target.exists():  # another run may have been faster
                _make(target)
    return target / "bin" / "python"


def _make(target: Path) -> None:
    uv = shutil.which("uv", path=os.path.dirname(sys.executable)) or shutil.which("uv")
    if uv is None:
        _absent("`uv` is not installed (pip install uv)")
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    _run(uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(part))
    install = ["pip", "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)]
    _run(uv, *install, "--python", str(part / "bin" / "python"))
    part.rename(target)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        _absent(f"`{' '.join(command)}` said: {done.stderr.strip()[-500:]}")


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _absent(why: str) -> NoReturn:
    """A laptop may go without; the checks that guard the main branch may not."""
    message = f"THE CLIENTS ARE NOT TESTED: the environment of {REQUIREMENTS.name} is missing: {why}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
