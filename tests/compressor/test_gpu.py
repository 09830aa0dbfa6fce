"""Compression on a GPU; without one these are skipped: `python -m pytest tests/compressor/test_gpu.py` on one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import subjects
from lmops.api.compression import Quantize
from lmops_compressor import methods
from lmops_compressor.methods import Subject, fp8
from lmops_compressor.methods.masks import matrix
from lmops_compressor.rows import calibration
from lmops_compressor.runners.torch import TorchRunner
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer import models
from measuring import Models, halved, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: compression on one was NOT tested")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A small classifier that has learnt its task."""
    return subjects.saved(tmp_path_factory.mktemp("bert"), "SequenceClassification")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Published models."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "Magnitude"},
        {"method": "Wanda", "pattern": "2:4"},
        {"method": "SparseGPT"},
        {"method": "SparseGPT", "pattern": "2:4"},
        {"method": "Neurons", "sparsity": 0.5, "heads": 0.5},
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
def test_pruning_on_a_gpu_makes_the_model_that_the_processor_makes(source: Source, settings: dict[str, Any]):
    how, made = subjects.how(**settings), []
    rows = subjects.rows(source.folder.parents[1], source)
    for device in ("cpu", "cuda"):
        subject = Subject(source, source.model())
        subject.model.to(device)
        methods.pruner(how.method).prune(subject, how, lambda: rows, lambda share: None)
        assert {weight.device.type for weight in subject.model.parameters()} == {device}
        made.append(subject.model.cpu())

    here, there = ([matrix(layer) for layer in methods.layers(model, []).values()] for model in made)
    same = [
        (one.shape == other.shape) and float(((one == 0) == (other == 0)).float().mean())
        for one, other in zip(here, there, strict=True)
    ]
    assert min(same) > 0.99
    assert subjects.answers(made[1], rows) == pytest.approx(subjects.answers(made[0], rows), abs=0.05)


def test_an_fp8_folder_answers_on_a_gpu_as_on_the_processor(source: Source, tmp_path: Path):
    rows = subjects.rows(source.folder.parents[1], source)
    source.tokenizer().save_pretrained(tmp_path)
    how = Quantize.model_validate({"method": "FP8"})
    change = fp8.quantize(Subject(source, source.model()), how, lambda: rows, tmp_path, lambda share: None)
    _, batch = next(rows.batches())
    given = {name: values.numpy() for name, values in batch.items() if name != "labels"}

    answers = [
        TorchRunner(folder, source.task, 1, device=device).logits(given)
        for folder, device in ((source.folder, "cuda"), (tmp_path, "cpu"), (tmp_path, "cuda"))
    ]

    assert change.layers == 12
    assert answers[2] == pytest.approx(answers[1], abs=0.05)
    assert (answers[2].argmax(-1) == answers[0].argmax(-1)).mean() > 0.9


def test_pruning_with_recovery_then_fp8_is_done_where_each_belongs(published: Models, tmp_path: Path):
    uri, _ = published.of()
    steps = [
        {"prune": {"method": "SparseGPT", "pattern": "2:4", "recovery": {"steps": 20}}},
        {"quantize": {"method": "FP8"}},
    ]
    job = run(uri, steps=steps)
    source = Source.open(job)

    draw = partial(calibration, job, source)
    made = applied(job, source, job.spec.steps or [], draw, tmp_path / "made", lambda share: None)

    assert fp8.stored(made.folder) == made.changes[1].layers
    assert torch.cuda.memory_allocated() < 256e6  # what cuBLAS keeps for itself
    models.load(made.folder, source.task)


def test_two_models_are_measured_on_the_gpu_with_its_memory_and_its_energy(published: Models):
    uri, _ = published.of()

    report = published.measured(uri, halved)

    name = torch.cuda.get_device_name()
    assert f"Both models ran on one {name}, and memory is its memory." in report.notes
    for model in (report.original, report.compressed):
        assert 0 < (model.joules_per_row or 0) < 100
        assert 2**10 < (model.peak_memory_bytes or 0) < 200e6
