"""Measures how much memory compression takes, as a multiple of the model: `room.py [--methods NAMES] [--record]`

LMOPS_TEST_VOLUMES=folder PYTHONPATH=tests python tests/bench/room.py

The model is a BERT of the base shape with random weights, for which nothing is learnt or scored.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import compression
import torch
from table import grid, processors, record
from transformers import BertConfig, BertForSequenceClassification

import subjects
import training
from lmops.api.compression import Step
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from volumes import raw

MOST = 2.5
"""Times the model's size in fp32."""
MEGABYTE = 1e6
METHODS = {
    "Dynamic": {"quantize": {"method": "Dynamic"}},
    "Static": {"quantize": {"method": "Static"}},
    "WeightOnly": {"quantize": {"method": "WeightOnly"}},
    "FP8": {"quantize": {"method": "FP8"}},
    "Magnitude": {"prune": {"method": "Magnitude"}},
    "Wanda": {"prune": {"method": "Wanda"}},
    "SparseGPT": {"prune": {"method": "SparseGPT"}},
    "Neurons": {"prune": {"method": "Neurons", "sparsity": 0.25}},
}
ABOUT = (
    "Each in a process of its own, with 1 thread and 48 sentences to calibrate with. More: the peak of its resident "
    "memory until the model is written, less what it holds once all is imported."
)


class Taken(NamedTuple):
    """What a method took."""

    imported: float
    """MB before it began."""
    peak: float
    """MB at the most."""
    seconds: float


def taken(source: Source, name: str, target: Path) -> Taken:
    """Compresses in this process, which has done nothing before."""
    _, calibration = subjects.minilm(target.parent)
    step = Step.model_validate(METHODS[name])
    run = compression.document(compression.CASES["MiniLM (reviews)"], source.uri, 5, None)
    imported, began = _memory("VmRSS"), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    applied(run, source, [step], lambda: calibration, target, lambda _: None)
    return Taken(imported, _memory("VmHWM"), time.monotonic() - began)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024 / MEGABYTE


def base(folder: Path) -> Source:
    """A BERT of 110 million random weights."""
    model = BertForSequenceClassification(BertConfig(num_labels=2))
    model.save_pretrained(folder)
    for file in raw("minilm/tokenizer.json").parent.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "vocab.txt").write_bytes(raw("minilm/vocab.txt").read_bytes())
    return Source("pvc://models/base", folder, "SequenceClassification", ["0", "1"], 512, {})


def main() -> None:
    """Measures, prints, records."""
    parser = argparse.ArgumentParser(description="The memory that compression takes.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--record", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = []
    with tempfile.TemporaryDirectory(prefix="lmops-bench-") as folder:
        source = base(Path(folder) / "base")
        size = sum(file.stat().st_size for file in source.folder.glob("*.safetensors")) / MEGABYTE
        for name in chosen.methods:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                found = process.submit(taken, source, name, Path(folder) / name).result()
            times = (found.peak - found.imported) / size
            print(f"{name}: {times:.2f} x, {found.seconds:.0f} s", file=sys.stderr)
            cells = [f"{found.imported:.0f}", f"{found.peak:.0f}", f"{times:.2f} x", f"{found.seconds:.0f}"]
            lines.append([name, *cells, "ok" if times <= MOST else "missed"])
    command = shlex.join(["python", "tests/bench/room.py", *sys.argv[1:]])
    head = ["", "MB once imported", "MB at the most", "more, in models", "s", f"goal ≤ {MOST} x"]
    about = f"`{command}` on {processors()}, torch {torch.__version__}; a BERT of {size:.0f} MB in fp32:"
    table = "\n\n".join([about, grid([head, *lines]), ABOUT])
    print(table)
    if chosen.record:
        record(training.PAGE, "room", table)


if __name__ == "__main__":
    main()
