"""Publication: a folder named by the digest of its model, which appears whole or not at all, and is never changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from lmops_trainer.endings import job_folder
from lmops_trainer.evaluate import evaluate
from lmops_trainer.failures import Refusal
from lmops_trainer.publish import fingerprint, publish
from trained import SILENT, documents, folder, trained
from volumes import Volume


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(tmp_path, monkeypatch)


def weights(place: Path, content: bytes = b"weights") -> Path:
    """A folder that looks like a model."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.safetensors").write_bytes(content)
    (place / "config.json").write_text("{}")
    (place / "tokenizer.json").write_text("{}")
    return place


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_digest_is_that_of_sorted_sha256sum_lines(tmp_path: Path):
    model = fingerprint(weights(tmp_path / "model"))

    sha = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sha.items())
    assert model.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert (model.short, model.size) == (model.digest[7:19], 11)


def test_the_digest_leaves_out_passport_report_card_and_logs(tmp_path: Path):
    model = weights(tmp_path / "model")
    before = fingerprint(model).digest

    for name in (
        "lmops.json",
        "README.md",
        "report.html",
        "train.log",
        "metrics.jsonl",
        "predictions.parquet",
        "best.json",
    ):
        (model / name).write_text("something else")

    assert fingerprint(model).digest == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "modeling_own.py"])
def test_the_digest_changes_with_weights_configuration_and_tokenizer(tmp_path: Path, name: str):
    model = weights(tmp_path / "model")
    before = fingerprint(model).digest

    (model / name).write_text("another")

    assert fingerprint(model).digest != before


def test_a_model_appears_whole_with_its_passport(tmp_path: Path):
    model = fingerprint(weights(tmp_path / "model"))
    log = tmp_path / "train.log"
    log.write_text("a line")

    home = publish(model, tmp_path / "models", "u-1", {"task": "x"}, {"README.md": "# card", "train.log": log})

    assert home == tmp_path / "models" / model.short
    assert names(home) == ["README.md", "config.json", "lmops.json", "model.safetensors", "tokenizer.json", "train.log"]
    assert names(tmp_path / "models") == [model.short]
    assert json.loads((home / "lmops.json").read_text()) == {"task": "x"}
    assert fingerprint(home).digest == model.digest


def test_the_weights_reach_the_disk_before_the_passport_says_that_the_model_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, output = fingerprint(weights(tmp_path / "model")), tmp_path / "models"
    flushed: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((place.name, any(output.rglob("lmops.json"))))

    monkeypatch.setattr(os, "fsync", fsync)
    publish(model, output, "u-1", {}, {"README.md": "# card"})

    staged = f".{model.short}.u-1"
    before = {name for name, has_passport in flushed if not has_passport}
    assert before == {"README.md", "config.json", "model.safetensors", "tokenizer.json", staged}
    assert [name for name, has_passport in flushed if has_passport] == ["lmops.json", staged, "models"]


def test_a_published_model_is_left_as_it_is(tmp_path: Path):
    model = fingerprint(weights(tmp_path / "model"))
    home = publish(model, tmp_path / "models", "u-1", {"job": "first"}, {"README.md": "first"})

    publish(model, tmp_path / "models", "u-2", {"job": "second"}, {"README.md": "second"})

    assert json.loads((home / "lmops.json").read_text()) == {"job": "first"}
    assert (home / "README.md").read_text() == "first"


def test_a_publication_cut_short_leaves_nothing_that_looks_like_a_model(tmp_path: Path):
    model = fingerprint(weights(tmp_path / "model"))

    with pytest.raises(FileNotFoundError):
        publish(model, tmp_path / "models", "u-1", {}, {"train.log": tmp_path / "gone"})

    assert names(tmp_path / "models") == []


def test_what_a_killed_publication_left_behind_is_replaced(tmp_path: Path):
    model = fingerprint(weights(tmp_path / "model"))
    weights(tmp_path / "models" / f".{model.short}.u-1", b"half")
    weights(tmp_path / "models" / model.short, b"half")

    home = publish(model, tmp_path / "models", "u-1", {}, {})

    assert names(tmp_path / "models") == [model.short]
    assert (home / "model.safetensors").read_bytes() == b"weights"


def test_a_folder_without_safetensors_is_not_published(tmp_path: Path):
    (weights(tmp_path / "model") / "model.safetensors").unlink()

    with pytest.raises(Refusal, match="holds no weights to publish"):
        fingerprint(tmp_path / "model")


def test_the_published_folder_holds_all_that_belongs_to_a_model_and_loads_by_the_standard_classes(volume: Volume):
    run = trained(volume)
    (job_folder(run) / "train.log").write_text("a line")

    home = folder(evaluate(run, SILENT))

    assert names(home) == [
        "README.md", "baseline.json", "config.json", "lmops.json", "metrics.jsonl", "model.safetensors",
        "predictions.parquet", "report.html", "tokenizer.json", "tokenizer_config.json", "train.log",
    ]  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(home)
    assert model.config.id2label == {0: "0", 1: "1"}
    assert AutoTokenizer.from_pretrained(home)("the film")["input_ids"][0] == 2


@pytest.mark.parametrize(
    ("task", "architecture", "loader"),
    [("CausalLM", "gpt2", AutoModelForCausalLM), ("BertPreTraining", "bert", AutoModelForPreTraining)],
)
def test_language_models_load_by_the_class_of_their_task(volume: Volume, task: str, architecture: str, loader: type):
    volume.write("rows.txt", documents(24))
    held_out = {"validation": {"holdOut": {"fraction": 0.3}}}

    home = folder(
        evaluate(trained(volume, task, {"uri": "pvc://data/rows.txt"}, architecture, dataset=held_out), SILENT)
    )

    loader.from_pretrained(home)  # type: ignore[attr-defined]


def test_the_passport_says_what_the_model_came_from_and_what_it_is_worth(volume: Volume):
    run = trained(volume)

    result = evaluate(run, SILENT)

    passport = json.loads((folder(result) / "lmops.json").read_text())
    assert result.model is not None
    assert result.evaluation is not None
    assert result.model.manifest().items() <= passport.items()
    assert passport["evaluation"] == result.evaluation.manifest()
    assert passport["trainingJob"] == {"name": "reviews", "uid": "u-1"}
    assert passport["checkpoint"] == {"step": 20, "metric": "f1", "value": 0.5}
    assert passport["origin"]["architecture"]["name"] == "bert"
    assert passport["dataset"]["hash"] == run.resolved.dataset.hash  # type: ignore[union-attr]
    assert passport["spec"] == run.spec.manifest()
    assert passport["labels"] == ["0", "1"]
    assert set(passport["files"]) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {"python", "torch", "transformers"} <= set(passport["versions"])
    assert len(passport["sample"]) == 12
    assert set(passport["sample"][0]) == {"text", "label"}


def test_a_model_made_from_one_of_ours_carries_its_digest_on(volume: Volume):
    first = evaluate(trained(volume), SILENT).model
    assert first is not None
    run = trained(volume)
    origin = run.spec.model.from_.model_copy(update={"architecture": None, "uri": first.uri})
    spec = run.spec.model_copy(update={"model": run.spec.model.model_copy(update={"from_": origin})})
    home = volume.root / "models" / first.digest[7:19]
    kept = shutil.copytree(home, volume.root / "models" / "base")
    (job_folder(run) / "best" / "config.json").write_text(
        (kept / "config.json").read_text().replace("{", '{"x": 1,', 1)
    )

    second = evaluate(run.model_copy(update={"spec": spec}), SILENT)

    passport = json.loads((folder(second) / "lmops.json").read_text())
    assert passport["origin"]["uri"] == first.uri
    assert passport["origin"]["digest"] == first.digest


def test_a_second_try_of_the_stage_publishes_the_same_and_changes_nothing(volume: Volume):
    run = trained(volume)
    first = evaluate(run, SILENT)
    before = {path.name: path.stat().st_mtime_ns for path in folder(first).iterdir()}

    second = evaluate(run, SILENT)

    assert second == first
    assert {path.name: path.stat().st_mtime_ns for path in folder(first).iterdir()} == before
