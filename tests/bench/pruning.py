"""Measures what pruning costs and brings: magnitude, Wanda and SparseGPT beside torch's own, and a quarter of neurons.

LMOPS_TEST_VOLUMES=folder python tests/bench/pruning.py [--model pvc://models/reviews/...] [--calibration 128]

The model is a classifier that `make demo` or the example `reviews` has trained; its test rows, or else its validation
rows, are scored. The table goes to standard output and into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from table import Figure, page, processors, record
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune as plain

from lmops.api import Compression
from lmops.api.compression import Prune
from lmops_compressor import methods, rows
from lmops_compressor.methods import Subject, recovery
from lmops_compressor.source import Source
from lmops_trainer.inference import passes
from lmops_trainer.log import quiet_libraries

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
ORDER = ("Magnitude", "Wanda", "SparseGPT")
SETTINGS: dict[str, dict[str, Any]] = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}
DRAWS, LENGTH, CALLS = 10_000, 128, 60
Array = np.ndarray[Any, Any]

ABOUT = (
    "KL is the mean divergence, in millinats, of a pruned model's classes from those of the dense one, over the rows "
    "that are scored; the comparison is the difference to the other side, with its paired bootstrap interval (95 %, "
    "10,000 draws of rows). torch's own is `torch.nn.utils.prune.l1_unstructured` of each layer for 50 %, and "
    "`torch.ao.pruning.WeightNormSparsifier` for 2:4. Latency is the median of calls of both models in turn: one row "
    f"of {LENGTH} tokens, torch, 1 thread."
)


class Bench:
    """A trained classifier, and its rows."""

    def __init__(self, uri: str, calibration: int) -> None:
        spec = {
            "model": {"from": {"uri": uri}}, "steps": [{"prune": {"method": "Magnitude"}}],
            "calibration": {"rows": calibration}, "output": {"uri": "pvc://none"},
        }  # fmt: skip
        run = {"job": "bench", "uid": "bench", "stage": "compress"}
        document = Compression.model_validate({"spec": spec, "run": run, "source": {"uri": uri}})
        self.source = Source.open(document)
        self.calibration, self.training = rows.calibration(document, self.source), rows.training(document, self.source)
        self.scored = rows.scored(document, self.source)
        self.labels = np.asarray([example["label"] for example in self.scored.examples])
        self.dense = self.logits(self.source.model())

    def pruned(self, method: str, **settings: Any) -> Subject:
        """The model, pruned by one of ours, and trained again where that is asked for."""
        subject = Subject(self.source, self.source.model())
        how = Prune.model_validate({"method": method, **settings})
        began = time.monotonic()
        change = methods.pruner(method).prune(subject, how, lambda: self.calibration, lambda share: None)
        if how.recovery:
            recovery.recover(subject, how.recovery, self.training, 42, lambda share: None)
        print(f"{change.step}: {change.detail}, {time.monotonic() - began:.1f} s", file=sys.stderr)
        return subject

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


def sparse(bench: Bench, setting: str) -> Iterator[Figure]:
    """Each method beside the one that it should be better than, and the first beside torch's own."""
    before = bench.divergence(bench.plain(setting))
    name = "torch's own"
    for method in ORDER:
        found = bench.divergence(bench.pruned(method, **SETTINGS[setting]))
        middle, low, high = interval(found - before)
        goal, met = (f"< {name}", high < 0) if method != ORDER[0] else (f"= {name}", abs(middle) < 0.1)
        compared = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
        yield Figure(f"KL, {method} to {name}", found.mean(), before.mean(), compared, goal, bool(met))
        before, name = found, method


def neurons(bench: Bench, learnt: dict[str, Any]) -> Iterator[Figure]:
    """A quarter of the neurons gone: before and after a recovery, and how much faster."""
    dense = bench.right(bench.dense)
    bare = bench.pruned("Neurons", sparsity=0.25)
    yield accuracy("accuracy in %", bench.right(bench.logits(bare.model)), dense)
    subject = bench.pruned("Neurons", sparsity=0.25, recovery=learnt)
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


def newest(volumes: Path) -> str:
    """The model that was trained last."""
    passports = sorted(volumes.glob("models/reviews/*/lmops.json"), key=lambda file: file.stat().st_mtime)
    if not passports:
        sys.exit(f"There is no trained model in {volumes}/models/reviews: run `make demo`, or name one with --model.")
    return f"pvc://{passports[-1].parent.relative_to(volumes)}"


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="What pruning costs and brings.")
    parser.add_argument("--model", help="a trained classifier (default: the last one of the example reviews)")
    parser.add_argument("--calibration", type=int, default=128, help="rows that the methods look at")
    parser.add_argument("--steps", type=int, default=100, help="steps of the recovery")
    chosen = parser.parse_args()
    if "LMOPS_TEST_VOLUMES" not in os.environ:
        parser.error("Set LMOPS_TEST_VOLUMES to the folder that holds data/ and models/, or run `make bench`.")
    os.environ["LMOPS_VOLUMES"] = os.environ["LMOPS_TEST_VOLUMES"]
    quiet_libraries()
    torch.set_num_threads(1)
    bench = Bench(chosen.model or newest(Path(os.environ["LMOPS_VOLUMES"])), chosen.calibration)
    results = {f"{setting} of the weights": list(sparse(bench, setting)) for setting in SETTINGS}
    results["25 % of the neurons"] = list(neurons(bench, {"steps": chosen.steps}))
    count = f"{len(bench.scored):,} {bench.scored.name} rows, {len(bench.calibration)} calibration rows"
    command = shlex.join(["python", "tests/bench/pruning.py", *sys.argv[1:]])
    table = page("other", results, [ABOUT], f"`{command}` on {processors()}, torch {torch.__version__}; {count}:")
    print(table)
    record(PAGE, "pruning", table)


if __name__ == "__main__":
    main()
