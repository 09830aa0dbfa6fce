"""Prometheus, promtool and Alertmanager, out of Debian's packages: unpacked into the user's cache folder, once."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

PACKAGES = ("prometheus", "prometheus-alertmanager")


def program(name: str) -> Path:
    """`promtool`, `prometheus`, `prometheus-alertmanager` or `amtool`."""
    return _unpacked() / "usr" / "bin" / name


def check(groups: list[dict[str, Any]], folder: Path) -> None:
    """Raises where Prometheus would not load these groups of rules."""
    file = folder / "checked.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(groups: list[dict[str, Any]], tests: list[dict[str, Any]], folder: Path) -> None:
    """Raises where the rules do not alert as the tests say; see Prometheus' "Unit Testing for Rules"."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def series(metric: str, labels: dict[str, str], values: str) -> dict[str, str]:
    """A series of a test: a value each minute, in promtool's own shorthand."""
    chosen = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{metric}{{{chosen}}}", "values": values}


@functools.cache
def _unpacked() -> Path:
    """Nothing is installed: the packages would start services of this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops"
    folder = cache / "prometheus"
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None:
        _absent("this is no Debian")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as unfinished:
        if _apt(unfinished, "download", *PACKAGES):
            _update()
            if why := _apt(unfinished, "download", *PACKAGES):
                _absent(why)
        target = Path(unfinished) / "unpacked"
        for package in Path(unfinished).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, target], check=True)
        if not folder.exists():  # another run may have been faster
            target.rename(folder)
    return folder


def _update() -> None:
    """Fetches Debian's lists of packages, which only root may."""
    if os.geteuid() != 0:
        _absent("`apt-get download` knows no such packages, and only root may run `apt-get update`")
    if why := _apt("/", "update", "-qq"):
        _absent(why)


def _apt(folder: str, *command: str) -> str:
    """What apt-get has to complain of, empty where it did what it should."""
    done = subprocess.run(["apt-get", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return f"`apt-get {' '.join(command)}` said: {done.stderr.strip()[-500:]}" if done.returncode else ""


def _absent(why: str) -> NoReturn:
    """A laptop may go without; the checks that guard the main branch may not."""
    message = f"ALERTS ARE NOT CHECKED: {' and '.join(PACKAGES)} are missing: {why}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
