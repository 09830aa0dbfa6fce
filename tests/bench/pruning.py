"""Measures what pruning costs and brings: our methods beside torch's own and llm-compressor's, and fewer neurons.

LMOPS_TEST_VOLUMES=folder PYTHONPATH=tests python tests/bench/pruning.py [--models FOLDER] [--model URI] [--record]

The model is the classifier of the example reviews, which is trained first unless it lies in --models since an earlier
run, or --model names one of the volumes. Its test rows, or else its validation rows, are scored. The table goes to
standard output, and with --record into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import llm_compressor
import numpy as np
import torch
from llm_compressor import Recipe, Taken
from table import Figure, page, processors, ratio, record
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune as plain

import training
from environments import AbsentError
from lmops.api import Compression
from lmops.api.compression import Prune
from lmops_compressor import methods, rows
from lmops_compressor.methods import Subject, masks, recovery
from lmops_compressor.source import Source
from lmops_compressor.worker import peak_memory
from lmops_trainer import models
from lmops_trainer.inference import passes
from lmops_trainer.log import quiet_libraries

ORDER = ("Magnitude", "Wanda", "SparseGPT")
SETTINGS: dict[str, dict[str, Any]] = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}
THEIRS: dict[str, dict[str, Any]] = {
    "50 %": {"sparsity": 0.5}, "2:4": {"sparsity": 0.5, "mask_structure": "2:4"},
}  # fmt: skip
"""The same in the words of llm-compressor, which has Wanda and SparseGPT."""
DRAWS, LENGTH, CALLS = 10_000, 128, 60
Array = np.ndarray[Any, Any]

ABOUT = (
    "KL is the mean divergence, in millinats, of a pruned model's classes from those of the dense one, over the rows "
    "that are scored; the comparison is the difference to the other side, with its paired bootstrap interval (95 %, "
    "10,000 draws of rows). torch's own is `torch.nn.utils.prune.l1_unstructured` of each layer for 50 %, and "
    "`torch.ao.pruning.WeightNormSparsifier` for 2:4. llm-compressor prunes the same layers by the same rows, which it "
    "reads one by one, all else at its defaults too; the goal beside it is a KL that is not above its own, as far as "
    "the interval tells. s is what pruning takes, and MB the peak of its process until then, without saving, each in "
    "a process of its own with 1 thread. Latency is the median of calls of both models in turn: one row of "
    f"{LENGTH} tokens, torch, 1 thread."
)


class Bench:
    """A trained classifier, its rows, and a folder of scratch."""

    def __init__(self, uri: str, calibration: int, limit: int | None, folder: Path) -> None:
        spec = {
            "model": {"from": {"uri": uri}}, "steps": [{"prune": {"method": "Magnitude"}}],
            "calibration": {"rows": calibration}, "output": {"uri": "pvc://none"},
            "evaluation": {"rows": limit} if limit else {},
        }  # fmt: skip
        run = {"job": "bench", "uid": "bench", "stage": "compress"}
        self.run = Compression.model_validate({"spec": spec, "run": run, "source": {"uri": uri}})
        self.folder, self.source = folder, Source.open(self.run)
        self.calibration, self.training = rows.calibration(self.run, self.source), rows.training(self.run, self.source)
        self.scored = rows.scored(self.run, self.source)
        self.labels = np.asarray([example["label"] for example in self.scored.examples])
        self.dense = self.logits(self.source.model())

    def alone(self, how: Prune) -> tuple[Subject, Taken]:
        """The model, pruned by one of ours in a process of its own."""
        target = self._target("ours", how)
        with ProcessPoolExecutor(1, get_context("spawn")) as processes:
            taken = processes.submit(pruned, self.run, how, target).result()
        return self._made(how, target, taken, "ours")

    def theirs(self, how: Prune, arguments: dict[str, Any]) -> tuple[Subject, Taken]:
        """The model, pruned by llm-compressor."""
        target = self._target("theirs", how)
        taken = llm_compressor.compressed(self.source, self.calibration, Recipe(how.method, arguments), target)
        return self._made(how, target, taken, llm_compressor.NAME)

    def smaller(self, **settings: Any) -> Subject:
        """The model with fewer neurons, trained again where that is asked for."""
        subject = Subject(self.source, self.source.model())
        how = Prune.model_validate({"method": "Neurons", **settings})
        began = time.monotonic()
        change = methods.pruner(how.method).prune(subject, how, lambda: self.calibration, lambda share: None)
        if how.recovery:
            recovery.recover(subject, how.recovery, self.training, 42, lambda share: None)
        print(f"{change.step}: {change.detail}, {time.monotonic() - began:.1f} s", file=sys.stderr)
        return subject

    def _target(self, side: str, how: Prune) -> Path:
        return self.folder / "-".join([side, how.method, (how.pattern or "half").replace(":", "")])

    def _made(self, how: Prune, target: Path, taken: Taken, side: str) -> tuple[Subject, Taken]:
        """What lies in a folder; refused where it is not as sparse as asked for."""
        subject = Subject(self.source, models.load(target, self.source.task))
        layers = masks.prunable(subject.model, how)
        change = masks.counted(how, layers, dict.fromkeys(layers, 0))
        print(f"{change.step}, {side}: {change.detail}, {taken.seconds:.1f} s", file=sys.stderr)
        return subject, taken

    def plain(self, setting: str) -> Subject:
        """The model, pruned by torch itself."""
        subject = Subject(self.source, self.source.model())
        layers = methods.layers(subject.model, [])
        if setting == "2:4":
            sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
            sparsifier.prepare(subject.model, [{"tensor_fqn": f"{name}.weight"} for name in layers])
            sparsifier.step()
            sparsifier.squash_mask()
            return subject
        for layer in layers.values():
            plain.l1_unstructured(layer, "weight", 0.5)
            plain.remove(layer, "weight")
        return subject

    def logits(self, model: Any) -> Array:
        """[rows, classes], in fp64."""
        examples, found = self.scored.examples, np.empty((len(self.scored), len(self.source.labels)))
        lengths = [len(example["input_ids"]) for example in examples]
        for one in passes(model, lengths, lambda chosen: [examples[i] for i in chosen], self.scored.collator):
            found[one.chosen] = one.logits.double().numpy()
        return found

    def divergence(self, subject: Subject) -> Array:
        """Of each row, in millinats."""
        dense, pruned = (logarithms(scores) for scores in (self.dense, self.logits(subject.model)))
        return 1000 * (np.exp(dense) * (dense - pruned)).sum(axis=1)

    def right(self, scores: Array) -> Array:
        """100 where the class is right, else 0."""
        return 100.0 * (scores.argmax(axis=1) == self.labels)


def pruned(run: Compression, how: Prune, target: Path) -> Taken:
    """Prunes by one of ours into a folder: in a process of its own, as the other side does."""
    quiet_libraries()
    torch.set_num_threads(1)
    source = Source.open(run)
    calibration, subject = rows.calibration(run, source), Subject(source, source.model())
    began = time.perf_counter()
    methods.pruner(how.method).prune(subject, how, lambda: calibration, lambda share: None)
    taken = Taken(time.perf_counter() - began, peak_memory())
    subject.model.save_pretrained(target)
    return taken


def logarithms(scores: Array) -> Array:
    """The logarithms of the probabilities."""
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)  # type: ignore[no-any-return]


def interval(differences: Array) -> tuple[float, float, float]:
    """The mean, and where it lies by a bootstrap over the rows."""
    drawn = np.random.default_rng(0)
    count = len(differences)
    means = [differences[drawn.integers(0, count, count)].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def sparse(bench: Bench, setting: str, has_theirs: bool) -> Iterator[Figure]:
    """Each method beside the one that it should be better than, the first beside torch's own, and llm-compressor's."""
    before = bench.divergence(bench.plain(setting))
    name = "torch's own"
    for method in ORDER:
        how = Prune.model_validate({"method": method, **SETTINGS[setting]})
        subject, taken = bench.alone(how)
        found = bench.divergence(subject)
        equal = method == ORDER[0]
        yield divergences(f"{method} to {name}", found, before, f"= {name}" if equal else f"< {name}")
        if has_theirs and method != ORDER[0]:
            yield from beside(bench, how, found, taken, THEIRS[setting])
        before, name = found, method


def beside(bench: Bench, how: Prune, found: Array, ours: Taken, arguments: dict[str, Any]) -> Iterator[Figure]:
    """One of our methods, and llm-compressor's of the same name."""
    subject, theirs = bench.theirs(how, arguments)
    other = llm_compressor.NAME
    yield divergences(f"{how.method} to {other}", found, bench.divergence(subject), f"≤ {other}")
    yield ratio(f"s, {how.method} to {other}", ([ours.seconds], [theirs.seconds]), at_most=1.1)
    yield ratio(f"peak MB, {how.method} to {other}", ([ours.memory / 1e6], [theirs.memory / 1e6]), at_most=1.1)


def divergences(name: str, ours: Array, other: Array, goal: str) -> Figure:
    """Row by row. Less is surely less, no more is not surely more, and equal is equal to a tenth."""
    middle, low, high = interval(ours - other)
    met = {"<": high < 0, "≤": low <= 0, "=": abs(middle) < 0.1}[goal[0]]
    compared = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
    return Figure(f"KL, {name}", ours.mean(), other.mean(), compared, goal, bool(met))


def neurons(bench: Bench, learnt: dict[str, Any]) -> Iterator[Figure]:
    """A quarter of the neurons gone: before and after a recovery, and how much faster."""
    dense = bench.right(bench.dense)
    bare = bench.smaller(sparsity=0.25)
    yield accuracy("accuracy in %", bench.right(bench.logits(bare.model)), dense)
    subject = bench.smaller(sparsity=0.25, recovery=learnt)
    yield accuracy("accuracy in %, recovered", bench.right(bench.logits(subject.model)), dense, at_most=1)
    ours, other = latencies([subject.model, bench.source.model()])
    ratio = other / ours
    yield Figure(f"ms, 1 row of {LENGTH} tokens", ours, other, f"{ratio:.2f} x faster", "≥ 1.12 x", ratio >= 1.12)


def accuracy(name: str, ours: Array, dense: Array, at_most: float | None = None) -> Figure:
    """Points of accuracy gained or lost, row by row."""
    middle, low, high = interval(ours - dense)
    compared = f"{middle:+.2f} points ({low:+.2f} to {high:+.2f})"
    if at_most is None:
        return Figure(name, ours.mean(), dense.mean(), compared)
    return Figure(name, ours.mean(), dense.mean(), compared, f"≤ {at_most:g} point lost", bool(middle >= -at_most))


@torch.inference_mode()
def latencies(models: Sequence[nn.Module]) -> list[float]:
    """The median milliseconds of a call of each model; they take turns."""
    ids = torch.randint(1000, 20_000, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found: list[list[float]] = [[] for _ in models]
    for call in range(CALLS + 5):
        for model, taken in zip(models, found, strict=True):
            taken += [milliseconds(lambda model=model: model(**given))] if call >= 5 else []  # type: ignore[misc]
            if call < 5:
                model(**given)
    return [median(taken) for taken in found]


def milliseconds(call: Callable[[], Any]) -> float:
    """What a call takes."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def measured(uri: str, chosen: argparse.Namespace) -> tuple[str, dict[str, list[Figure]], list[str]]:
    """What the rows were, the figures, and what a reader has to know."""
    try:
        other, notes = llm_compressor.version(), []
    except AbsentError as absent:
        other, notes = "", [f"{llm_compressor.NAME} is not beside it: {absent}"]
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        bench = Bench(uri, chosen.calibration, chosen.rows, Path(folder))
        results = {f"{setting} of the weights": list(sparse(bench, setting, bool(other))) for setting in SETTINGS}
        results["25 % of the neurons"] = list(neurons(bench, {"steps": chosen.recovery}))
    steps = f"{bench.source.recipe.training.steps} steps of training, " if bench.source.recipe else ""
    count = f"{steps}{len(bench.scored):,} {bench.scored.name} rows, {len(bench.calibration)} calibration rows"
    return f"{f'{other}, ' if other else ''}{count}", results, notes


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="What pruning costs and brings.")
    parser.add_argument("--models", type=Path, help="where the model is kept (default: it is gone afterwards)")
    parser.add_argument("--model", help="a trained classifier of the volumes, instead: pvc://models/...")
    parser.add_argument("--steps", type=int, help="at most so many steps of training, 10 or more")
    parser.add_argument("--rows", type=int, help="at most so many rows are scored (default: all)")
    parser.add_argument("--calibration", type=int, default=128, help="rows that the methods look at")
    parser.add_argument("--recovery", type=int, default=100, help="steps of the recovery")
    parser.add_argument("--record", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    if chosen.steps is not None and chosen.steps < 10:
        parser.error("There is nothing to measure in less than 10 steps of training.")
    if "LMOPS_TEST_VOLUMES" not in os.environ:
        parser.error("Set LMOPS_TEST_VOLUMES to the folder that holds data/ and models/, or run `make bench`.")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # of the training
    quiet_libraries()
    volumes = Path(os.environ["LMOPS_TEST_VOLUMES"])
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        root = volumes if chosen.model else (chosen.models or Path(folder)) / "reviews"
        uri = chosen.model or training.trained("reviews", volumes, root, chosen.steps)
        os.environ |= {"LMOPS_VOLUMES": str(root), "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)
        said, results, notes = measured(uri, chosen)
    command = shlex.join(["python", "tests/bench/pruning.py", *sys.argv[1:]])
    where = f"`{command}` on {processors()}, torch {torch.__version__}, {said}:"
    table = page("other", results, [ABOUT, *notes], where)
    print(table)
    if chosen.record:
        record(training.PAGE, "pruning", table)


if __name__ == "__main__":
    main()
