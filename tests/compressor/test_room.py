"""A compression that lacks room says so, leaves its source as it was, and nothing that looks like a model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmops.api import Ending
from lmops.api.status import Failure
from lmops_trainer.uris import path
from measuring import Models, run

AS_IT_WAS = "The model that was to be compressed is as it was."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that soon is full."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system: a full disk was NOT tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def failed(uri: str, tmp_path: Path, scratch: Path, **spec: object) -> Failure:
    """How a run ends as a process of its own."""
    log = tmp_path / "ending.json"
    environment = {"LMOPS_TERMINATION_LOG": str(log), "LMOPS_SCRATCH": str(scratch), "OMP_NUM_THREADS": "1"}
    document = run(uri, steps=[{"quantize": {"method": "Dynamic"}}], **spec).document()
    command = [sys.executable, "-m", "lmops_compressor", "compress", document]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    found = Ending.model_validate_json(log.read_text()).failure
    assert found, done.stderr
    return found


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of each file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("full", ["volume", "scratch"])
def test_a_full_disk_is_told_and_leaves_no_half_model(models: Models, tmp_path: Path, small: Path, full: str):
    uri, _ = models.of()
    before = contents(path(uri))
    claim = models.volume.root.parent / f"small-{full}"
    claim.symlink_to(small if full == "volume" else tmp_path)
    scratch = small if full == "scratch" else tmp_path

    found = failed(uri, tmp_path, scratch, output={"uri": f"pvc://small-{full}/out"}, workspace={"uri": "pvc://data/w"})

    assert (found.class_, found.reason) == ("Disk", "DiskFull")
    where = "pvc://small-volume/out/" if full == "volume" else str(small)
    assert found.message.startswith(f"The disk is full: {where}")
    assert found.remedy == f"Make it larger, or free some space there. {AS_IT_WAS}"
    assert contents(path(uri)) == before
    assert {file.suffix for file in small.rglob("*") if file.is_file()} <= {".log"}
    assert not list(tmp_path.rglob("lmops.json"))
