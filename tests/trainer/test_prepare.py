"""Prepare: raw files become prepared data, once, and bad input becomes one sentence."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmops.api.trainingstatus import DatasetReport
from lmops_trainer.data import Prepared
from lmops_trainer.failures import Refusal
from lmops_trainer.prepare import prepare
from lmops_trainer.progress import Progress
from lmops_trainer.uris import path
from volumes import Volume, raw, run, told

REVIEWS = "text,label,author\n" + "".join(
    f"the film is {'good' if i % 2 else 'bad'} {word} {other},{'pos' if i % 2 else 'neg'},{word}\n"
    for i, (word, other) in enumerate(
        (a, b) for a in ["one", "two", "three", "four"] for b in ["five", "six", "so", "very", "dull"]
    )
)
NO_TEST = "There is no test set: the final figures are of the validation rows, which also chose the checkpoint."


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    volume = Volume(tmp_path, monkeypatch)
    volume.bert()
    volume.write("reviews.csv", REVIEWS)
    return volume


def prepared(dataset: dict[str, Any], model: Any = "pvc://data/bert", **spec: Any) -> tuple[DatasetReport, Prepared]:
    report = prepare(run(model, dataset, **spec), Progress()).dataset
    assert report is not None
    return report, Prepared.open(path(report.uri))


def refused(dataset: dict[str, Any], model: Any = "pvc://data/bert", **spec: Any) -> tuple[str, str, str, str]:
    with pytest.raises(Refusal) as refusal:
        prepare(run(model, dataset, **spec), Progress())
    return told(refusal)


def texts(data: Prepared, split: str) -> list[str]:
    found: list[str] = data.rows(split).column("text").to_pylist()
    return found


TRAIN = {"uri": "pvc://data/reviews.csv"}


def test_a_file_becomes_rows_examples_a_tokenizer_and_a_report(volume):
    report, data = prepared({"train": TRAIN})

    assert report.manifest() == {
        "uri": report.uri,
        "hash": report.hash,
        "rowsRead": 20,
        "dropped": {},
        "notes": [NO_TEST],
        "train": {"rows": 18, "examples": 18, "tokens": 144, "truncated": 0, "labels": {"neg": 9, "pos": 9}},
        "validation": {"rows": 2, "examples": 2, "tokens": 16, "truncated": 0, "labels": {"neg": 1, "pos": 1}},
        "reused": False,
    }
    assert report.uri == f"pvc://data/models/.lmops/data/{report.hash.removeprefix('sha256:')[:16]}"
    assert (data.report, data.labels, data.max_length, data.task) == (
        report,
        ["neg", "pos"],
        16,
        "SequenceClassification",
    )
    assert [data.has(split) for split in ("train", "validation", "test")] == [True, True, False]
    assert texts(data, "test") == texts(data, "validation")


def test_rows_and_examples_belong_together(volume):
    _, data = prepared({"train": TRAIN})

    rows = data.rows("train").to_pylist()
    examples = data.examples("train")
    lines = REVIEWS.splitlines()[1:]

    assert [f"{row['text']},{row['label']}" for row in rows] == [lines[row["row"]].rpartition(",")[0] for row in rows]
    assert sorted(rows[0]) == ["label", "pair", "row", "text"]
    assert examples.column_names == ["input_ids", "length", "row", "label"]
    assert [examples[0][name] for name in ("row", "label")] == [rows[0]["row"], data.labels.index(rows[0]["label"])]
    assert examples[0]["input_ids"] == data.tokenizer()(rows[0]["text"])["input_ids"]
    assert str(examples.features["input_ids"]) == "List(Value('int32'))"


def test_the_same_again_is_reused_and_other_content_is_not(volume):
    first, _ = prepared({"train": TRAIN})
    again, _ = prepared({"train": TRAIN})
    volume.write("reviews.csv", REVIEWS.replace("very", "long"))
    changed, _ = prepared({"train": TRAIN})

    assert again == first.model_copy(update={"reused": True})
    assert changed.hash != first.hash


@pytest.mark.parametrize(
    ("dataset", "spec"),
    [
        ({"maxLength": 8}, {}),
        ({"clean": {"unicode": "NFKC"}}, {}),
        ({"longTexts": "Windows"}, {}),
        ({}, {"training": {"seed": 7}}),
    ],
)
def test_what_changes_the_data_changes_its_hash(volume, dataset, spec):
    assert prepared({"train": TRAIN} | dataset, **spec)[0].hash != prepared({"train": TRAIN})[0].hash


def test_what_does_not_change_the_data_does_not_change_its_hash(volume):
    first, _ = prepared({"train": TRAIN})
    same, _ = prepared({"train": TRAIN, "maxLength": 16}, training={"epochs": 7, "packing": False})

    assert (same.hash, same.reused) == (first.hash, True)


def test_two_jobs_at_once_leave_one_folder(volume):
    with ThreadPoolExecutor(2) as jobs:
        reports = [future.result() for future in [jobs.submit(prepared, {"train": TRAIN}) for _ in range(2)]]

    assert reports[0][0].uri == reports[1][0].uri
    assert [entry.name for entry in path(reports[0][0].uri).parent.iterdir()] == [Path(reports[0][0].uri).name]


def test_a_folder_without_its_marker_is_made_again(volume):
    report, data = prepared({"train": TRAIN})
    (data.folder / "dataset.json").unlink()

    with pytest.raises(Refusal, match="holds no prepared data"):
        Prepared.open(data.folder)
    again, _ = prepared({"train": TRAIN})

    assert (again.uri, again.reused) == (report.uri, False)


def test_nothing_is_left_of_a_run_that_was_refused(volume):
    refused({"train": {"uri": "pvc://data/reviews.csv", "columns": {"text": "nope"}}})

    assert list((volume.root / "models/.lmops/data").iterdir()) == []


def test_test_and_validation_are_drawn_from_all_rows(volume):
    report, data = prepared(
        {
            "train": TRAIN,
            "test": {"fraction": 0.2, "groupBy": "author", "stratifyBy": "label"},
            "validation": {"holdOut": {"fraction": 0.2}},
        }
    )

    authors = {split: {text.split()[4] for text in texts(data, split)} for split in ("train", "test")}
    assert not authors["train"] & authors["test"]
    assert [report.train.rows, report.validation.rows, report.test.rows] == [11, 4, 5]
    assert report.notes == []


def test_rows_of_a_test_source_are_kept_and_counted_and_leave_training(volume):
    volume.write("test.csv", "text,label\nthe film is bad one five,neg\nThe film,pos\nThe film,pos\n!,neg\n")

    report, data = prepared({"train": TRAIN, "test": {"uri": "pvc://data/test.csv"}, "clean": {"length": {"min": 2}}})

    assert report.dropped == {"inTest": 1}
    assert report.notes == [
        "test: 1 rows repeat the text of another row of it; they were kept.",
        "test: 1 rows are shorter than clean.length.min; they were kept.",
    ]
    assert texts(data, "test") == ["the film is bad one five", "The film", "The film", "!"]
    assert "the film is bad one five" not in texts(data, "train") + texts(data, "validation")


def test_a_validation_source_takes_its_rows_out_of_training_too(volume):
    volume.write("v.csv", "text,label\nthe film is bad one five,neg\n")

    report, data = prepared(
        {"train": TRAIN, "test": {"fraction": 0.1}, "validation": {"from": {"uri": "pvc://data/v.csv"}}}
    )

    assert (report.dropped, report.train.rows, report.test.rows) == ({"inValidation": 1}, 17, 2)
    assert texts(data, "validation") == ["the film is bad one five"]


def test_no_text_is_in_two_splits(volume):
    volume.write("twice.csv", REVIEWS + REVIEWS.partition("\n")[2])

    report, data = prepared({"train": {"uri": "pvc://data/twice.csv"}, "test": {"fraction": 0.2}})

    split = [set(texts(data, name)) for name in ("train", "validation", "test")]
    assert report.dropped == {"duplicate": 20}
    assert sum(map(len, split)) == len(set.union(*split)) == 20


def test_many_rows_are_all_there_and_in_order(volume):
    volume.write("many.csv", "text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(9000)))

    _, data = prepared({"train": {"uri": "pvc://data/many.csv"}, "test": {"fraction": 0.1}})

    rows = [data.rows(split).to_pylist() for split in ("train", "validation", "test")]
    assert [len(part) for part in rows] == [7200, 900, 900]
    assert sorted(row["row"] for part in rows for row in part) == list(range(9000))
    for part in rows:
        assert [row["text"] for row in part] == [f"film {row['row']}" for row in part]
        assert [row["row"] for row in part] == sorted(row["row"] for row in part)


def test_documents_become_blocks_for_a_causal_model_with_a_tokenizer_of_their_own(volume):
    volume.write("d.txt", "\n\n".join(f"document {i}\nof two lines" for i in range(20)))
    model = {
        "from": {"architecture": {"name": "gpt2", "config": {"n_positions": 32}}},
        "tokenizer": {"train": {"vocabularySize": 300}},
        "task": "CausalLM",
    }

    report, data = prepared({"train": {"uri": "pvc://data/d.txt"}}, model)

    blocks = data.examples("train")["input_ids"]
    read = data.tokenizer().decode([token for block in blocks for token in block])
    assert (report.rows_read, report.train.rows, report.validation.rows) == (20, 18, 2)
    assert read.split("<|endoftext|>")[:-1] == texts(data, "train")
    assert texts(data, "train")[0].splitlines()[1] == "of two lines"
    assert (data.labels, report.train.labels, {len(block) for block in blocks[:-1]}) == ([], {}, {32})


def test_a_text_file_without_blank_lines_is_said_to_be_one_document(volume):
    for name in "abc":
        volume.write(f"t/{name}.txt", f"the film {name} is good\nso long\n")

    report, _ = prepared(
        {"train": {"uri": "pvc://data/t"}, "validation": {"holdOut": {"fraction": 0.3}}},
        {"from": {"uri": "pvc://data/bert"}, "task": "MaskedLM"},
    )

    assert report.notes[:3] == [f"{name}.txt holds no blank line and was read as one document." for name in "abc"]


BAD = {
    "one class only": (
        {"train": {"uri": "pvc://data/reviews.csv", "columns": {"text": "text"}, "label": "good"}},
        (
            "Data",
            "OneClass",
            "All 20 training rows are of one class, 'good'; there is nothing to tell apart.",
            "Add rows of another class, or check columns.label and columns.classes.",
        ),
    ),
    "labels of mixed type": (
        {"train": {"uri": "pvc://data/mixed.csv"}},
        (
            "Data",
            "LabelsMixed",
            "Some labels are numbers and some are words: mixed.csv, line 2 has 1, mixed.csv, line 3 has 'bad'.",
            "Write all labels in one way; a header read as a row (`header: false`) looks like this too.",
        ),
    ),
    "no rows left": (
        {"train": TRAIN, "clean": {"length": {"min": 500}}},
        (
            "Data",
            "NoRowsLeft",
            "Cleaning left none of the 20 training rows: 20 tooShort.",
            "Loosen dataset.clean, or check that columns.text names the text.",
        ),
    ),
    "no rows at all": (
        {"train": {"uri": "pvc://data/header.csv"}},
        ("Data", "NoRows", "dataset.train has no rows: its files hold a header at the most.", "Check the files."),
    ),
    "a label that training does not know": (
        {"train": TRAIN, "test": {"uri": "pvc://data/other.csv"}},
        (
            "Data",
            "LabelUnknown",
            "The test rows have the label 'meh' (other.csv, line 3), which no training row has.",
            "The training rows have 'neg', 'pos': correct the label, or add rows of it.",
        ),
    ),
    "a fraction that is impossible": (
        {"train": TRAIN, "validation": {"holdOut": {"fraction": 0.01}}},
        (
            "Data",
            "FractionImpossible",
            "dataset.validation.holdOut cannot hold a row of each of 2 classes: it would take 1 of 20 rows.",
            "Change the fraction of dataset.validation.holdOut, or bring more rows.",
        ),
    ),
    "numbers that are no classes": (
        {"train": {"uri": "pvc://data/numbers.csv"}},
        (
            "Data",
            "TooManyClasses",
            "There are more than 256 classes; numbers.csv, line 258 has yet another, '0.256'.",
            "Make classes of the numbers with columns.classes.",
        ),
    ),
    "a length above the window": (
        {"train": TRAIN, "maxLength": 17},
        (
            "Settings",
            "MaxLengthAboveWindow",
            "dataset.maxLength is 17, and the model reads 16 tokens at the most.",
            "Set dataset.maxLength to 16 or less.",
        ),
    ),
    "a column to group by that is not there": (
        {"train": TRAIN, "validation": {"holdOut": {"groupBy": "writer"}}},
        (
            "Data",
            "ColumnUnknown",
            "reviews.csv has no column 'writer'; it has 'author', 'label', 'text'.",
            "Name one of them in stratifyBy or groupBy of dataset.train.",
        ),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_one_sentence(volume, case):
    volume.write("mixed.csv", "text,label\ngood,1\nbad,bad\n")
    volume.write("header.csv", "text,label\n")
    volume.write("other.csv", "text,label\nso,pos\nlong,meh\n")
    volume.write("numbers.csv", "text,label\n" + "".join(f"film {i},{i / 1000}\n" for i in range(300)))
    dataset, sentence = BAD[case]

    assert refused(dataset) == sentence


def test_progress_is_posted_while_it_reads_and_tokenises(volume):
    posts = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    progress = Progress(f"http://127.0.0.1:{server.server_port}/", interval=0.0)
    prepare(run("pvc://data/bert", {"train": TRAIN}), progress)
    progress.close()
    server.shutdown()

    percents = [post["trainerStatus"]["progressPercentage"] for post in posts]
    assert percents == sorted(percents)
    assert percents[-1] >= 90
    assert {"name": "rows", "value": "20"} in posts[-1]["trainerStatus"]["metrics"]


def test_the_real_movie_reviews_are_prepared(volume):
    uri = volume.link("m.txt", raw("movieReviewSnippets_GroundTruth.txt"))
    columns = {"text": 2, "label": 1, "classes": {"negative": "<=0", "positive": ">0"}}
    train = {"uri": uri, "format": "csv", "delimiter": "\t", "header": False, "columns": columns}

    report, _ = prepared({"train": train})

    assert (report.rows_read, report.dropped) == (10605, {"duplicate": 2})
    assert (report.train.rows, report.validation.rows) == (9542, 1061)
    assert sum(report.train.labels.values()) == 9542
