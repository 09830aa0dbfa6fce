"""The parent's side of a worker: starts it, asks it, and says in a sentence how it ended where it should not have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from lmops.api.status import Failure
from lmops_compressor.batches import Batches
from lmops_trainer.endings import tail
from lmops_trainer.failures import Refusal, failure
from lmops_trainer.launch import oom_kills

SMALLER = "Lower evaluation.batchSizes and evaluation.lengths, or give the job more memory."
PATIENCE = 5.0
"""Seconds that a worker has to end when it is asked to."""


class ModelProcess:
    """A model in a process of its own, from the first answer to `close`."""

    def __init__(
        self, name: str, folder: Path, task: str, threads: int, batches: Batches, first: tuple[int, int],
        trust_remote_code: bool = False, device: str = "cpu",
    ) -> None:  # fmt: skip
        """Starts it and waits for its answer to a first call of (batch size, length). `name` is for sentences."""
        self.name = name
        self._log = batches.folder / f"{name}.log"
        self._kills = oom_kills()
        trusted = ["--trust-remote-code"] if trust_remote_code else []
        options = ["--batches", str(batches.folder), "--threads", str(threads), "--device", device, *trusted]
        start = time.perf_counter()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lmops_compressor.worker", str(folder), task, *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment(threads),
            )  # fmt: skip
        try:
            self.ask("time", batch_size=first[0], length=first[1])
        except BaseException:
            self.close()
            raise
        self.load_seconds = time.perf_counter() - start
        """From no process at all to the first answer."""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """What it answers; a Refusal where it cannot, or is no more."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the missing answer tells as well
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise ended(self.name, self._process.returncode, oom_kills() > self._kills, tail(self._log))
        reply: dict[str, Any] = json.loads(line)
        if "failure" in reply:
            raise _unable(self.name, Failure.model_validate(reply["failure"]))
        return reply

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Unmeasured(Refusal):
    """What the process of one model could not do, or that it is no more."""

    def __init__(self, model: str, failed: Failure) -> None:
        super().__init__(failed.class_, failed.reason, failed.message, failed.remedy, failed.evidence)
        self.model = model
        """Whose process: original or compressed."""


def ended(name: str, code: int, out_of_memory: bool, evidence: list[str]) -> Unmeasured:
    """What it means that the process of the original or the compressed model ended with this code."""
    by = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    message = f"The process that measured the {name} model was ended by {by}."
    if by == "SIGKILL" and out_of_memory:
        message = f"The {name} model needed more memory than the limit, and was killed."
        return Unmeasured(name, failure("OutOfMemory", "OutOfMemory", message, SMALLER, evidence))
    if by in ("SIGKILL", "SIGTERM"):
        remedy = "Look for what ended it: the memory limit, the node, or a person."
        return Unmeasured(name, failure("WorkerLost", "MeasurementKilled", message, remedy, evidence))
    remedy = "What runs the model has failed; the evidence is the end of its log. Try another method."
    return Unmeasured(name, failure("Code", "MeasurementCrashed", message, remedy, evidence))


def _unable(name: str, failed: Failure) -> Unmeasured:
    remedy = SMALLER if failed.class_ == "OutOfMemory" else failed.remedy
    message = f"The {name} model could not be measured. {failed.message}"
    return Unmeasured(name, failure(failed.class_, failed.reason, message, remedy, failed.evidence))


def _environment(threads: int) -> dict[str, str]:
    """Ours, with as many threads as are asked for, and the modules that we ourselves have found."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
