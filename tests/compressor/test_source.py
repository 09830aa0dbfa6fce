"""The model to compress and its rows: found as its own job left them, or as the user names them; else a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset as Table

from lmops.api.status import ModelReport
from lmops_compressor import passport, rows
from lmops_compressor.compress import compress
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer.failures import Refusal
from lmops_trainer.publish import PASSPORT, fingerprint
from lmops_trainer.uris import path
from measuring import Models, run
from trained import SILENT, reviews

MODEL = ModelReport(uri="pvc://data/small/1", digest="sha256:" + "1" * 64, size_bytes=1, parameters=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


@pytest.fixture
def copied(models: Models, tmp_path: Path) -> Iterator[str]:
    """A published classifier that a test may change."""
    uri, _ = models.of()
    target = path("pvc://data/copied")
    shutil.copytree(path(uri), target)
    yield "pvc://data/copied"
    shutil.rmtree(target)


def edited(uri: str, **changes: Any) -> None:
    """Changes a model's passport; `None` takes an entry away."""
    file = path(uri) / PASSPORT
    said = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))


def refused(uri: str, **spec: Any) -> tuple[str, str, str]:
    """Class, reason and message of what is said of a run before anything is compressed."""

    def looked_at() -> None:
        job = run(uri, **spec)
        source = Source.open(job)
        rows.calibration(job, source)
        rows.scored(job, source)

    with pytest.raises(Refusal) as error:
        looked_at()
    return error.value.class_, error.value.reason, error.value.message


def test_the_rows_are_those_of_the_job_that_made_the_model(models: Models):
    uri, evaluation = models.of()
    job = run(uri, calibration={"rows": 8})
    source = Source.open(job)

    test, drawn, train = rows.scored(job, source), rows.calibration(job, source), rows.training(job, source)

    assert (test.name, len(set(test.rows.tolist()))) == (evaluation.split, evaluation.rows)
    assert (drawn.name, len(drawn), source.labels) == ("train", 8, ["0", "1"])
    assert {e["row"] for e in drawn.examples} < {e["row"] for e in train.examples}
    assert [e["row"] for e in drawn.examples] != sorted(e["row"] for e in drawn.examples)
    assert rows.calibration(job, source).examples == drawn.examples


def test_of_all_training_rows_only_those_that_are_drawn_are_read(models: Models, monkeypatch: pytest.MonkeyPatch):
    job, read = run(models.of()[0], calibration={"rows": 8}), list[int]()

    def counted(table: Table) -> list[dict[str, Any]]:
        read.append(len(table))
        return to_list(table)

    to_list = Table.to_list
    monkeypatch.setattr(Table, "to_list", counted)
    rows.calibration(job, Source.open(job))
    rows.training(job, Source.open(job), 20)

    assert read == [8, 20]


@pytest.mark.parametrize(
    ("how", "asked", "notes"),
    [
        ({"steps": [{"prune": {"method": "Wanda"}}]}, 4096, 1),
        ({"steps": [{"prune": {"method": "Wanda"}}]}, 8, 0),
        ({"steps": [{"prune": {"method": "Magnitude"}}]}, 4096, 0),  # it looks at none of them
        ({"search": {"steps": [{"oneOf": [{"prune": {"method": "Magnitude"}}]}], "limits": {}}}, 4096, 1),
    ],
)
def test_calibration_rows_that_are_fewer_than_were_asked_for_are_told(
    models: Models, how: dict[str, Any], asked: int, notes: int, request: pytest.FixtureRequest
):
    uri, _ = models.of()
    made = run(uri, calibration={"rows": asked}, **how)
    job = made.model_copy(update={"run": made.run.model_copy(update={"uid": request.node.name})})
    there = len(rows.training(job, Source.open(job)))

    report = compress(job, SILENT).report

    assert report
    told = f"calibration.rows is {asked:,}, and train has {there} rows: all of them were used."
    assert [note for note in report.notes if "calibration" in note] == [told] * notes


def test_a_method_that_looks_at_no_rows_needs_none(copied: str, models: Models):
    (path(copied) / PASSPORT).unlink()  # as a model of the hub
    models.volume.write("scored.csv", reviews())
    own = {"from": {"uri": "pvc://data/scored.csv"}}

    result = compress(run(copied, evaluation=own), SILENT)

    assert result.report
    assert [change.step for change in result.report.changes] == ["Magnitude 50%"]
    with pytest.raises(Refusal, match="lie somewhere that it does not say"):
        compress(run(copied, evaluation=own, steps=[{"prune": {"method": "Wanda"}}]), SILENT)


def test_a_model_that_is_not_what_its_passport_says_is_not_compressed(copied: str):
    weights = path(copied) / "model.safetensors"
    spoilt = bytearray(weights.read_bytes())
    spoilt[-8:] = b"\xff\x7e" * 4
    weights.write_bytes(spoilt)

    assert refused(copied) == (
        "Model",
        "ModelDamaged",
        "pvc://data/copied is not what its passport says: model.safetensors differs or is missing.",
    )


def test_rows_that_cannot_be_scored_are_refused_before_anything_is_compressed(
    copied: str, monkeypatch: pytest.MonkeyPatch
):
    edited(copied, dataset=None)
    begun: list[object] = []
    monkeypatch.setattr("lmops_compressor.compress.applied", lambda *given: begun.append(given))

    with pytest.raises(Refusal, match="lie somewhere that it does not say"):
        compress(run(copied), SILENT)
    assert not begun


def test_nothing_is_published_into_the_folder_of_the_source(copied: str):
    assert refused(copied, output={"uri": f"{copied}/small"})[1] == "OutputInSource"


def test_rows_on_a_volume_that_is_not_mounted_are_told_so(copied: str):
    edited(copied, dataset={"uri": "pvc://elsewhere/data"})

    assert refused(copied)[2] == (
        "The rows that pvc://data/copied was trained and tested on lie in pvc://elsewhere/data, and this job does not "
        "mount the volume elsewhere."
    )


def test_another_job_that_makes_the_very_same_model_leaves_its_own_report_beside_it(copied: str):
    strict = run(copied, accept={"minSizeRatio": 9}, output={"uri": "pvc://data/shared"})
    loose = run(copied, accept={"minSizeRatio": 0.1}, output={"uri": "pvc://data/shared"})
    loose = loose.model_copy(update={"run": loose.run.model_copy(update={"job": "loose", "uid": "q-2"})})

    first, second = compress(strict, SILENT), compress(loose, SILENT)

    assert first.model
    assert first.report
    assert second.report
    assert second.model == first.model
    home = path(first.model.uri)
    assert json.loads((home / PASSPORT).read_text())["quantizeJob"]["name"] == "smaller"
    verdicts = [json.loads((home / f"report{name}.json").read_text())["verdict"] for name in ("", "-loose")]
    assert verdicts == [first.report.verdict, second.report.verdict] == ["NotPassed", "Passed"]
    said = (
        "The very same model was published before, by smaller: its passport and report are that job's, and the report "
        "of this one is report-loose.html."
    )
    assert said in second.report.notes
    assert "published before, by smaller" in (home / "report-loose.html").read_text()
    assert said not in first.report.notes
    assert ": not passed: " in (home / "README.md").read_text()
    assert not list(home.glob("README-*"))


def test_what_a_tokenizer_and_a_model_of_their_own_are_made_of_comes_along(copied: str, tmp_path: Path):
    edited(copied, digest=None)  # of somebody else's making: nothing says what it should hold
    own = ("modeling_own.py", "spiece.model", "words.spm", "encoder.json", "additional_chat_templates/tool.jinja")
    for name in own:
        (path(copied) / name).parent.mkdir(exist_ok=True)
        (path(copied) / name).write_text("{}")
    job = run(copied)

    made = applied(
        job,
        Source.open(job),
        job.spec.steps or [],
        lambda: rows.scored(job, Source.open(job)),
        tmp_path / "made",
        lambda _: None,
    )

    assert [name for name in own if not (made.folder / name).is_file()] == []
    assert {*own} <= fingerprint(made.folder).files.keys()


def test_of_rows_that_are_sorted_by_class_each_class_has_its_share_of_those_that_are_scored(models: Models):
    _, *lines = reviews(60).splitlines()
    models.volume.write("sorted.csv", "\n".join(["text,label", *sorted(lines, key=lambda line: line[-1])]))
    job = run(models.of()[0], evaluation={"from": {"uri": "pvc://data/sorted.csv"}, "rows": 8})

    found = rows.scored(job, Source.open(job))

    assert sorted(example["label"] for example in found.examples) == [0] * 4 + [1] * 4
    assert found.rows.tolist() != list(range(4)) + list(range(30, 34))
    assert found.note == "Of 60 evaluation.from rows 8 were scored, drawn by the seed 42."
    assert rows.scored(job, Source.open(job)).examples == found.examples


def test_the_report_says_that_what_was_scored_is_a_draw(models: Models):
    report = models.measured(models.of()[0], evaluation={"rows": 8})

    assert report.rows == 8
    assert "Of 12 test rows 8 were scored, drawn by the seed 42." in report.notes


def test_a_model_whose_weights_are_fp8_is_refused_though_its_files_are_safetensors(copied: str):
    file = path(copied) / "config.json"
    stored = {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | stored))

    assert refused(copied) == (
        "Model",
        "AlreadyQuantized",
        "pvc://data/copied is a model in the format compressed-tensors: what is quantized is not compressed further.",
    )


@pytest.mark.parametrize("sizes", [[1], [60], [7, 1], [50, 30, 20], [1, 1, 98]])
def test_a_sample_has_of_each_class_its_share_to_within_a_row(sizes: list[int]):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    for count in range(1, len(classes)):
        drawn = rows.sample(classes, count, 3)

        assert len(set(drawn.tolist())) == count
        found = np.bincount(classes[drawn], minlength=len(sizes))
        assert np.abs(found - count * np.asarray(sizes) / len(classes)).max() < 1


def test_rows_of_their_own_become_what_training_made_of_such_rows(models: Models):
    uri, _ = models.of()
    models.volume.write("same.csv", reviews())
    job = run(uri, evaluation={"from": {"uri": "pvc://data/same.csv"}})
    source = Source.open(job)

    own = {tuple(e["input_ids"]): e["label"] for e in rows.scored(job, source).examples}

    trained = rows.training(job, source).examples
    assert len(trained) > 30
    assert {tuple(e["input_ids"]): e["label"] for e in trained}.items() <= own.items()


def test_they_are_cleaned_as_its_job_cleaned_them(copied: str, models: Models):
    spec = json.loads((path(copied) / PASSPORT).read_text())["spec"]
    spec["dataset"]["clean"] = {"markup": "Strip"}
    edited(copied, spec=spec)
    models.volume.write("marked.csv", "text,label\n<b>the film</b> was good,1\nthe film was good,1")
    job = run(copied, evaluation={"from": {"uri": "pvc://data/marked.csv"}})

    marked, plain = (e["input_ids"] for e in rows.scored(job, Source.open(job)).examples)

    assert marked == plain


def test_a_folder_that_holds_no_model_is_told_so(models: Models):
    models.of()
    path("pvc://data/nothing").mkdir()

    assert refused("pvc://data/nothing")[1:] == (
        "NotAModel",
        "pvc://data/nothing is no model: there is no config.json in it; nothing is there.",
    )


@pytest.mark.parametrize(
    ("changes", "class_", "reason", "message"),
    [
        (
            {"format": "onnx"},
            "Model",
            "AlreadyQuantized",
            "pvc://data/copied is a model in the format onnx: what is quantized is not compressed further.",
        ),
        (
            {"task": "BertPreTraining"},
            "Model",
            "TaskNotCompressed",
            "pvc://data/copied is made for BertPreTraining; what is compressed is one of SequenceClassification, "
            "CausalLM, MaskedLM.",
        ),
        (
            {"dataset": None},
            "Data",
            "RowsMissing",
            "The rows that pvc://data/copied was trained and tested on lie somewhere that it does not say.",
        ),
        (
            {"dataset": {"uri": "pvc://data/gone"}},
            "Data",
            "RowsMissing",
            "The rows that pvc://data/copied was trained and tested on lay in pvc://data/gone, and are not there.",
        ),
    ],
)
def test_what_cannot_be_compressed_is_told_so(
    copied: str, changes: dict[str, Any], class_: str, reason: str, message: str
):
    edited(copied, **changes)

    assert refused(copied) == (class_, reason, message)


def test_a_class_that_the_model_does_not_know_is_named_with_its_line(models: Models):
    uri, _ = models.of()
    models.volume.write("other.csv", "text,label\nit was good,1\nit was fine,2")

    class_, reason, message = refused(uri, evaluation={"from": {"uri": "pvc://data/other.csv"}})

    assert (class_, reason) == ("Data", "ClassUnknown")
    assert message.endswith("(evaluation.from) has the class '2'; the model knows 0, 1.")
    assert "line 3" in message


def test_the_passport_says_what_the_model_is_and_where_it_comes_from(models: Models):
    uri, _ = models.of()
    report = models.measured(uri)
    job = run(uri)
    source, found = Source.open(job), fingerprint(path(uri))

    made = passport.passport(job, source, MODEL, found.files, report)

    before = json.loads((path(uri) / PASSPORT).read_text())
    assert made["origin"] == {"uri": uri, "digest": before["digest"], "origin": before["origin"]}
    assert (made["task"], made["labels"], made["maxLength"]) == ("SequenceClassification", ["0", "1"], 16)
    assert (made["dataset"], made["spec"], made["format"]) == (before["dataset"], before["spec"], "safetensors")
    assert made["quantizeJob"] == {"name": "smaller", "uid": "q-1"}
    assert made["compression"]["verdict"] == "Passed"
