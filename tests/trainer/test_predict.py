"""Predict: an answer to every row of a file, in its order, by the code that evaluated the model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from lmops_trainer import predict
from lmops_trainer.evaluate import evaluate
from trained import SILENT, documents, folder, published, trained
from volumes import Volume


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(tmp_path, monkeypatch)


def ran(*words: str | Path) -> int:
    """The exit code of `predict` with these arguments."""
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    return predict.main(parser.parse_args([str(word) for word in words]))


def answers(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    """What it prints."""
    assert ran(*words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one sentence it prints, and nothing else."""
    capsys.readouterr()  # what was said before
    assert ran(*words) == 1
    told = capsys.readouterr()
    assert told.out == ""
    return told.err.strip()


def texts(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "rows.txt"
    file.write_text("\n".join(lines))
    return file


def generator(volume: Volume) -> Path:
    volume.write("rows.txt", documents())
    return published(volume, "CausalLM", train={"uri": "pvc://data/rows.txt"}, architecture="gpt2", dataset={})


def filler(volume: Volume, task: str = "MaskedLM") -> Path:
    volume.write("rows.txt", documents(24))
    dataset = {"validation": {"holdOut": {"fraction": 0.3}}}
    return published(volume, task, train={"uri": "pvc://data/rows.txt"}, dataset=dataset)


def test_each_row_gets_its_class_and_the_probability_of_each(volume: Volume, tmp_path: Path, capsys: Any):
    found = answers(capsys, published(volume), texts(tmp_path, "the film was good", "it was bad"))

    assert [list(row) for row in found] == [["row", "text", "label", "confidence", "probabilities"]] * 2
    assert [(row["row"], row["text"]) for row in found] == [(0, "the film was good"), (1, "it was bad")]
    assert (
        found[0]["probabilities"][found[0]["label"]]
        == found[0]["confidence"]
        == max(found[0]["probabilities"].values())
    )


def test_predictions_are_those_of_the_evaluation(volume: Volume, tmp_path: Path, capsys: Any):
    run = trained(volume, dataset={"longTexts": "Windows", "maxLength": 8, "clean": {"unicode": "NFKC"}})
    home = folder(evaluate(run, SILENT))
    scored = pq.read_table(home / "predictions.parquet")
    pq.write_table(scored.select(["text"]), tmp_path / "rows.parquet")

    found = answers(capsys, home, tmp_path / "rows.parquet")

    assert [row["probabilities"]["1"] for row in found] == pytest.approx(scored["probability:1"].to_pylist(), abs=1e-5)


def test_more_than_ten_classes_keep_their_names(volume: Volume, tmp_path: Path, capsys: Any):
    lines = [f'"the film {row} was {"so " * n}good",class{n:02}' for n in range(12) for row in range(10)]
    volume.write("rows.csv", "\n".join(["text,label", *lines]))
    home = published(volume, train={"uri": "pvc://data/rows.csv"}, dataset={})
    scored = pq.read_table(home / "predictions.parquet").slice(0, 1).to_pylist()[0]

    found = answers(capsys, home, texts(tmp_path, scored["text"]))

    assert list(found[0]["probabilities"]) == [f"class{n:02}" for n in range(12)]
    assert found[0]["label"] == scored["prediction"]
    assert found[0]["probabilities"]["class02"] == pytest.approx(scored["probability:class02"], abs=1e-5)


def test_rows_take_the_form_that_the_training_rows_had(volume: Volume, tmp_path: Path, capsys: Any):
    home = published(volume, dataset={"clean": {"unicode": "NFKC", "markup": "Strip"}})

    found = answers(capsys, home, texts(tmp_path, "the film was good", "the <b>film</b> was ｇｏｏｄ"))

    assert found[1]["text"] == "the <b>film</b> was ｇｏｏｄ"
    assert found[1]["confidence"] == pytest.approx(found[0]["confidence"], abs=1e-5)


def test_answers_keep_the_order_of_the_file_whatever_the_lengths_and_the_buffers(
    volume: Volume, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    lines = ["the film " * (1 + n * 7 % 6) + str(n) for n in range(25)]
    home, file = published(volume), texts(tmp_path, *lines)
    whole = answers(capsys, home, file)

    monkeypatch.setattr(predict, "BUFFER", 4)
    monkeypatch.setattr(predict, "CHARACTERS", 40)

    pieces = answers(capsys, home, file)
    assert [row["text"] for row in pieces] == lines
    assert [row["confidence"] for row in pieces] == pytest.approx([row["confidence"] for row in whole], abs=1e-5)


def test_a_file_is_read_as_it_is_said_to_be(volume: Volume, tmp_path: Path, capsys: Any):
    file = tmp_path / "rows.data"
    file.write_bytes("1;café;x\n2;naïve;y\n".encode("latin-1"))
    form = ["--format", "csv", "--delimiter", ";", "--no-header", "--encoding", "latin-1", "--text", "1", "--pair", "2"]

    found = answers(capsys, published(volume), file, *form)

    assert [(row["text"], row["pair"]) for row in found] == [("café", "x"), ("naïve", "y")]


def test_answers_go_to_parquet_by_its_ending(volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predict, "BUFFER", 2)

    assert ran(published(volume), texts(tmp_path, "good", "bad", "it"), "-o", tmp_path / "new" / "out.parquet") == 0

    table = pq.read_table(tmp_path / "new" / "out.parquet")
    assert table.column_names == ["row", "text", "label", "confidence", "probabilities"]
    assert table["text"].to_pylist() == ["good", "bad", "it"]
    assert table.schema.field("probabilities").type == pa.struct([("0", pa.float64()), ("1", pa.float64())])


def test_uris_name_models_and_files_on_volumes(volume: Volume):
    home = published(volume)
    file = volume.write("ask.jsonl", '{"text": "good"}\n')

    assert ran(f"pvc://data/models/{home.name}", file, "-o", "pvc://data/out.jsonl") == 0

    assert json.loads((volume.root / "out.jsonl").read_text())["text"] == "good"


@pytest.mark.parametrize("task", ["MaskedLM", "BertPreTraining"])
def test_every_mask_gets_its_likeliest_words(volume: Volume, tmp_path: Path, capsys: Any, task: str):
    file = texts(tmp_path, "it is <mask>", "the [MASK] was [MASK] .")

    found = answers(capsys, filler(volume, task), file, "--candidates", "3")

    assert [[len(mask) for mask in row["masks"]] for row in found] == [[3], [3, 3]]
    first = found[0]["masks"][0]
    assert [set(word) for word in first] == [{"token", "probability"}] * 3
    assert [word["probability"] for word in first] == sorted((word["probability"] for word in first), reverse=True)


def test_a_row_without_a_mask_is_named_by_its_line(volume: Volume, tmp_path: Path, capsys: Any):
    file = texts(tmp_path, "the [MASK]", "", "no mask here")

    assert refusal(capsys, filler(volume), file) == (
        "rows.txt, line 3 has no [MASK] in its first 16 tokens, so there is nothing to fill. "
        "Write [MASK] where the model shall find a word."
    )


def test_a_text_goes_on_the_same_for_the_same_seed(volume: Volume, tmp_path: Path, capsys: Any):
    home, file = generator(volume), texts(tmp_path, "The film", "It was", "The act 3 was not so")

    first = answers(capsys, home, file)

    assert [list(row) for row in first] == [["row", "text", "generated"]] * 3
    assert first == answers(capsys, home, file)
    assert first != answers(capsys, home, file, "--seed", "7")


def test_a_text_alone_goes_on_as_it_does_among_others(volume: Volume, tmp_path: Path, capsys: Any):
    home = generator(volume)
    greedy = ["--temperature", "0", "--max-new-tokens", "4"]

    among = answers(capsys, home, texts(tmp_path, "The film", "The act 3 was not so bright.", "It"), *greedy)

    alone = answers(capsys, home, texts(tmp_path, "The film"), *greedy)
    assert among[0] == alone[0]


def test_new_tokens_are_clipped_to_the_window_and_a_prompt_that_fills_it_is_named(
    volume: Volume, tmp_path: Path, capsys: Any
):
    home = generator(volume)
    tokens = (32 - 2) * ["a"]

    near = answers(
        capsys,
        home,
        texts(tmp_path, "".join("abcdefghijklmnopqrstuvwxyzabcd"[: len(tokens)])),
        "--max-new-tokens",
        "99",
    )

    assert near[0]["generated"] is not None
    told = refusal(capsys, home, texts(tmp_path, "ok", "zyxwvutsrqponmlkjihgfedcba" * 3))
    assert told.startswith("rows.txt, line 2 has ")
    assert "and the window of the model is 32: none is left." in told


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "good"}\n{"text": 3}\n', "rows.jsonl, line 2 has no text in column 'text'. "),
        ('{"text": "good"}\n{"text": null}\n', "rows.jsonl, line 2 has no text in column 'text'. "),
        ('{"text": "good"}\n{"te\n', "rows.jsonl, line 2 is not a JSON object: "),
        ('{"a": "good", "b": "x"}\n', "rows.jsonl has no column 'text'; it has a, b. Name the column with --text"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(
    volume: Volume, tmp_path: Path, capsys: Any, content: str, sentence: str
):
    home = published(volume)
    (tmp_path / "rows.jsonl").write_text(content)

    told = refusal(capsys, home, tmp_path / "rows.jsonl")

    assert told.startswith(sentence)
    assert "\n" not in told


def test_a_missing_file_and_an_output_over_the_input_are_refused(tmp_path: Path, capsys: Any):
    file = texts(tmp_path, "good")

    assert refusal(capsys, "model", tmp_path / "gone.txt").endswith(
        "gone.txt is not there. Check the path of the file to predict."
    )
    assert "is the input itself." in refusal(capsys, "model", file, "-o", file)
    assert file.read_text() == "good"


def test_a_folder_is_no_file_to_predict(tmp_path: Path, capsys: Any):
    assert "is a folder" in refusal(capsys, tmp_path / "model", tmp_path)


def test_an_output_that_cannot_be_written_is_one_sentence(volume: Volume, tmp_path: Path, capsys: Any):
    rows = texts(tmp_path, "a film")

    told = refusal(capsys, published(volume), rows, "-o", rows / "in" / "answers.jsonl")

    assert told == f"{rows}/in/answers.jsonl cannot be written: Not a directory. Name another file with -o."


def test_an_argument_that_means_nothing_is_named(tmp_path: Path, capsys: Any):
    told = refusal(capsys, "model", texts(tmp_path, "good"), "--delimiter", "ab")

    assert told.startswith("--delimiter: String should have at most 1 character.")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda home: (home / "model.safetensors").unlink(), "holds no safetensors weights"),
        (lambda home: (home / "model.safetensors").rename(home / "pytorch_model.bin"), "only pytorch_model.bin"),
        (lambda home: (home / "config.json").unlink(), "holds no config.json"),
        (lambda home: cut(home / "model.safetensors"), "incomplete metadata, file not fully covered"),
        (lambda home: save_file({}, home / "model.safetensors"), "missing or of another shape"),
    ],
    ids=["without weights", "pickled", "without configuration", "cut short", "empty"],
)
@pytest.mark.parametrize("with_passport", [True, False])
def test_a_folder_that_is_no_whole_model_is_one_sentence(
    volume: Volume, tmp_path: Path, capsys: Any, harm: Any, sentence: str, with_passport: bool
):
    home = published(volume)
    harm(home)
    if not with_passport:
        (home / "lmops.json").unlink()

    told = refusal(capsys, home, texts(tmp_path, "good"))

    assert sentence in told
    assert "\n" not in told


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_a_model_without_a_passport_is_known_by_its_class(volume: Volume, tmp_path: Path, capsys: Any):
    home = published(volume)
    file = texts(tmp_path, "the film was good")
    before = answers(capsys, home, file)
    (home / "lmops.json").unlink()

    assert answers(capsys, home, file) == before


def test_a_model_without_a_head_has_no_answers(volume: Volume, tmp_path: Path, capsys: Any):
    home = published(volume)
    AutoModelForSequenceClassification.from_pretrained(home).base_model.save_pretrained(home)
    (home / "lmops.json").unlink()

    assert "BertModel, which has no answers to give" in refusal(capsys, home, texts(tmp_path, "good"))
