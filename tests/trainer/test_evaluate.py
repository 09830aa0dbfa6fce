"""The stage evaluate: figures on rows the model has not seen, beside a linear model, and one honest sentence."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lmops.api import Run
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.drift import Baseline
from lmops_trainer.endings import job_folder
from lmops_trainer.evaluate import evaluate, verdict, worst
from lmops_trainer.failures import Refusal
from lmops_trainer.models import load
from lmops_trainer.scoring import Scored, classified, foretold
from lmops_trainer.tasks import TASKS
from lmops_trainer.train import train
from lmops_trainer.uris import path
from trained import SILENT, documents, folder, reviews, trained
from volumes import Volume


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(tmp_path, monkeypatch)


class Heard:
    """A progress endpoint that remembers."""

    def __init__(self) -> None:
        self.percents: list[float] = []
        self.metrics: dict[str, float] = {}

    def post(self, percent: float, remaining: float | None = None, **metrics: float | int) -> None:
        self.percents.append(percent)
        self.metrics |= metrics


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Training takes the termination signals for itself."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def scored(run: Run, split: str = "validation", seed: int = 42) -> Scored:
    """What the weights of the run make of a split."""
    assert run.resolved.dataset is not None
    prepared = Prepared.open(path(run.resolved.dataset.uri))
    task = run.spec.model.task
    model, tokenizer = load(job_folder(run) / "best", task), prepared.tokenizer()
    collator = TASKS[task].collator(tokenizer, seed, evaluating=True)
    examples = prepared.examples(split)
    if task == "SequenceClassification":
        return classified(model, tokenizer, examples, prepared.rows(split), prepared.labels, collator, lambda _: None)
    return foretold(model, tokenizer, examples, collator, lambda _: None, masked=task != "CausalLM")


def test_a_model_that_does_not_beat_its_linear_baseline_is_said_not_to(volume: Volume):
    evaluation = evaluate(trained(volume), SILENT).evaluation

    assert evaluation is not None
    assert (evaluation.split, evaluation.rows, evaluation.beats_baseline) == ("test", 12, False)
    assert evaluation.baseline["f1"] == 1
    assert (
        evaluation.verdict
        == f"f1 {evaluation.metrics['f1']:.3f} on 12 test rows does not beat the linear baseline's 1.000"
    )
    assert list(evaluation.metrics) == ["loss", "accuracy", "precision", "recall", "f1", "mcc"]
    assert {name: report.rows for name, report in evaluation.classes.items()} == {"0": 6, "1": 6}
    assert np.sum(evaluation.confusion, axis=1).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (("f1", 0.84, 0.781, 1060, "test"), "f1 0.840 on 1,060 test rows beats the linear baseline's 0.781"),
        (("f1", 0.80, 0.865, 1736, "test"), "f1 0.800 on 1,736 test rows does not beat the linear baseline's 0.865"),
        (("loss", 0.3, 0.4, 9, "test"), "loss 0.300 on 9 test rows beats the linear baseline's 0.400"),
        (("f1", 0.5, 0.5, 9, "test"), "f1 0.500 on 9 test rows does not beat the linear baseline's 0.500"),
        (("f1", 0.80004, 0.80001, 9, "test"), "f1 0.80004 on 9 test rows beats the linear baseline's 0.80001"),
        (
            ("f1", 0.84, 0.781, 9, "validation"),
            "f1 0.840 on 9 validation rows, which also chose the checkpoint, beats the linear baseline's 0.781",
        ),
        (("loss", 3.25, None, 50, "test"), "loss 3.250 on 50 test rows"),
        (("loss", 3.25, None, 50, "validation"), "loss 3.250 on 50 validation rows, which also chose the checkpoint"),
    ],
)
def test_the_verdict_is_one_sentence(figures: tuple[str, float, float | None, int, str], sentence: str):
    assert verdict(*figures) == sentence


def test_without_a_test_set_the_validation_rows_are_scored_and_the_verdict_says_so(volume: Volume):
    evaluation = evaluate(trained(volume, dataset={}), SILENT).evaluation

    assert evaluation is not None
    assert evaluation.split == "validation"
    assert "6 validation rows, which also chose the checkpoint," in str(evaluation.verdict)


def test_the_metric_of_one_class_can_lead(volume: Volume):
    evaluation = evaluate(trained(volume, evaluation={"metric": "f1:1"}), SILENT).evaluation

    assert evaluation is not None
    assert evaluation.metrics["f1:1"] == pytest.approx(evaluation.classes["1"].f1, abs=1e-6)
    assert str(evaluation.verdict).startswith("f1:1 ")


def test_predictions_hold_each_row_with_its_label_and_the_probability_of_each_class(volume: Volume):
    table = pq.read_table(folder(evaluate(trained(volume), SILENT)) / "predictions.parquet")

    assert table.column_names == ["row", "text", "label", "prediction", "confidence", "probability:0", "probability:1"]
    first = table.slice(0, 1).to_pylist()[0]
    assert first["text"] == reviews().splitlines()[first["row"] + 1].split('"')[1]
    assert first["confidence"] == pytest.approx(max(first["probability:0"], first["probability:1"]))
    assert first["probability:0"] + first["probability:1"] == pytest.approx(1)


def test_pairs_are_written_as_pairs(volume: Volume):
    lines = [f"the film {n},it was {'good' if n % 2 else 'bad'},{n % 2}" for n in range(40)]
    volume.write("pairs.csv", "\n".join(["a,b,label", *lines]))
    train = {"uri": "pvc://data/pairs.csv", "columns": {"text": "a", "pair": "b"}}

    table = pq.read_table(folder(evaluate(trained(volume, train=train), SILENT)) / "predictions.parquet")

    assert table.column_names[:4] == ["row", "text", "pair", "label"]


def test_the_windows_of_one_row_are_averaged_to_one_prediction(volume: Volume):
    long = " ".join(["the film was good and bad"] * 6)
    volume.write("rows.csv", reviews() + f'\n"{long}",1\n"{long} . !",0')
    run = trained(volume, train={"uri": "pvc://data/rows.csv"}, dataset={"longTexts": "Windows"})
    assert run.resolved.dataset is not None
    prepared = Prepared.open(path(run.resolved.dataset.uri))
    split = next(name for name in ("train", "validation") if "good and bad" in str(prepared.rows(name)["text"]))
    model = load(job_folder(run) / "best", "SequenceClassification")

    table = scored(run, split).predictions

    row = next(row for row in table.to_pylist() if row["text"].startswith(long))
    windows = [example["input_ids"] for example in prepared.examples(split) if example["row"] == row["row"]]
    assert len(windows) > 1
    with torch.no_grad():
        each = [torch.softmax(model(input_ids=torch.tensor([ids])).logits, -1)[0, 1].item() for ids in windows]
    assert row["probability:1"] == pytest.approx(np.mean(each), abs=1e-5)
    assert table.num_rows == prepared.rows(split).num_rows


def test_training_and_evaluation_measure_the_same_on_the_windows_of_long_rows(volume: Volume):
    rows = [f'"{"the film was good and bad " * (number % 4 + 1)}{number}",{number % 2}' for number in range(60)]
    volume.write("rows.csv", "\n".join(["text,label", *rows]))
    settings = {"training": {"steps": 4}, "evaluation": {"metric": "loss"}}
    run = trained(volume, train={"uri": "pvc://data/rows.csv"}, dataset={"longTexts": "Windows"}, **settings)

    with handlers_restored():
        best = train(run).best

    assert best is not None
    found = scored(run)
    assert found.seen.lengths.size > found.predictions.num_rows
    assert best.value == pytest.approx(found.metrics["loss"], abs=1e-6)


def test_the_loss_of_a_causal_model_is_that_of_each_token_but_the_first(volume: Volume):
    volume.write("rows.txt", documents())
    run = trained(volume, "CausalLM", {"uri": "pvc://data/rows.txt"}, "gpt2", training={"packing": False}, dataset={})
    assert run.resolved.dataset is not None
    example = Prepared.open(path(run.resolved.dataset.uri)).examples("validation")[0]
    ids = torch.tensor([example["input_ids"]])
    with torch.no_grad():
        expected = load(job_folder(run) / "best", "CausalLM")(input_ids=ids, labels=ids).loss.item()

    found = scored(run)

    assert found.predictions["loss"][0].as_py() == pytest.approx(expected, abs=1e-5)
    assert found.predictions["tokens"][0].as_py() == example["length"] - 1
    losses, tokens = found.predictions["loss"].to_numpy(), found.predictions["tokens"].to_numpy()
    assert found.metrics["loss"] == pytest.approx(np.average(losses, weights=tokens))
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.metrics["loss"]))


def test_the_masks_of_a_row_are_fixed_by_the_seed_whatever_stands_beside_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
):
    volume.write("rows.txt", documents())
    run = trained(volume, "MaskedLM", {"uri": "pvc://data/rows.txt"}, dataset={})
    together = scored(run, "train").predictions

    monkeypatch.setattr("lmops_trainer.inference.TOKENS", {"cpu": 16})

    assert scored(run, "train").predictions["tokens"].to_pylist() == together["tokens"].to_pylist()
    assert scored(run, "train").predictions["loss"].to_numpy() == pytest.approx(together["loss"].to_numpy(), abs=1e-5)
    assert scored(run, "train", seed=7).predictions["loss"].to_pylist() != together["loss"].to_pylist()


def test_a_masked_model_is_measured_by_a_perplexity_of_its_own_name(volume: Volume):
    volume.write("rows.txt", documents())

    evaluation = evaluate(trained(volume, "MaskedLM", {"uri": "pvc://data/rows.txt"}, dataset={}), SILENT).evaluation

    assert evaluation is not None
    assert set(evaluation.metrics) == {"loss", "maskedPerplexity"}
    assert (evaluation.baseline, evaluation.beats_baseline, evaluation.classes) == ({}, None, {})


def test_sentence_pairs_are_also_measured_by_their_order(volume: Volume):
    volume.write("rows.txt", documents(24))
    run = trained(
        volume,
        "BertPreTraining",
        {"uri": "pvc://data/rows.txt"},
        dataset={"validation": {"holdOut": {"fraction": 0.3}}},
    )

    found = scored(run)

    assert set(found.metrics) == {"loss", "maskedPerplexity", "accuracy"}
    table = found.predictions
    told = np.mean(table["nextSentence"].to_numpy() == table["predictedNextSentence"].to_numpy())
    assert found.metrics["accuracy"] == told
    assert found.metrics["loss"] > math.log(found.metrics["maskedPerplexity"])


def test_baseline_json_holds_what_drift_is_measured_against(volume: Volume):
    run = trained(volume)
    assert run.resolved.dataset is not None
    prepared = Prepared.open(path(run.resolved.dataset.uri))
    model = load(job_folder(run) / "best", "SequenceClassification")
    examples = [torch.tensor([ids]) for ids in prepared.examples("test")["input_ids"]]
    with torch.no_grad():
        hidden = [model.base_model(input_ids=ids).last_hidden_state[0].mean(0).numpy() for ids in examples]

    published = folder(evaluate(run, SILENT))

    picture = Baseline.read(published)
    assert picture is not None
    assert picture.embedding is not None
    middle = np.mean(hidden, axis=0)
    assert picture.embedding.mean == pytest.approx(middle, abs=1e-4)
    assert picture.embedding.spread == pytest.approx(np.sqrt(np.square(hidden - middle).sum(1).mean()), rel=1e-3)
    unknown = sum(int((ids == 1).sum()) for ids in examples) / sum(ids.numel() for ids in examples)
    assert picture.unknown_token_share == pytest.approx(unknown, abs=1e-6)
    assert sum(picture.token_length.histogram.counts) == picture.rows == 12
    told = pq.read_table(published / "predictions.parquet").to_pylist()
    assert picture.predictions is not None
    names = [row["prediction"] for row in told]
    shares = {name: names.count(name) / len(names) for name in picture.predictions}
    assert picture.predictions == pytest.approx(shares, abs=1e-6)
    assert picture.confidence is not None
    assert picture.confidence.mean == pytest.approx(np.mean([row["confidence"] for row in told]), abs=1e-4)
    assert "baseline.json" not in json.loads((published / "lmops.json").read_text())["files"]


def test_the_worst_errors_are_the_surest_of_the_wrong_predictions(volume: Volume):
    found = scored(trained(volume), "train")

    rows = worst(found)

    wrong = [row["confidence"] for row in found.predictions.to_pylist() if row["prediction"] != row["label"]]
    assert [row["confidence"] for row in rows] == sorted(wrong, reverse=True)[:10]
    assert all(row["prediction"] != row["label"] for row in rows)


def test_progress_goes_up_to_the_end_and_tells_the_figures(volume: Volume):
    heard = Heard()

    evaluation = evaluate(trained(volume), heard).evaluation  # type: ignore[arg-type]

    assert evaluation is not None
    assert heard.percents == sorted(heard.percents)
    assert (heard.percents[0], heard.percents[-1]) == (0, 100)
    assert heard.metrics == {f"eval_{name}": value for name, value in evaluation.metrics.items()}


def test_the_last_weights_are_published_where_they_are_asked_for(volume: Volume):
    result = evaluate(trained(volume, output={"uri": "pvc://data/models", "keep": "Last"}), SILENT)

    assert (folder(result) / "model.safetensors").is_file()


def test_weights_that_were_not_finished_are_refused(volume: Volume):
    run = trained(volume)
    (job_folder(run) / "best" / "best.json").unlink()

    with pytest.raises(Refusal, match=r"There are no finished weights in .*/best: best.json is not there\."):
        evaluate(run, SILENT)
