"""Training on a GPU; without one these are skipped: `python -m pytest tests/trainer/test_gpu.py` on a machine with one.

What a GPU changes is checked with real processes: mixed precision, compilation, what is reported of the card, a stop
and a resume, and a card that is too small.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lmops.api import Ending, Run
from runs import Process, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: training on one was NOT tested")

GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
LINE = re.compile(r"\d\d:\d\d:\d\d train ")


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    folder = tmp_path / "volumes"
    folder.mkdir()
    return folder


def ended(run: Run, volumes: Path) -> tuple[Process, Ending]:
    process = Process(run, volumes, **GPU)
    return process, process.wait(400)


def points(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (process.job / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("task", "training"),
    [
        ("SequenceClassification", {"precision": "fp16"}),
        ("MaskedLM", {"precision": "bf16"}),
        ("BertPreTraining", {"precision": "fp16"}),
        ("CausalLM", {"precision": "fp16"}),
        ("CausalLM", {"precision": "bf16", "compile": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_it_trains_on_the_gpu_and_tells_of_it_and_of_nothing_else(
    volumes: Path, task: str, training: dict[str, Any]
) -> None:
    process, ending = ended(run(volumes, task, training={"epochs": 20, "learningRate": 3e-3, **training}), volumes)

    assert ending.result is not None, process.output()
    found = points(process)
    losses = [point["loss"] for point in found if "loss" in point]
    assert losses[-1] < losses[0]
    assert found[-2]["accelerator_memory_bytes"] > 2**20
    assert 0 <= found[-2]["accelerator_use"] <= 1
    assert [line for line in process.output().splitlines() if not LINE.match(line)] == []


@pytest.mark.parametrize("training", [{"precision": "fp16"}, {"precision": "bf16", "compile": True}], ids=str)
def test_a_stopped_run_goes_on_from_its_checkpoint_and_ends_where_it_would_have(
    volumes: Path, training: dict[str, Any]
) -> None:
    training = {"steps": 400, "learningRate": 1e-3, **training}
    whole, ending = ended(run(volumes, "CausalLM", "whole", training=training), volumes)
    assert ending.result is not None, whole.output()

    first = Process(run(volumes, "CausalLM", training=training), volumes, **GPU)
    first.until(lambda: first.step() >= 40)
    first.process.send_signal(signal.SIGTERM)
    stopped = first.wait()
    second, ending = ended(run(volumes, "CausalLM", attempt=1, training=training), volumes)

    assert stopped.stopped is not None
    assert 40 <= (stopped.stopped.step or 0) < 400, first.output()
    assert f"resumes at step {stopped.stopped.step} of attempt 0" in second.output()
    assert ending.result is not None, second.output()
    ends = [[point["loss"] for point in points(process) if "loss" in point][-1] for process in (whole, second)]
    assert ends[1] == pytest.approx(ends[0], rel=0.02)


TOO_SMALL = "import torch; torch.cuda.set_per_process_memory_fraction(64e6 / torch.cuda.mem_get_info()[1])"


def test_a_card_that_is_too_small_is_a_sentence_with_what_to_do(volumes: Path) -> None:
    config = {"n_embd": 512, "n_layer": 4, "n_head": 8, "n_positions": 64}
    model = {"from": {"architecture": {"name": "gpt2", "config": config}}, "tokenizer": {"uri": "pvc://work/unused"}}
    process = Process(run(volumes, "CausalLM", model=model), volumes, rank=True, before=TOO_SMALL, **GPU)

    failed = process.wait().failure

    assert failed is not None, process.output()
    assert (failed.class_, failed.reason) == ("OutOfMemory", "AcceleratorOutOfMemory")
    assert re.match(
        r"The accelerator ran out of memory: [\d.]+ [KMG]iB more were asked for, and this process may have ",
        failed.message,
    )
    assert "training.microBatchSize" in failed.remedy
    assert "Traceback" not in process.output()
