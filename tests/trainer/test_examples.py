"""Examples: what each task's model reads, token by token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lmops.api.dataset import Dataset
from lmops.api.model import ModelSpec
from lmops.api.trainingjob import TrainingSettings
from lmops_trainer.data.configs import ModelConfig
from lmops_trainer.data.examples import (
    block_examples,
    classification_examples,
    examples,
    sentence_pair_examples,
    text_examples,
)
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sentences import sentences
from lmops_trainer.data.tokenizers import tokenizer
from lmops_trainer.failures import Refusal
from volumes import Volume, ids, raw, told

CLS, SEP = ids("[CLS] [SEP]")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        uri = Volume(tmp_path_factory.mktemp("bert"), patch).bert()
        return tokenizer(ModelSpec.model_validate({"from": {"uri": uri}, "task": "MaskedLM"}), [])


@pytest.fixture(scope="module")
def gpt2() -> Any:
    wanted = {
        "from": {"architecture": {"name": "gpt2"}},
        "tokenizer": {"train": {"vocabularySize": 300}},
        "task": "CausalLM",
    }
    return tokenizer(ModelSpec.model_validate(wanted), ["a"], ModelConfig("gpt2", 1024, None))


def made(
    make: Any, rows: Iterable[Row], tokenizer: Any, max_length: int, labels: Iterable[str] = (), **dataset: Any
) -> list[dict[str, Any]]:
    """Examples one by one."""
    declared = Dataset.model_validate({"train": {"uri": "pvc://data/x"}, **dataset})
    found: list[dict[str, Any]] = []
    for batch in make(rows, tokenizer, declared, TrainingSettings(), max_length, list(labels)):
        columns = {name: values.to_pylist() for name, values in batch.items()}
        found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return found


def test_a_row_to_classify_is_its_tokens_and_the_number_of_its_class(bert):
    rows = [Row(7, "the film is good", label="x"), Row(9, "bad !", label="b")]

    assert made(classification_examples, rows, bert, 16, ["b", "x"]) == [
        {"input_ids": ids("[CLS] the film is good [SEP]"), "length": 6, "row": 7, "label": 1, "truncated": False},
        {"input_ids": ids("[CLS] bad ! [SEP]"), "length": 4, "row": 9, "label": 0, "truncated": False},
    ]


def test_a_pair_has_token_types_and_a_row_without_class_has_no_label(bert):
    assert made(classification_examples, [Row(0, "so long", "bad")], bert, 16) == [
        {
            "input_ids": ids("[CLS] so long [SEP] bad [SEP]"),
            "token_type_ids": [0, 0, 0, 0, 1, 1],
            "length": 6,
            "row": 0,
            "truncated": False,
        }
    ]


def test_a_long_text_is_cut_and_counted(bert):
    (example,) = made(classification_examples, [Row(0, "one two three four five six")], bert, 6)

    assert example == {"input_ids": ids("[CLS] one two three four [SEP]"), "length": 6, "row": 0, "truncated": True}


def test_of_a_long_pair_the_longer_text_gives_way(bert):
    rows = [Row(0, "one two three four five six", "good film"), Row(1, "good film", "one two three four five six")]

    first, second = made(classification_examples, rows, bert, 9)

    assert first["input_ids"] == ids("[CLS] one two three four [SEP] good film [SEP]")
    assert second["input_ids"] == ids("[CLS] good film [SEP] one two three four [SEP]")
    assert first["token_type_ids"] == [0] * 6 + [1] * 3


def test_windows_overlap_by_an_eighth_and_keep_their_row(bert):
    text = " ".join(["one two three four five six a the"] * 3)

    found = made(classification_examples, [Row(5, text)], bert, 18, longTexts="Windows")

    bodies = [example["input_ids"][1:-1] for example in found]
    assert [len(body) for body in bodies] == [16, 10]
    assert bodies[0] + bodies[1][2:] == ids(text)
    assert bodies[0][-2:] == bodies[1][:2]
    assert [(example["row"], example["truncated"]) for example in found] == [(5, False), (5, False)]


def test_windows_of_a_pair_go_over_its_longer_text(bert):
    text = "one two three four five six"

    found = made(classification_examples, [Row(0, text, "good")], bert, 8, longTexts="Windows")

    assert [example["input_ids"] for example in found] == [
        ids("[CLS] one two three four [SEP] good [SEP]"),
        ids("[CLS] five six [SEP] good [SEP]"),
    ]


@pytest.mark.parametrize("make", [classification_examples, block_examples, text_examples, sentence_pair_examples])
def test_a_long_text_is_refused_where_that_was_asked(bert, make):
    rows = [Row(0, "good film"), Row(7, "one two three four five six a the", file="r.csv", line=12)]

    with pytest.raises(Refusal) as refusal:
        made(make, rows, bert, 6, longTexts="Refuse")

    length = 10 if make is classification_examples else 8
    assert told(refusal) == (
        "Data",
        "TextTooLong",
        f"The text of row 7 (r.csv, line 12) has {length} tokens; the limit is 6.",
        "Shorten it, raise dataset.maxLength, or set dataset.longTexts to Truncate or Windows.",
    )


def test_a_causal_model_reads_texts_end_to_end_in_blocks(gpt2):
    end = gpt2.eos_token_id
    a, b, c = (gpt2.convert_tokens_to_ids(letter) for letter in "abc")

    found = made(block_examples, [Row(0, "abc"), Row(3, "ba"), Row(4, "cc")], gpt2, 4)

    assert [(example["input_ids"], example["row"]) for example in found] == [
        ([a, b, c, end], 0),
        ([b, a, end, c], 3),
        ([c, end], 4),
    ]
    assert [example["length"] for example in found] == [4, 4, 2]


def test_without_packing_each_text_is_read_in_chunks(gpt2):
    end = gpt2.eos_token_id
    a, b = (gpt2.convert_tokens_to_ids(letter) for letter in "ab")

    found = made(text_examples, [Row(0, "abaab"), Row(3, "b"), Row(4, "abab")], gpt2, 4)

    assert [(example["input_ids"], example["row"]) for example in found] == [
        ([a, b, a, a], 0),
        ([b, end], 0),
        ([b, end], 3),
        ([a, b, a, b], 4),  # the end of text alone would be nothing to predict
    ]


def test_a_masked_model_reads_blocks_in_its_frame(bert):
    rows = [Row(0, "one two three"), Row(1, "four five")]

    packed = made(block_examples, rows, bert, 6)
    single = made(text_examples, rows, bert, 4)

    assert [(example["input_ids"], example["row"]) for example in packed] == [
        (ids("[CLS] one two three [SEP] [SEP]"), 0),
        (ids("[CLS] four five [SEP] [SEP]"), 1),
    ]
    assert [(example["input_ids"], example["row"]) for example in single] == [
        (ids("[CLS] one two [SEP]"), 0),
        (ids("[CLS] three [SEP]"), 0),
        (ids("[CLS] four five [SEP]"), 1),
    ]


def test_blocks_hold_every_token_however_many_batches_there_are(gpt2):
    rows = [Row(i, "ab" * (i % 7)) for i in range(2500)]

    found = made(block_examples, rows, gpt2, 32)

    tokens = [token for example in found for token in example["input_ids"]]
    assert gpt2.decode(tokens).split(gpt2.eos_token) == [*(row.text for row in rows), ""]
    assert {example["length"] for example in found[:-1]} == {32}


DOCUMENTS = [
    Row(10 + i, f"{word} film . the {word} film is good . a {word} film is bad ! it was {word} .")
    for i, word in enumerate(["one", "two", "three", "four", "five", "six", "so", "very"])
]


def test_half_of_the_sentence_pairs_are_neighbours_and_half_are_strangers(bert):
    found = made(sentence_pair_examples, DOCUMENTS, bert, 16)

    labels = [example["label"] for example in found]
    assert abs(labels.count(0) - labels.count(1)) <= 1
    flat = {row.number: [token for part in sentences(row.text) for token in ids(part)] for row in DOCUMENTS}
    for example in found:
        tokens, types = example["input_ids"], example["token_type_ids"]
        middle = tokens.index(SEP)
        a, b = tokens[1:middle], tokens[middle + 1 : -1]
        assert (tokens[0], tokens[-1], len(tokens)) == (CLS, SEP, example["length"])
        assert types == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert len(tokens) <= 16
        assert a, "no part of a pair is empty"
        assert b, "no part of a pair is empty"
        if example["label"] == 1:
            assert not contains(flat[example["row"]], b) or not distinct(b)


def contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole)))


def distinct(part: list[int]) -> bool:
    """Whether a word in it tells its document."""
    return bool(set(part) & set(ids("one two three four five six so very")))


def test_sentence_pairs_are_the_same_for_the_same_seed(bert):
    assert made(sentence_pair_examples, DOCUMENTS, bert, 16) == made(sentence_pair_examples, DOCUMENTS, bert, 16)


def test_a_single_document_has_no_stranger(bert):
    with pytest.raises(Refusal) as refusal:
        made(sentence_pair_examples, DOCUMENTS[:1], bert, 16)

    assert refusal.value.reason == "TooFewDocuments"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one line\nanother. line", ["one line", "another. line"]),
        ('He left. "Why?" she asked. It rained!', ["He left.", '"Why?" she asked.', "It rained!"]),
        ("J. Smith met Dr. Brown at 4.30 p.m. today. Well.", ["J. Smith met Dr. Brown at 4.30 p.m. today.", "Well."]),
        ("服务很好。房间干净！“真的？”他问。没有标点", ["服务很好。", "房间干净！", "“真的？”", "他问。", "没有标点"]),
        ("all small . but split ! so", ["all small .", "but split !", "so"]),
        ("no end", ["no end"]),
    ],
)  # fmt: skip
def test_a_document_is_split_into_sentences(text, parts):
    assert sentences(text) == parts


def test_each_task_has_its_examples():
    def of(task: str, packing: bool = True) -> Any:
        return examples(task, TrainingSettings(packing=packing))

    assert of("SequenceClassification") is classification_examples
    assert (of("CausalLM"), of("CausalLM", False)) == (block_examples, text_examples)
    assert (of("MaskedLM"), of("MaskedLM", False)) == (block_examples, text_examples)
    assert of("BertPreTraining") is sentence_pair_examples


def test_real_documents_become_balanced_pairs(bert):
    texts = Path(raw("lee_background.cor")).read_text("utf-8").splitlines()

    found = made(sentence_pair_examples, [Row(i, text) for i, text in enumerate(texts)], bert, 128)

    strangers = sum(example["label"] for example in found)
    assert abs(strangers / len(found) - 0.5) < 0.02
    assert sum(example["length"] for example in found) / len(found) > 100
