"""Measures what compression brings beside the tools of ONNX Runtime, called by hand, and llm-compressor, in one run.

LMOPS_TEST_VOLUMES=folder PYTHONPATH=tests python tests/bench/compression.py [--models FOLDER] [--rows N] [--record]

The classifier of the example reviews and the GPT-2 of the example gpt2 are trained first, unless they lie in --models
since an earlier run. Then each is written by every method, and all that was written is measured on the same held-out
rows, each in a process of its own, in turn. The table goes to standard output, and with --record into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llm_compressor
import numpy as np
import onnxruntime
import torch
import yaml
from llm_compressor import Recipe, UnableError
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from table import grid, processors, record
from torch.export import Dim

import training
from environments import AbsentError
from lmops.api import Compression
from lmops.api.compression import Step, words
from lmops.api.compressionreport import Interval, Latency
from lmops_compressor import bootstrap, rows, runners
from lmops_compressor.comparison import Answers, Scored
from lmops_compressor.measure import CONFIDENCE, latency, settings, started, workplace
from lmops_compressor.rows import Rows
from lmops_compressor.search import searched
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer import models
from lmops_trainer.endings import job_folder
from lmops_trainer.failures import Refusal
from lmops_trainer.log import quiet_libraries
from lmops_trainer.scores import LOWER_IS_BETTER

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = "ONNX Runtime fp32"
"""What all others are compared with."""
SMALLER, FASTER = 3.5, 2.0
"""How many times an int8 model should be smaller, and faster."""
AS_LARGE = 1.01
"""And how large, beside another of its kind."""
WORSE = {"accuracy": 0.005, "perplexity": 0.005}
"""By how much it may be worse: a share of the rows, or of the perplexity."""
HEADER = ["", "MB", "smaller", "ms", "faster", "{metric}", "difference (95 %)", "same answers", "peak MB", "goals"]

ABOUT = (
    "All are compared with the plain export in fp32, run by ONNX Runtime, on the same rows. By hand are "
    "`torch.onnx.export`, and of what it writes `quantize_dynamic` and `quantize_static` of ONNX Runtime (both with "
    "`per_channel`; the second for MatMul, Gemm and Gather, with the calibration rows that ours have). ms is the "
    "median of calls of one row without padding, all models in turn, there and back again, each in a process of its "
    "own with one thread; peak MB is that of its process, before it scores. llm-compressor is given the same layers "
    "and calibration rows, all else at its defaults; what it writes, as our FP8, is run by transformers, which makes "
    "the weights fp32 again: its ms and MB say nothing of a server. The difference is paired, row by row, with "
    f"its bootstrap interval. Goals, for int8: ≥ {SMALLER:g} times smaller, ≥ {FASTER:g} times faster, at most 0.5 "
    "points of accuracy or 0.5 % of perplexity worse; for WeightOnly in groups of 128 and FP8: no larger than what "
    "llm-compressor rounds to W4A16 and FP8, and not worse, as far as the interval of their difference tells."
)


@dataclass(frozen=True)
class Case:
    """A model that an example trains, and how it is written."""

    example: str
    metric: str
    length: int
    """Tokens of the row that is timed."""
    int8: tuple[str, ...]
    """What the goals are for."""
    ours: Mapping[str, dict[str, Any]]
    theirs: Mapping[str, Recipe]
    """By llm-compressor."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """Which of theirs is of the same kind as one of ours."""
    by_hand: tuple[str, ...] = ("quantize_dynamic",)
    search: str = ""
    """The example whose search goes on from the very model."""
    steps: int | None = None
    """At most, of the training."""


FOUR_BITS = {
    "W4A16, rounded": Recipe("RTN", {"scheme": "W4A16"}, looks_at_rows=False),
    "W4A16, GPTQ": Recipe("GPTQ", {"scheme": "W4A16"}),
}
FLOATS = {"FP8": Recipe("RTN", {"scheme": "FP8_DYNAMIC"}, looks_at_rows=False)}
CASES = {
    "MiniLM (reviews)": Case(
        "reviews", "accuracy", 128, ("Dynamic", "Static", "Mobile"),
        {
            "Dynamic": {"method": "Dynamic"}, "Static": {"method": "Static"}, "Mobile": {"method": "Mobile"},
            "MixedPrecision, 6 bit": {"method": "MixedPrecision", "bits": 6},
            "WeightOnly, 4 bit": {"method": "WeightOnly", "bits": 4},
            "WeightOnly, 4 bit, groups of 128": {"method": "WeightOnly", "bits": 4, "groupSize": 128},
            "FP8": {"method": "FP8"},
        },
        FOUR_BITS | FLOATS,
        {"WeightOnly, 4 bit, groups of 128": "W4A16, rounded", "FP8": "FP8"},
        ("quantize_dynamic", "quantize_static"),
        "compress-reviews/search.yaml",
    ),
    "GPT-2 (gpt2)": Case(
        "gpt2", "perplexity", 128, ("Dynamic",),
        {"Dynamic": {"method": "Dynamic"}, "WeightOnly, 4 bit": {"method": "WeightOnly", "bits": 4}},
        FOUR_BITS,
        steps=150,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One way of writing the model."""

    size: int
    latency: Latency
    memory: int
    said: Answers
    value: float
    """Of the metric."""


@dataclass
class Bench:
    """A trained model, its rows, and a folder for each way of writing it."""

    case: Case
    run: Compression
    source: Source
    folder: Path
    repeats: int
    other: str
    """llm-compressor, by its version; empty where it is absent."""
    made: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What could not be written, and why."""
    searched: str = ""
    """Which of them the search has made."""
    allowed: float = 0.0
    """By how much its metric may be worse."""

    def write(self) -> None:
        """All of them: first what is compared with, then by hand, ours, the search's, and llm-compressor's."""
        self.made["transformers fp32"] = self.source.folder
        plain = self._write(PLAIN, lambda folder: exported(self.source, folder))
        calibration = rows.calibration(self.run, self.source)
        for tool in self.case.by_hand:
            self._write(f"{tool}, by hand", lambda folder, tool=tool: TOOLS[tool](plain, folder, calibration))
        for name, how in self.case.ours.items():
            step = Step.model_validate({"quantize": how})
            self._write(
                name,
                lambda folder, step=step: applied(
                    self.run, self.source, [step], lambda: calibration, folder, lambda _: None
                ),
            )
        if self.case.search:
            self._search(self.case.search)
        for name, recipe in self.case.theirs.items() if self.other else ():
            self._try(name, recipe, calibration)

    def _search(self, example: str) -> None:
        """What the example's search chooses, which is measured as all others are."""
        spec = yaml.safe_load((EXAMPLES / example).read_text())["spec"]["search"]
        run, began = searching(self.run, spec), time.monotonic()
        try:
            steps, made, found = searched(run, self.source, self.folder, lambda _: None)
        except Refusal as refusal:
            self.notes.append(f"search: {refusal.message}")
            return
        finally:
            shutil.rmtree(job_folder(run), ignore_errors=True)
        self.searched = f"search: {words(steps)}"
        self.made[self.searched] = made.folder
        self.allowed = spec["limits"]["maxQualityDrop"]
        self.notes.append(
            f"The search is that of `examples/{example}`, on the calibration rows: {found.tried} of "
            f"{found.combinations} combinations tried in {time.monotonic() - began:.0f} s. Its goal: smaller than each "
            "method alone, at most "
            f"{100 * self.allowed:g} points worse."
        )

    def _try(self, name: str, recipe: Recipe, calibration: Rows) -> None:
        """What it has written, or why it has not: it knows fewer models than ours."""
        name = f"{llm_compressor.NAME} {name}"
        try:
            self._write(name, lambda folder: llm_compressor.compressed(self.source, calibration, recipe, folder))
        except UnableError as unable:
            self.notes.append(f"{name}: {unable}.")
            del self.made[name]

    def measured(self) -> tuple[Rows, dict[str, Measured]]:
        """The rows, and all on them. Memory is told before a process scores: scores take room of their own."""
        scored, setting = rows.scored(self.run, self.source), (1, self.case.length)
        with workplace() as folder, ExitStack() as stack:
            told = Scored.written(scored, folder / "rows")
            processes = [
                stack.enter_context(started(name, path, self.run, self.source, told, setting))
                for name, path in self.made.items()
            ]
            latencies = latency(processes, setting, self.repeats)
            memory = [process.ask("memory")["bytes"] for process in processes]
            said = [told.by(process) for process in processes]
        sizes = [runners.weights(path) for path in self.made.values()]
        values = [answers.figures(self.source.task, self.source.labels)[self.case.metric] for answers in said]
        every = zip(sizes, latencies, memory, said, values, strict=True)
        return scored, {name: Measured(*one) for name, one in zip(self.made, every, strict=True)}

    def _write(self, name: str, write: Callable[[Path], object]) -> Path:
        folder = self.made[name] = self.folder / name.replace(" ", "-")
        folder.mkdir()
        began = time.monotonic()
        write(folder)
        print(f"{self.case.example}: {name} is written, {time.monotonic() - began:.1f} s", file=sys.stderr)
        return folder


class Logits(torch.nn.Module):
    """The model with tensors for inputs and one tensor for an output."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """The scores."""
        found: torch.Tensor = self.model(**dict(zip(self.names, given, strict=True)), return_dict=True).logits
        return found


def exported(source: Source, folder: Path) -> Path:
    """The graph in fp32, as the documentation of PyTorch has it."""
    model = source.model()
    model.config.use_cache = False
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in models.inputs(model)]
    given = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names)
    torch.onnx.export(
        Logits(model, names).eval(), given, folder / "model.onnx", input_names=names, output_names=["logits"],
        dynamic_shapes=(tuple({0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for _ in names),), dynamo=True, verbose=False,
    )  # fmt: skip
    return folder


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration rows, as the tool wants them."""

    def __init__(self, plain: Path, given: Rows) -> None:
        session = onnxruntime.InferenceSession(plain / "model.onnx", providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        self.batches = (
            {name: batch.get(name, torch.zeros_like(batch["input_ids"])).numpy() for name in names}
            for _, batch in given.batches()
        )

    def get_next(self) -> dict[str, Any] | None:
        """One batch, until there is none."""
        return next(self.batches, None)


def by_dynamic(plain: Path, folder: Path, _: Rows) -> None:
    """int8 with the ranges that each call brings."""
    quantize_dynamic(plain / "model.onnx", folder / "model.onnx", per_channel=True)


def by_static(plain: Path, folder: Path, calibration: Rows) -> None:
    """int8 with the ranges that the rows have shown."""
    quantize_static(
        plain / "model.onnx", folder / "model.onnx", Reader(plain, calibration), per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )  # fmt: skip


TOOLS = {"quantize_dynamic": by_dynamic, "quantize_static": by_static}


def lines(bench: Bench, found: Mapping[str, Measured]) -> Iterator[list[str]]:
    """A line of the table each."""
    plain, metric = found[PLAIN], bench.case.metric
    for name, one in found.items():
        gained = bootstrap.difference(
            metric, plain.said, one.said, (plain.value, one.value), bench.source.labels, CONFIDENCE
        )
        smaller = plain.size / one.size
        faster = plain.latency.p50_milliseconds / one.latency.p50_milliseconds
        same = bootstrap.agreement(plain.said, one.said, CONFIDENCE).value
        value = f"{one.value:.2f}" if metric in LOWER_IS_BETTER else f"{100 * one.value:.2f} %"
        yield [
            name, f"{one.size / 1e6:.1f}", f"{smaller:.2f} x", f"{one.latency.p50_milliseconds:.2f}", f"{faster:.2f} x",
            value, "" if name == PLAIN else spelled(metric, gained), f"{100 * same:.1f} %", f"{one.memory / 1e6:.0f}",
            goals(smaller, faster, metric, gained) if name in bench.case.int8
            else alone(bench, found, gained) if name == bench.searched
            else beside(bench, found, name),
        ]  # fmt: skip


def goals(smaller: float, faster: float, metric: str, gained: Interval) -> str:
    """`ok`, or what was missed."""
    return verdict({"size": smaller >= SMALLER, "speed": faster >= FASTER, metric: gained.value >= -WORSE[metric]})


def beside(bench: Bench, found: Mapping[str, Measured], name: str) -> str:
    """The same beside what llm-compressor makes of that kind; nothing where it makes none."""
    ours, theirs = found[name], found.get(f"{llm_compressor.NAME} {bench.case.peers.get(name)}")
    if theirs is None:
        return ""
    metric, labels = bench.case.metric, bench.source.labels
    gained = bootstrap.difference(metric, theirs.said, ours.said, (theirs.value, ours.value), labels, CONFIDENCE)
    return verdict({"size": ours.size <= AS_LARGE * theirs.size, metric: gained.high >= 0})


def alone(bench: Bench, found: Mapping[str, Measured], gained: Interval) -> str:
    """What the search has found beside each of ours by itself."""
    others = [found[name].size for name in bench.case.ours]
    is_smaller, is_good = found[bench.searched].size < min(others), gained.value >= -bench.allowed
    return verdict({"size": is_smaller, bench.case.metric: is_good})


def verdict(kept: Mapping[str, bool]) -> str:
    """What is kept of the goals, in a word."""
    missed = [name for name, is_kept in kept.items() if not is_kept]
    return f"missed: {', '.join(missed)}" if missed else "ok"


def spelled(metric: str, gained: Interval) -> str:
    """More is better; where less is, a perplexity that has risen by a hundredth is +1 %."""
    unit, sign = (" %", -1) if metric in LOWER_IS_BETTER else (" points", 1)
    low, high = sorted(100 * sign * bound for bound in (gained.low, gained.high))
    value = 100 * sign * gained.value + 0.0
    return f"{value:+.2f}{unit} ({low + 0.0:+.2f} to {high + 0.0:+.2f})"


def searching(run: Compression, search: dict[str, Any]) -> Compression:
    """The same job with a search, whose trials are its own."""
    found = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    del found["spec"]["steps"]
    found["spec"]["search"], found["run"]["uid"] = search, uuid.uuid4().hex
    return Compression.model_validate(found)


def document(case: Case, uri: str, repeats: int, limit: int | None) -> Compression:
    """The run of a job that would compress this model."""
    spec = {
        "model": {"from": {"uri": uri}}, "steps": [{"quantize": {"method": "Dynamic"}}],
        "evaluation": {"lengths": [case.length], "repeats": repeats, "threads": 1} | ({"rows": limit} if limit else {}),
        "output": {"uri": "pvc://none"},
    }  # fmt: skip
    run = {"job": "bench", "uid": "bench", "stage": "compress"}
    return Compression.model_validate({"spec": spec, "run": run, "source": {"uri": uri}})


def measured(case: Case, volumes: Path, root: Path, other: str, chosen: argparse.Namespace) -> tuple[str, list[str]]:
    """Trains, writes, measures: what the rows were, and the table of one model with what is not in it."""
    steps = min((some for some in (chosen.steps, case.steps) if some), default=None)
    uri = training.trained(case.example, volumes, root, steps)
    os.environ["LMOPS_VOLUMES"] = str(root)
    run = document(case, uri, chosen.repeats, chosen.rows)
    source = Source.open(run)
    settings(run, source)  # refuses what the model has no room for
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        bench = Bench(case, run, source, Path(folder), chosen.repeats, other)
        bench.write()
        scored, found = bench.measured()
    learnt = f"{source.recipe.training.steps} steps of training, " if source.recipe else ""
    said = f"{learnt}{len(np.unique(scored.rows)):,} {scored.name} rows, calls of {case.length} tokens"
    header = [cell.format(metric=case.metric) for cell in HEADER]
    return said, [grid([header, *lines(bench, found)]), *bench.notes]


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="Compressed models beside what one would make by hand.")
    parser.add_argument("--models", type=Path, help="where the models are kept (default: they are gone afterwards)")
    parser.add_argument("--steps", type=int, help="at most so many steps of training, 10 or more")
    parser.add_argument("--rows", type=int, help="at most so many rows are scored (default: all)")
    parser.add_argument("--repeats", type=int, default=40, help="timed calls of each model, 5 or more")
    parser.add_argument("--record", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    if chosen.repeats < 5 or (chosen.steps is not None and chosen.steps < 10):
        parser.error("There is nothing to measure in less than 10 steps of training and 5 calls.")
    if "LMOPS_TEST_VOLUMES" not in os.environ:
        parser.error("Set LMOPS_TEST_VOLUMES to the folder that holds data/ and models/, or run `make bench`.")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # of the training
    quiet_libraries()
    other, parts = "", []
    try:
        other = llm_compressor.version()
    except AbsentError as absent:
        parts.append(f"{llm_compressor.NAME} is not among them: {absent}")
    volumes = Path(os.environ["LMOPS_TEST_VOLUMES"])
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
            said, found = measured(case, volumes, (chosen.models or Path(folder)) / case.example, other, chosen)
        parts += [f"{name}, {said}:", *found]
    tools = [f"torch {torch.__version__}", f"ONNX Runtime {onnxruntime.__version__}", *([other] if other else [])]
    command = shlex.join(["python", "tests/bench/compression.py", *sys.argv[1:]])
    table = "\n\n".join([f"`{command}` on {processors()}, {', '.join(tools)}:", *parts, ABOUT])
    print(table)
    if chosen.record:
        record(training.PAGE, "compression", table)


if __name__ == "__main__":
    main()
