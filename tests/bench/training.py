"""Measures our training against the stock `Trainer` of transformers: the same model, rows, steps and threads.

LMOPS_TEST_VOLUMES=folder python tests/bench/training.py [--rounds 3] [--steps N] [--rows reviews gpt2 gpu bert]

Both sides are whole processes that take turns. Tables go to standard output and into docs/benchmarks.md: one of the
processor, and one of the GPU, which stays as it is where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from table import Figure, page, points, processors, ratio, record, share

from lmops.api import Ending, Run
from lmops_trainer.data.prepared import Prepared

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
POINTS = 100  # our side logs the time that often: the loop is timed from the fifth point, when it is warm
PEAKS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "A10G": 70, "A10": 125,
    "L40S": 362, "L40": 181, "L4": 121, "RTX 4090": 165,
}  # fmt: skip
"""Dense bf16 TFLOP/s, by what a device's name holds."""
GPT2 = {"n_layer": 12, "n_embd": 768, "n_positions": 1024}


ABOUT = (
    "Ours against the stock `Trainer` with `DataCollatorWithPadding`, random order and defaults; the same model, rows, "
    "steps, batches, learning rates and threads. Sides are medians over the rounds; the last comparison is "
    "min, median and max of the rounds. A whole process loads, trains, evaluates once and saves; the loop is timed "
    "after its first twentieth."
)


@dataclass(frozen=True)
class Case:
    """One job to measure: an example, changed for the occasion."""

    name: str
    example: str
    goal: float | None
    change: Callable[[dict[str, Any]], None] = lambda spec: None
    on_gpu: bool = False


@dataclass(frozen=True)
class Measured:
    """One process, from its start to its end."""

    seconds: float
    loop: float
    metric: float
    largest: float
    """The peak of its largest process in MB, as the kernel counts it."""
    together: float
    """The peak of all its processes in MB; pages that they share count once."""
    parameters: int = 0
    accelerator: float = 0
    """The most memory that it has held on its GPU, in bytes."""


def gpu_job(spec: dict[str, Any]) -> None:
    """GPT-2 124M, in bf16, compiled, on blocks of 1024 tokens."""
    spec["model"]["from"]["architecture"]["config"] = GPT2
    spec["dataset"]["maxLength"] = GPT2["n_positions"]
    # 64 blocks are whole batches: a short one at the end of each epoch would be compiled anew, on both sides
    spec["dataset"]["validation"] = {"holdOut": {"fraction": 0.08}}
    spec["training"] = {"steps": 300, "batchSize": 16, "learningRate": 6e-4, "precision": "bf16", "compile": True}


def bert_job(spec: dict[str, Any]) -> None:
    """A BERT of 110 million random weights, in fp16, on sentences of very different lengths."""
    spec["model"] |= {"from": {"architecture": {"name": "bert"}}, "tokenizer": spec["model"]["from"]}
    spec["training"] |= {"precision": "fp16"}


CASES = {
    "reviews": Case("reviews (MiniLM)", "reviews", 1.3),
    "gpt2": Case("packed causal LM (gpt2)", "gpt2", 1.0),
    "gpu": Case("GPT-2 124M, bf16, compiled, T = 1024", "gpt2", None, gpu_job, on_gpu=True),
    "bert": Case("reviews (BERT 110M, fp16)", "reviews", None, bert_job, on_gpu=True),
}


class Bench:
    """One case on data that is prepared once, in a folder that is gone afterwards."""

    def __init__(self, case: Case, volumes: Path, root: Path, limit: int | None) -> None:
        self.case, self.root = case, root
        (self.root / "work").mkdir(parents=True)
        for claim in ("data", "models"):
            (self.root / claim).symlink_to(volumes.resolve() / claim)
        self.spec = yaml.safe_load((ROOT / "examples" / case.example / "trainingjob.yaml").read_text())["spec"]
        case.change(self.spec)
        self.spec |= {"workspace": {"uri": "pvc://work"}, "output": {"uri": "pvc://work/models"}}
        self.report = self._prepared()
        self.data = Prepared.open(self.root / self.report.uri.removeprefix("pvc://"))
        self._set_steps(limit)

    def ours(self, seed: int) -> Measured:
        """`python -m lmops_trainer train`, as a pod runs it."""
        uid, metric = f"seed-{seed}", "eval_f1" if self.data.labels else "eval_loss"
        run = self._run("train", uid, seed)
        process = self._process([sys.executable, "-m", "lmops_trainer", "train", run.document()], uid)
        lines = (self.root / "work" / "jobs" / uid / "metrics.jsonl").read_text().splitlines()
        points = [json.loads(line) for line in lines]
        times = {point["step"]: point["time"] for point in points if "loss" in point}
        found = next(point[metric] for point in points if metric in point)
        held = max(point.get("accelerator_memory_bytes", 0) for point in points)
        return Measured(loop=times[self.steps] - times[self.warm], metric=found, accelerator=held, **process)

    def published(self, seed: int = 1) -> str:
        """Trains and evaluates as a job does, and returns the URI of the model, for what comes after training."""
        self.ours(seed)
        run = self._run("evaluate", f"seed-{seed}", seed)
        self._process([sys.executable, "-m", "lmops_trainer", "evaluate", run.document()], "evaluate")
        ending = Ending.model_validate_json((self.root / "evaluate.ending").read_text())
        assert ending.result
        assert ending.result.model
        return ending.result.model.uri

    def stock(self, seed: int) -> Measured:
        """The stock `Trainer`."""
        result = self.root / f"stock-{seed}.json"
        settings = {
            "data": str(self.data.folder), "labels": self.data.labels, "model": self._model(),
            "clockStart": self.warm, "result": str(result), "arguments": self._arguments(seed),
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("stock.py")), json.dumps(settings)]
        process = self._process(command, f"stock-{seed}")
        return Measured(**process, **json.loads(result.read_text()))

    def _prepared(self) -> Any:
        self._process([sys.executable, "-m", "lmops_trainer", "prepare", self._run("prepare").document()], "prepare")
        ending = Ending.model_validate_json((self.root / "prepare.ending").read_text())
        return ending.result and ending.result.dataset

    def _set_steps(self, limit: int | None) -> None:
        """The steps of both sides, and the rows that they read."""
        training, rows = self.spec["training"], len(self.data.examples("train"))
        epochs = training.pop("epochs", math.inf)
        self.batch = training["batchSize"]
        full = training.get("steps") or math.ceil(epochs * math.ceil(rows / self.batch))
        self.steps = training["steps"] = min(full, limit or full)
        self.rows = min(self.steps * self.batch, epochs * rows)
        self.warm = 5 * max(1, self.steps // POINTS)
        self.loop_rows = self.rows - self.warm * self.batch
        self.spec["evaluation"] = {"every": {"steps": self.steps}}

    def _run(self, stage: str, uid: str = "prepare", seed: int = 42) -> Run:
        spec = self.spec | {"training": self.spec["training"] | {"seed": seed}}
        resolved = {} if stage == "prepare" else {"dataset": self.report.manifest()}
        run = {"job": "bench", "uid": uid, "stage": stage}
        return Run.model_validate({"spec": spec, "run": run, "resolved": resolved})

    def _model(self) -> Any:
        """A folder, or the settings of a new model."""
        origin = self.spec["model"]["from"]
        if "uri" in origin:
            return str(self.root / origin["uri"].removeprefix("pvc://"))
        return {"model_type": origin["architecture"]["name"], **origin["architecture"].get("config", {})}

    def _arguments(self, seed: int) -> dict[str, Any]:
        """The same training in the words of `TrainingArguments`."""
        training = self._run("train").spec.training
        return {
            "output_dir": str(self.root / f"stock-{seed}"), "seed": seed, "max_steps": self.steps,
            "per_device_train_batch_size": self.batch, "learning_rate": training.learning_rate,
            "lr_scheduler_type": training.schedule, "warmup_steps": math.ceil(0.06 * self.steps),
            "weight_decay": training.weight_decay, "bf16": training.precision == "bf16",
            "fp16": training.precision == "fp16", "torch_compile": training.compile, "use_cpu": not self.case.on_gpu,
        }  # fmt: skip

    def _process(self, command: list[str], name: str) -> dict[str, float]:
        """Runs a process to its end, and says how long that took and how much memory."""
        scratch, output = self.root / f"{name}.scratch", self.root / f"{name}.log"
        scratch.mkdir()
        environment = {
            "HF_HUB_OFFLINE": "1", "LMOPS_VOLUMES": str(self.root), "LMOPS_SCRATCH": str(scratch),
            "LMOPS_TERMINATION_LOG": str(self.root / f"{name}.ending"),
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),  # lest the second side find what the first compiled
        } | ({} if self.case.on_gpu else {"CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
        began = time.monotonic()
        with output.open("w") as log:
            process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
        together, ended = 0.0, 0
        try:
            for turn in count():
                if turn % 20 == 0:  # once a second: it takes 20 ms a process
                    together = max(together, proportional(process.pid))
                time.sleep(0.05)
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    break
        finally:
            if not ended:
                process.kill()
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} of {self.case.name} ended with exit code {process.returncode}:\n{output.read_text()}")
        return {"seconds": seconds, "largest": usage.ru_maxrss / 1e3, "together": together / 1e6}


def trained(example: str, volumes: Path, root: Path, limit: int | None) -> str:
    """The URI of the model of an example that lies in the folder, or of a new one: for what comes after training."""
    kept = sorted(root.glob("work/models/*/lmops.json"))
    if kept:
        return f"pvc://work/models/{kept[-1].parent.name}"
    began = time.monotonic()
    uri = Bench(CASES[example], volumes, root, limit).published()
    print(f"{example}: trained, {time.monotonic() - began:.1f} s", file=sys.stderr)
    return uri


def proportional(pid: int) -> float:
    """The memory of a process and all it has started, in bytes, without counting shared pages twice."""
    total = 0.0
    with contextlib.suppress(psutil.Error):  # one has ended meanwhile
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            total += process.memory_full_info().pss
    return total


def figures(bench: Bench, ours: Sequence[Measured], stock: Sequence[Measured]) -> Iterator[Figure]:
    """What the table says of one case."""

    def both(value: Callable[[Measured], float]) -> tuple[list[float], list[float]]:
        return [value(one) for one in ours], [value(one) for one in stock]

    case, classifies = bench.case, bool(bench.data.labels)
    yield ratio("rows/s, whole process", both(lambda one: bench.rows / one.seconds), at_least=case.goal)
    yield ratio("rows/s, training loop", both(lambda one: bench.loop_rows / one.loop))
    if classifies and not case.on_gpu:
        yield points("macro F1", both(lambda one: 100 * one.metric), within=1)
    elif classifies:  # from random weights one epoch leaves it to chance
        yield ratio("macro F1", both(lambda one: one.metric))
    else:
        yield ratio("validation loss", both(lambda one: one.metric))
    most = None if case.on_gpu else 1.0
    yield ratio("peak MB, largest process", both(lambda one: one.largest), at_most=most)
    yield ratio("peak MB, all processes", both(lambda one: one.together), at_most=most)
    if not case.on_gpu:
        return
    yield ratio("peak MB on the GPU", both(lambda one: one.accelerator / 1e6))
    if not classifies:
        tokens = bench.data.max_length
        yield ratio("tokens/s, training loop", both(lambda one: tokens * bench.loop_rows / one.loop))
    if not classifies and (peak := peak_flops()):
        width, layers, tokens = GPT2["n_embd"], GPT2["n_layer"], GPT2["n_positions"]
        work = (6 * stock[0].parameters + 12 * layers * width * tokens) * tokens * bench.loop_rows
        yield share("MFU", both(lambda one: 100 * work / one.loop / peak), at_least=40)


def peak_flops() -> float | None:
    """The dense bf16 peak of the GPU in FLOP/s; nothing without a GPU, or with one that is not in the table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    known = (peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device) and "MIG" not in device)
    return next((1e12 * peak for peak in known), None)


def machine() -> str:
    """What the training ran on, in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processors()}{gpu}, {os.environ['OMP_NUM_THREADS']} threads, torch {torch.__version__}"


def measured(case: Case, rounds: int, limit: int | None, volumes: Path) -> list[Figure]:
    """Both sides of a case in turn, with another one first in each round."""
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        bench = Bench(case, volumes, Path(folder) / "volumes", limit)
        found: dict[str, list[Measured]] = {"ours": [], "stock": []}
        for seed in range(1, rounds + 1):
            sides = {"ours": bench.ours, "stock": bench.stock}
            for side in sorted(sides, reverse=seed % 2 == 0):
                found[side].append(sides[side](seed))
                told = found[side][-1]
                took = f"{told.seconds:.1f} s, {told.loop:.1f} s of it in the loop"
                print(f"{case.name}, seed {seed}, {side}: {took}, {told.metric:.4f}", file=sys.stderr)
        return list(figures(bench, found["ours"], found["stock"]))


def measured_table(cases: Sequence[Case], rounds: int, steps: int | None) -> str:
    """Some cases, measured, under the command that does it."""
    volumes = Path(os.environ["LMOPS_TEST_VOLUMES"])
    results = {case.name: measured(case, rounds, steps, volumes) for case in cases}
    command = shlex.join(["python", "tests/bench/training.py", *sys.argv[1:]])
    return page("stock", results, [ABOUT], f"`{command}` on {machine()}:")


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="Our training against the stock Trainer of transformers.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with its own seed")
    parser.add_argument("--steps", type=int, help="at most so many steps, 10 or more (default: the whole job)")
    parser.add_argument("--rows", nargs="+", choices=CASES, default=[*CASES], help="what to measure")
    chosen = parser.parse_args()
    if chosen.rounds < 1 or (chosen.steps is not None and chosen.steps < 10):
        parser.error("There is nothing to measure in less than one round of 10 steps.")
    if "LMOPS_TEST_VOLUMES" not in os.environ:
        parser.error("Set LMOPS_TEST_VOLUMES to the folder that holds data/ and models/, or run `make bench`.")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    for section, on_gpu in {"training": False, "training-gpu": True}.items():
        cases = [CASES[name] for name in chosen.rows if CASES[name].on_gpu == on_gpu]
        if on_gpu and cases and not torch.cuda.is_available():
            print(f"{', '.join(case.name for case in cases)}: not measured, there is no GPU here.", file=sys.stderr)
        elif cases:
            table = measured_table(cases, chosen.rounds, chosen.steps)
            print(table)
            record(PAGE, section, table)


if __name__ == "__main__":
    main()
