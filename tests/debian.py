"""Programs out of Debian's packages: unpacked into the user's cache folder, once. Nothing is installed."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.builds import alone

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops"


@functools.cache
def unpacked(name: str, packages: tuple[str, ...], untested: str, whole: bool = False) -> Path:
    """The folder of that name with what these packages hold, `whole`: and those they need and this machine lacks."""
    folder = CACHE / name
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None:
        absent(untested, packages, "this is no Debian")
    with alone():  # apt-get refuses to run twice at a time
        return folder if folder.exists() else _unpack(folder, packages, untested, whole)


def _unpack(folder: Path, packages: tuple[str, ...], untested: str, whole: bool) -> Path:
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        if _fetched(unfinished, packages, whole):
            if os.geteuid() != 0:
                absent(untested, packages, "`apt-get` knows them not, and only root may run `apt-get update`")
            why = _apt("/", "update", "-qq")[1] or _fetched(unfinished, packages, whole)
            if why:
                absent(untested, packages, why)
        target = Path(unfinished) / "unpacked"
        for package in Path(unfinished).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, target], check=True)
        target.rename(folder)
    return folder


def absent(untested: str, packages: tuple[str, ...], why: str) -> NoReturn:
    """A laptop may go without; the checks that guard the main branch may not."""
    message = f"{untested}: {' and '.join(packages)} are missing: {why}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


def _fetched(folder: str, packages: tuple[str, ...], whole: bool) -> str:
    """What apt-get has to complain of, empty where all is there."""
    wanted = packages
    if whole:
        said, why = _apt(folder, "--simulate", "--no-install-recommends", "install", *packages)
        if why:
            return why
        wanted = tuple(re.findall(r"^Inst (\S+)", said, re.MULTILINE))
    return _apt(folder, "download", *wanted)[1]


def _apt(folder: str, *command: str) -> tuple[str, str]:
    """What apt-get says, and what it has to complain of."""
    done = subprocess.run(["apt-get", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    said = f"`apt-get {' '.join(command)}` said: {done.stderr.strip()[-500:]}"
    return done.stdout, said if done.returncode else ""
