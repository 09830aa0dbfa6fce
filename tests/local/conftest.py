"""A laptop for a test: a home of its own, the command as a user types it, and stages of a few lines as the trainer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join(map(str, (Path(__file__).parent / "stages", ROOT / "operator")))

REVIEWS = """\
apiVersion: lmops.dev/v1alpha1
kind: TrainingJob
metadata:
  name: reviews
spec:
  model:
    from: {uri: pvc://models/minilm}
    task: SequenceClassification
  dataset:
    train: {uri: pvc://data/reviews.csv}
  training: {steps: 5}
  output: {uri: pvc://models/reviews}
"""


class Laptop:
    """A folder with `reviews.yaml`, in which `lmops` is run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.started: list[subprocess.Popen[str]] = []
        self.write("reviews.yaml", REVIEWS)
        for claim in ("data", "models"):
            (self.home / "volumes" / claim).mkdir(parents=True)

    def write(self, name: str, text: str) -> Path:
        """Writes a file."""
        (self.folder / name).write_text(text)
        return self.folder / name

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Starts `lmops local ...` as from a terminal."""
        environment = {**os.environ, "PYTHONPATH": PATH, "LMOPS_HOME": str(self.home), "OMP_NUM_THREADS": "1", **env}
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "lmops", "local", *words],
                cwd=self.folder,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return self.started[-1]

    def lmops(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Runs `lmops local ...`: exit code, output, errors."""
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def resource(self, target: str = "tj/reviews") -> dict[str, Any]:
        """The resource as `get -o yaml` prints it."""
        found: dict[str, Any] = yaml.safe_load(self.lmops("get", target, "-o", "yaml")[1])
        return found

    def step(self) -> int:
        """The step that the training has saved last."""
        file = self.home / "volumes" / "models" / "step"
        return int(file.read_text() or 0) if file.exists() else 0


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    """A laptop whose processes do not outlive the test."""
    made = Laptop(tmp_path)
    yield made
    for process in made.started:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in (*family, process):
            member.kill()
        process.communicate()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits for something to become true."""
    return until
