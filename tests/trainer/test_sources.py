"""Sources: every format becomes rows, and every file that cannot becomes one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmops.api.dataset import Source, TrainRows
from lmops_trainer import uris
from lmops_trainer.data.sources import rows, sources
from lmops_trainer.failures import Refusal
from volumes import Volume, raw, told


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(tmp_path, monkeypatch)


def plain(found: list) -> list[tuple[str, str | None, str | None]]:
    return [(row.text, row.pair, row.label) for row in found]


def test_a_csv_row_is_a_row_with_its_number_and_place(volume):
    found = volume.rows("a.csv", 'text,label\n"good, film",1\nbad film,0\n')

    assert [(row.number, row.text, row.label, row.place) for row in found] == [
        (0, "good, film", "1", "a.csv, line 2"),
        (1, "bad film", "0", "a.csv, line 3"),
    ]


def test_columns_are_named_by_position_without_a_header(volume):
    content = b'1\t2.2\tthe "film\n2\t-0.6\tclich\xe9\n'
    classes = {"negative": "<=0", "positive": ">0"}
    columns = {"text": 2, "label": 1, "classes": classes}

    found = volume.rows(
        "r.txt", content, format="csv", delimiter="\t", header=False, encoding="latin-1", columns=columns
    )

    assert plain(found) == [('the "film', None, "positive"), ("cliché", None, "negative")]


def test_comments_at_the_top_of_a_file_without_header_are_no_rows(volume):
    content = "# word pairs\n# one\ttwo\tscore\nold\tnew\t1\n# sharp\tflat\t2\n"
    columns = {"text": 0, "pair": 1, "label": 2}

    found = volume.rows("s.tsv", content, header=False, columns=columns)

    assert plain(found) == [("old", "new", "1"), ("# sharp", "flat", "2")]


def test_jsonl_and_parquet_hold_pairs_and_labels_of_any_type(volume):
    columns = {"text": "premise", "pair": "hypothesis", "label": "gold"}
    records = [{"premise": "a", "hypothesis": "b", "gold": 1.0}, {"premise": "c", "hypothesis": "d", "gold": 0.0}]
    volume.write("p.parquet", b"")
    pq.write_table(pa.Table.from_pylist(records), volume.root / "p.parquet")

    from_lines = volume.rows("p.jsonl", "\n\n".join(map(json.dumps, records)), columns=columns)
    from_parquet = volume.read("pvc://data/p.parquet", columns=columns)

    assert plain(from_lines) == plain(from_parquet) == [("a", "b", "1"), ("c", "d", "0")]


def test_a_line_of_text_is_a_row_to_classify_and_a_paragraph_a_document_to_model(volume):
    content = "one\ntwo\n\n\nthree\r\n"

    lines = volume.rows("t.txt", content, label="neutral")
    documents = volume.rows("t.txt", content, documents=True, labelled=False)

    assert plain(lines) == [(text, None, "neutral") for text in ("one", "two", "three")]
    assert [(row.text, row.line) for row in documents] == [("one\ntwo", 1), ("three", 5)]


def test_a_byte_order_mark_is_no_part_of_the_first_column(volume):
    assert plain(volume.rows("bom.csv", "\ufefftext,label\na,x\n")) == [("a", None, "x")]


def test_a_folder_is_read_in_order_of_names_without_what_other_programs_left(volume):
    for name in ("f/b.csv", "f/a.csv", "f/_SUCCESS", "f/.a.csv.crc", "f/README.md"):
        volume.write(name, f"text,label\n{name},x\n")

    assert [row.text for row in volume.read("pvc://data/f")] == ["f/a.csv", "f/b.csv"]


def test_a_glob_matches_files_in_folders(volume):
    for name in ("g/1/a.csv", "g/2/a.csv", "g/2/b.tsv"):
        volume.write(name, f"text,label\n{name},x\n")

    assert [row.text for row in volume.read("pvc://data/g/*/*.csv")] == ["g/1/a.csv", "g/2/a.csv"]


def test_what_stands_beside_sources_holds_for_each_that_does_not_set_it(volume):
    volume.write("pos.txt", "good\n")
    volume.write("neg.txt", b"schlecht f\xfcr alle\n")
    train = TrainRows.model_validate(
        {
            "encoding": "latin-1",
            "sources": [
                {"uri": "pvc://data/pos.txt", "label": "positive", "encoding": "utf-8"},
                {"uri": "pvc://data/neg.txt", "label": "negative"},
            ],
        }
    )

    found = list(rows(sources(train), "dataset.train", labelled=True, documents=False))

    assert plain(found) == [("good", None, "positive"), ("schlecht für alle", None, "negative")]
    assert [row.number for row in found] == [0, 1]


def test_rows_carry_the_columns_that_splits_go_by(volume):
    uri = volume.write("k.csv", "author,text,label\nann,a,x\nbob,b,y\n")

    found = list(rows([Source(uri=uri)], "dataset.train", labelled=True, documents=False, by=["label", "author"]))

    assert [row.keys for row in found] == [("x", "ann"), ("y", "bob")]


REFUSED = {
    "a column that is not there": (
        "a.csv",
        "sentence,label\na,1\n",
        {"columns": {"text": "sentense"}},
        (
            "Data",
            "ColumnUnknown",
            "a.csv has no column 'sentense'; it has 'label', 'sentence'.",
            "Did you mean 'sentence'? Set dataset.train: columns.text.",
        ),
    ),
    "no column of labels": (
        "a.csv",
        "text,stars\na,1\n",
        {},
        (
            "Data",
            "ColumnUnknown",
            "a.csv has no column 'label'; it has 'stars', 'text'.",
            "Set dataset.train.columns.label to the column of the classes, or dataset.train.label if all rows are of "
            "one class.",
        ),
    ),
    "a csv row that is too wide": (
        "a.csv",
        "text,label\na,1\ngood, but long,1\n",
        {},
        (
            "Data",
            "ColumnsDiffer",
            "a.csv, line 3 has 3 columns where the first line has 2.",
            "Correct the line, or set `delimiter` (',' now) or `quote` ('\"' now) to what the file uses.",
        ),
    ),
    "a quote that is never closed": (
        "a.csv",
        'text,label\n"a,1\nb,0\n',
        {},
        (
            "Data",
            "CsvMalformed",
            "a.csv, line 2 is not valid csv: unexpected end of data.",
            "Close the quotes in that line, or set `quote` ('\"' now) to what the file uses, or to an empty string "
            "where it uses none.",
        ),
    ),
    "a broken line of json": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", \n',
        {},
        (
            "Data",
            "JsonMalformed",
            "a.jsonl, line 2 is not a JSON object: Expecting property name enclosed in double quotes at character 14.",
            "Write one object with braces on each line.",
        ),
    ),
    "a line of json that is a list": (
        "a.jsonl",
        "[1, 2]\n",
        {},
        (
            "Data",
            "JsonMalformed",
            "a.jsonl, line 1 is not a JSON object: it holds no object.",
            "Write one object with braces on each line.",
        ),
    ),
    "a text that is null": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": null, "label": 1}\n',
        {},
        (
            "Data",
            "TextMissing",
            "a.jsonl, line 2 has no value in column 'text'.",
            "Give the row a text, or take it out of the file.",
        ),
    ),
    "a label that is empty": (
        "a.csv",
        "text,label\na,1\nb, \n",
        {},
        ("Data", "LabelMissing", "a.csv, line 3 has no label.", "Give the row a label, or take it out of the file."),
    ),
    "a number outside all classes": (
        "a.csv",
        "text,label\na,1\nb,0\n",
        {"columns": {"text": "text", "label": "label", "classes": {"low": "<0", "high": ">=0.5,<=1"}}},
        (
            "Data",
            "OutsideClasses",
            "a.csv, line 3 has the label 0, which lies in none of the classes (low: <0, high: >=0.5,<=1).",
            "Widen a class of columns.classes so that every number falls into one.",
        ),
    ),
    "a word where classes are made of numbers": (
        "a.csv",
        "text,label\na,good\n",
        {"columns": {"text": "text", "label": "label", "classes": {"low": "<0"}}},
        (
            "Data",
            "LabelNotNumber",
            "a.csv, line 2 has the label 'good', which is no number, so columns.classes cannot be applied.",
            "Correct the row, or check that columns.label names the column of numbers.",
        ),
    ),
    "an ending that tells nothing": (
        "a.cor",
        "a\n",
        {},
        (
            "Settings",
            "FormatUnknown",
            "The ending of a.cor does not tell its format.",
            "Set `format` of the source to jsonl, csv, parquet or text.",
        ),
    ),
    "a parquet file that is none": (
        "a.parquet",
        "text\n",
        {},
        (
            "Data",
            "ParquetMalformed",
            "a.parquet is not a parquet file: "
            "Parquet file size is 5 bytes, smaller than the minimum file footer (8 bytes)",
            "Set `format` to what the file is, or write it again.",
        ),
    ),
    "an empty file": (
        "a.csv",
        "",
        {},
        ("Data", "FileEmpty", "pvc://data/a.csv is empty.", "Write the file again, or name another."),
    ),
    "an encoding that does not exist": (
        "a.csv",
        "text,label\na,1\n",
        {"encoding": "latin-11"},
        ("Settings", "EncodingUnknown", "There is no encoding 'latin-11'.", "Did you mean 'latin_1'?"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_one_sentence(volume, case):
    name, content, settings, sentence = REFUSED[case]

    with pytest.raises(Refusal) as refusal:
        volume.rows(name, content, **settings)

    assert told(refusal) == sentence


def test_undecodable_bytes_are_named_with_offset_and_a_likely_encoding(volume):
    german = "Die Bücher über die schöne Stadt Köln gefallen mir sehr, weil sie für alle verständlich sind.\n"
    content = (
        b"text,label\n" + b"plain,1\n" * 200_000 + (german.replace(",", "").strip() + ",0\n").encode("latin-1") * 9
    )

    with pytest.raises(Refusal) as refusal:
        volume.rows("l.csv", content)

    offset = content.index(b"\xfc")
    assert told(refusal)[:3] == (
        "Data",
        "Undecodable",
        f"l.csv is not utf-8: the byte 0xfc at offset {offset} (line 200002) does not belong there.",
    )
    assert "which fits the file" in refusal.value.remedy
    assert refusal.value.evidence == [f"bytes from there on: {content[offset : offset + 8].hex(' ')}"]


def test_half_of_an_emoji_becomes_the_sign_for_a_lost_character(volume):
    content = '{"text": "good \\ud83d", "label": 1}\n{"text": "bad \\ud83d\\ude00", "label": 0}\n'

    assert [row.text for row in volume.rows("e.jsonl", content)] == ["good \ufffd", "bad 😀"]


def test_undecodable_chinese_is_recognised(volume):
    content = "服务很好，房间也很干净，下次还会再来住的。\n".encode("gb18030") * 20

    with pytest.raises(Refusal) as refusal:
        volume.rows("z.txt", content, label="x")

    assert any(name in refusal.value.remedy for name in ("gb18030", "gbk", "gb2312"))


def test_a_missing_file_is_refused_with_what_is_there(volume):
    volume.write("reviews.csv", "text,label\n")

    with pytest.raises(Refusal) as refusal:
        volume.read("pvc://data/review.csv")

    assert told(refusal) == (
        "Data",
        "FileMissing",
        "pvc://data/review.csv is not there.",
        "Did you mean 'reviews.csv'? Its folder holds 'reviews.csv'. Check dataset.train.uri.",
    )


@pytest.mark.parametrize("uri", ["pvc://data/*.csv", "pvc://data/none/*/x.csv", "pvc://data/empty"])
def test_a_glob_or_folder_without_files_is_refused(volume, uri):
    (volume.root / "empty").mkdir()

    with pytest.raises(Refusal, match="matches no file of rows") as refusal:
        volume.read(uri)

    assert refusal.value.reason == "NoFiles"


def test_a_missing_volume_is_refused(volume):
    with pytest.raises(Refusal) as refusal:
        volume.read("pvc://dota/reviews.csv")

    assert told(refusal) == (
        "Volume",
        "VolumeMissing",
        "The volume 'dota' of pvc://dota/reviews.csv is not there.",
        "Create a PersistentVolumeClaim of that name; on a laptop give its folder: --volume dota=FOLDER.",
    )


def test_a_uri_is_a_path_below_the_volumes(volume):
    assert uris.path("pvc://data/a/b.csv") == volume.root / "a/b.csv"
    assert uris.hub("hf://google-bert/bert-base-uncased@main") == ("google-bert/bert-base-uncased", "main")
    assert uris.hub("hf://nyu-mll/glue") == ("nyu-mll/glue", None)
    with pytest.raises(Refusal, match="steps out of its volume"):
        uris.path("pvc://data/../secret")


def test_the_real_movie_reviews_are_read_as_they_are(volume):
    uri = volume.link("m.txt", raw("movieReviewSnippets_GroundTruth.txt"))
    classes = {"negative": "<=0", "positive": ">0"}

    found = volume.read(
        uri, format="csv", delimiter="\t", header=False, columns={"text": 2, "label": 1, "classes": classes}
    )

    assert len(found) == 10605
    assert len({row.text for row in found}) == 10603
    assert found[2][:4] == (2, "Effective but too tepid biopic", None, "negative")
    assert os.path.basename(found[2].file) == "m.txt"


def test_real_word_pairs_are_read_as_they_are(volume):
    uri = volume.link("simlex999.txt", raw("simlex999.txt"))
    columns = {"text": 0, "pair": 1, "label": 2, "classes": {"far": "<5", "near": ">=5"}}

    found = volume.read(uri, format="csv", delimiter="\t", header=False, columns=columns)

    assert len(found) == 999
    assert found[0][1:4] == ("old", "new", "far")
