"""One model in a process of its own: loaded, asked by JSON lines, measured.

`python -m lmops_compressor.worker FOLDER TASK --batches FOLDER` is started by `process`. It imports what runs the model
and no more, so that its memory is what a server would need."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmops_compressor import answers, energy
from lmops_compressor.batches import Batches
from lmops_compressor.runners import Array, Runner, opened
from lmops_trainer.failures import failure_of


class Worker:
    """Answers requests, each a JSON object whose `do` names a method below, and whose other members it is given."""

    def __init__(self, runner: Runner, task: str, batches: Batches) -> None:
        self.runner, self.task, self.batches = runner, task, batches
        self._stream = np.concatenate([batch["input_ids"].ravel() for batch in _first(batches)])
        self._has_types = "token_type_ids" in batches.columns

    def time(self, batch_size: int, length: int, calls: int = 1) -> dict[str, Any]:
        """Seconds of each of some calls."""
        batch, seconds = self._filled(batch_size, length), []
        for _ in range(calls):
            start = time.perf_counter()
            self.runner.logits(batch)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def energy(self, batch_size: int, length: int, seconds: float) -> dict[str, Any]:
        """Joules of a row, over calls that go on for so long; counters are too slow for a single one."""
        meters, note = energy.meters()
        if not meters:
            return {"joules": None, "note": note}
        batch, calls = self._filled(batch_size, length), 0
        before, start = sum(meter() for meter in meters), time.perf_counter()
        while calls == 0 or time.perf_counter() - start < seconds:
            self.runner.logits(batch)
            calls += 1
        return {"joules": (sum(meter() for meter in meters) - before) / (calls * batch_size), "note": note}

    def score(self, batch: int, into: str, keep: str | None = None, beside: str | None = None) -> dict[str, Any]:
        """Answers one of the batches; what `answers` makes of it is left as an .npz file."""
        given = self.batches[batch]
        labels = given.pop("labels")
        logits = self.runner.logits(given)
        if self.task == "SequenceClassification":
            found = answers.classes(logits)
        else:
            found = answers.tokens(logits, labels, _path(keep), _path(beside))
        np.savez(into, allow_pickle=False, **found)
        return {}

    def memory(self) -> dict[str, Any]:
        """The most memory of this process until now, in bytes: of the GPU that its model is on, else resident."""
        torch = gpu()
        return {"bytes": torch.cuda.max_memory_allocated() if torch else peak_memory()}

    def device(self) -> dict[str, Any]:
        """The name of the GPU that its model is on."""
        torch = gpu()
        return {"name": torch.cuda.get_device_name() if torch else None}

    def count(self) -> dict[str, Any]:
        """The weights of a model of transformers, and those that are not zero."""
        from lmops_compressor.runners.torch import weights

        parameters, non_zero = weights(self.runner.model)  # type: ignore[attr-defined]
        return {"parameters": parameters, "non_zero": non_zero}

    def _filled(self, batch_size: int, length: int) -> dict[str, Array]:
        """A batch of full rows: the tokens of the first batches, padding too, end to end and over again as needed."""
        ids = np.resize(self._stream, (batch_size, length)).astype(np.int64)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return batch | ({"token_type_ids": np.zeros_like(ids)} if self._has_types else {})


def main() -> int:
    """Loads the model, then answers until nobody asks any more."""
    parser = argparse.ArgumentParser("lmops_compressor.worker", description="One model, measured by its parent.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("task")
    parser.add_argument("--batches", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trust-remote-code", action="store_true")
    chosen = parser.parse_args()
    _die_with_parent()
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # what libraries print is no reply
        worker: Worker | None = None
        for line in sys.stdin:
            request = json.loads(line)
            try:
                if worker is None:
                    trusted = chosen.trust_remote_code
                    runner = opened(chosen.folder, chosen.task, chosen.threads, trusted, chosen.device)
                    worker = Worker(runner, chosen.task, Batches.open(chosen.batches))
                reply = getattr(worker, request.pop("do"))(**request)
            except Exception as error:
                failed = failure_of(error)
                print("\n".join(failed.evidence), file=sys.stderr, flush=True)
                reply = {"failure": failed.manifest()}
            print(json.dumps(reply), file=replies, flush=True)
    return 0


def peak_memory() -> int:
    """The most resident memory of this process until now, in bytes. Linux: VmHWM, which is not its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def gpu() -> Any:
    """torch, where it is at work on a GPU; it is not imported to ask."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _first(batches: Batches) -> list[Mapping[str, Array]]:
    return [batches[number] for number in range(min(4, len(batches)))]


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None


def _die_with_parent() -> None:
    """A parent that is killed cannot close the pipe of a model that is busy for a minute."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
