"""Both models are measured on the same rows by the same figures that training reports, and say so in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressed import unread
from lmops.api import Compression
from lmops.api.compression import Step
from lmops_compressor import measure, runners
from lmops_compressor.comparison import Answers
from lmops_compressor.compress import compress
from lmops_compressor.machine import processor
from lmops_compressor.measure import measured
from lmops_compressor.methods import fp8
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer.failures import Refusal
from lmops_trainer.tasks import metrics
from measuring import PRUNED, TASKS, Models, halved, run, shaken
from trained import SILENT
from volumes import told


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


@pytest.mark.parametrize("task", TASKS)
def test_the_figures_of_the_original_are_those_that_its_training_job_reported(models: Models, task: str):
    uri, evaluation = models.of(task)

    report = models.measured(uri)

    assert report.split == evaluation.split
    assert report.original.metrics == pytest.approx(evaluation.metrics, abs=2e-6, rel=2e-6)
    # and a copy says all that the original says
    assert report.compressed.metrics == report.original.metrics | {"klDivergence": 0.0}
    assert (report.quality.value, report.agreement.value) == (0.0, 1.0)
    assert report.agreement.low is not None
    assert 0.7 < report.agreement.low < report.agreement.high == 1
    if task == "SequenceClassification":  # so many rows prove no more than this
        least = pytest.approx(0.025 ** (1 / report.rows), abs=1e-6)
        assert (report.agreement.low, 1 + report.quality.low, 1 - report.quality.high) == (least, least, least)


def test_everything_about_both_models_is_told(models: Models):
    uri, evaluation = models.of()
    accept = {"maxQualityDrop": 1, "minSizeRatio": 2, "maxMemoryRatio": 0.5}

    report = models.measured(uri, halved, evaluation={"batchSizes": [1, 4], "lengths": [8, 16]}, accept=accept)

    source = Source.open(run(uri))
    weights = list(source.model().parameters())
    assert report.rows == evaluation.rows
    assert report.original.size_bytes == (source.folder / "model.safetensors").stat().st_size
    assert report.original.parameters == report.compressed.parameters == sum(weight.numel() for weight in weights)
    assert report.original.non_zero_parameters == sum(int(weight.count_nonzero()) for weight in weights)
    assert report.compressed.non_zero_parameters < report.original.non_zero_parameters
    for model in (report.original, report.compressed):
        assert model.format == "safetensors"
        assert [(one.batch_size, one.length) for one in model.latency] == [(1, 8), (1, 16), (4, 8), (4, 16)]
        assert all(0 < one.p50_milliseconds <= one.p95_milliseconds for one in model.latency)
        assert model.latency[2].rows_per_second == pytest.approx(4e3 / model.latency[2].p50_milliseconds, rel=0.01)
        assert model.load_seconds is not None
        assert 0.1 < model.load_seconds < 300
        assert model.peak_memory_bytes is not None
        assert 100e6 < model.peak_memory_bytes < 3e9
        assert (model.joules_per_row is None) == any(note.startswith("Energy was not") for note in report.notes)
    halves = [model.latency[0].p50_milliseconds for model in (report.compressed, report.original)]
    assert report.latency_ratio == pytest.approx(halves[0] / halves[1], abs=1e-3)
    assert (report.threads, report.metric, report.confidence, report.method) == (1, "f1", 0.95, "Half")
    assert report.processor == processor()
    assert [check.kept for check in report.checks] == [True, False, False]
    assert report.verdict == "NotPassed"
    assert len(report.model_dump_json(by_alias=True)) < 3400


def test_a_worse_language_model_has_a_higher_perplexity_and_a_negative_quality(models: Models):
    uri, _ = models.of("CausalLM")
    job = run(uri, accept={"maxQualityDrop": 0.001})
    source = Source.open(job)
    small = models.copy(source, shaken(0.3))

    report = measure.measured(job, source, small, "Noise", lambda _: None).report

    before, after = (model.metrics["perplexity"] for model in (report.original, report.compressed))
    assert report.metric == "perplexity"
    assert report.quality.value == pytest.approx((before - after) / before, abs=1e-5)
    assert report.quality.low < report.quality.value < min(0, report.quality.high)
    assert report.agreement.low <= report.agreement.value <= report.agreement.high < 1
    assert report.verdict == "NotPassed"
    assert report.sentence.startswith("as large, ")
    assert "% worse (" in report.sentence
    assert report.change.startswith("perplexity ")
    assert report.change.endswith("% worse")
    assert report.compressed.metrics["klDivergence"] == pytest.approx(divergence(job, source, small.folder), rel=1e-3)


def test_the_limits_of_a_search_hold_for_its_model_on_the_rows_that_are_scored(models: Models):
    uri, _ = models.of()
    search = {"steps": [{"oneOf": [{"prune": {"method": "Magnitude"}}]}], "limits": {"minSizeRatio": 9}}

    report = models.measured(uri, halved, search=search)

    assert (report.verdict, [check.limit for check in report.checks]) == ("NotPassed", ["minSizeRatio"])


def test_a_text_of_few_windows_makes_nobody_sure(models: Models):
    uri, _ = models.of("CausalLM")
    accept, length = {"maxQualityDrop": 5, "confidence": 0.95}, Source.open(run(uri)).max_length
    for words, verdict in ((4 * length, "NotPassed"), (40 * length, "Passed")):
        models.volume.write("one.txt", "good " * words)  # one document
        own = {"from": {"uri": "pvc://data/one.txt", "format": "text"}}

        report = models.measured(uri, halved, evaluation=own, accept=accept)

        assert (report.rows, report.verdict) == (1, verdict)
        assert (report.quality.low is None) == (report.agreement.high is None) == (verdict == "NotPassed")


def divergence(job: measure.Compression, source: Source, folder: Path) -> float:
    """The mean over all targets, of whole distributions, as it is defined."""
    one = source.model()
    other, total, count = type(one).from_pretrained(folder).eval(), 0.0, 0
    with torch.no_grad():
        for _, batch in measure.scored(job, source).batches():
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            mine, theirs = (model(**given).logits.double().log_softmax(-1) for model in (one, other))
            where = batch["labels"] != -100
            total += float((mine.exp() * (mine - theirs)).sum(-1)[where].sum())
            count += int(where.sum())
    return total / count


def test_quality_is_by_the_metric_that_is_asked_for_then_by_that_of_the_models_own_job(models: Models):
    uri, _ = models.of(metric="accuracy")

    assert models.measured(uri).metric == "accuracy"
    assert models.measured(uri, evaluation={"metric": "f1:1"}).metric == "f1:1"


@pytest.mark.parametrize(
    "how", [{"steps": PRUNED}, {"search": {"steps": [{"oneOf": PRUNED}]}}], ids=["steps", "search"]
)
def test_a_metric_that_the_task_does_not_have_is_refused_before_anything_is_compressed(
    models: Models, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
):
    uri, _ = models.of()
    monkeypatch.setattr(Source, "model", None)

    for metric in ("perplexity", "f1:2"):
        with pytest.raises(Refusal) as refusal:
            compress(run(uri, evaluation={"metric": metric}, **how), SILENT)
        assert told(refusal)[:3] == (
            "Settings",
            "MetricUnknown",
            f"evaluation.metric: {metric} is no figure of a model for SequenceClassification; "
            "there are f1, accuracy, precision, recall, mcc, loss, f1:0, f1:1.",
        )


@pytest.mark.parametrize("task", TASKS)
def test_the_metrics_that_can_be_asked_for_are_the_figures_that_there_are(models: Models, task: str):
    uri, _ = models.of(task)
    names = Source.open(run(uri)).labels
    rows, even = np.arange(20), np.full((20, 2), 0.5)
    said = Answers(
        rows % 2, rows, np.zeros(20), np.ones(20, np.int64), np.zeros(20), *([rows % 2, even] if names else [])
    )

    assert set(metrics(task, names)) == set(said.figures(task, names))


@pytest.mark.parametrize(
    ("there", "quantize", "expected"),
    [
        (True, [None, "FP8"], "cuda"),
        (True, [None, "FP8", "Dynamic"], "cpu"),
        (False, [None, "FP8"], "cpu"),
    ],
)
def test_both_models_are_measured_on_a_gpu_if_there_is_one_and_both_can_run_there(
    monkeypatch: pytest.MonkeyPatch, there: bool, quantize: list[str | None], expected: str
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    steps = [{"quantize": {"method": name}} if name else {"prune": {"method": "Wanda"}} for name in quantize]

    assert measure.device_of(Step.model_validate(step) for step in steps) == expected


def test_figures_that_are_not_what_they_seem_are_told_so(models: Models, tmp_path: Path):
    uri, _ = models.of()
    notes = []
    for method in ("FP8", "WeightOnly"):
        job = run(uri, steps=[{"quantize": {"method": method, **({"groupSize": 16} if method != "FP8" else {})}}])
        source = Source.open(job)
        made = applied(job, source, job.spec.steps or [], unread, tmp_path / method, lambda _: None)
        notes.append(
            [note for note in measured(job, source, made, method, lambda _: None).report.notes if "FP8" in note]
        )

    assert notes == [[fp8.NOTE], []]


def test_a_length_beyond_the_window_is_refused_before_anything_is_compressed(
    models: Models, monkeypatch: pytest.MonkeyPatch
):
    uri, _ = models.of()
    monkeypatch.setattr(Source, "model", None)
    with pytest.raises(Refusal, match="64 tokens are more than the 16 that the model has room for"):
        compress(run(uri, evaluation={"lengths": [64]}), SILENT)

    phone = run(uri, evaluation={"lengths": [16]}, steps=[{"quantize": {"method": "Mobile"}}])
    source = replace(Source.open(phone), max_length=12)
    with pytest.raises(Refusal, match="16 tokens are more than the 12 that a program for phones is made for"):
        measure.settings(phone, source)


def test_a_length_that_was_not_asked_for_is_no_longer_than_the_model_is_given(models: Models):
    uri, _ = models.of()
    job = Compression.model_validate_json(run(uri, evaluation={"lengths": None}).document())  # as a pod is told it
    source = Source.open(job)

    report = measure.measured(job, source, models.copy(source), "Half", lambda _: None).report

    assert [latency.length for latency in report.original.latency] == [16]
    assert "Latency is at 16 tokens: the model is given no more." in report.notes


def test_a_model_that_answers_no_numbers_is_refused(models: Models):
    uri, _ = models.of()

    def lost(model: torch.nn.Module) -> None:
        next(iter(model.parameters()))[:] = np.nan

    with pytest.raises(Refusal, match="The compressed model answers with numbers that are not finite") as refusal:
        models.measured(uri, lost)

    assert (refusal.value.class_, refusal.value.reason) == ("Verdict", "NotFinite")


def test_a_runner_is_found_by_what_lies_in_the_folder(tmp_path: Path):
    for form, names in {"onnx": ["model.onnx", "model.onnx.data"], "executorch": ["model.pte"]}.items():
        folder = tmp_path / form
        folder.mkdir()
        for name in [*names, "tokenizer.json"]:
            (folder / name).write_bytes(b"1234")
        assert (runners.format_of(folder), runners.weights(folder)) == (form, 4 * len(names))
