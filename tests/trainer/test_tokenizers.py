"""Tokenizers: the model's own, another one, OpenAI's files, or one trained on the rows; and those that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmops.api.model import ModelSpec
from lmops_trainer.data.configs import ModelConfig, longest, model_config
from lmops_trainer.data.tokenizers import saved, tokenizer
from lmops_trainer.failures import Refusal
from volumes import SPECIAL, WORDS, Volume, ids, raw, told

BERT = ModelConfig("bert", 512, None)
GPT2 = ModelConfig("gpt2", 1024, None)
REVIEWS = ["这个 酒店的服务很好", "The film isn't good!", "unaffable ÄÖ", "a good, good film"] * 3


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(tmp_path, monkeypatch)


def model(task: str = "SequenceClassification", tokenizer: dict[str, Any] | None = None, **origin: Any) -> ModelSpec:
    return ModelSpec.model_validate({"from": origin, "task": task, "tokenizer": tokenizer})


def trained(task: str, config: ModelConfig, texts: list[str], size: int = 400) -> Any:
    wanted = model(task, {"train": {"vocabularySize": size}}, architecture={"name": config.kind})
    return tokenizer(wanted, texts, config)


def test_the_models_own_tokenizer_is_read_and_freed_of_its_lengths(volume):
    uri = volume.bert()
    file = volume.root / "bert/tokenizer.json"
    stored = json.loads(file.read_text()) | {
        "truncation": {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    }
    file.write_text(json.dumps(stored))

    found = tokenizer(model(uri=uri), [])

    assert found.backend_tokenizer.encode("the film is good").ids == ids("[CLS] the film is good [SEP]")
    assert (len(found), found.model_input_names) == (
        len(SPECIAL + WORDS),
        ["input_ids", "token_type_ids", "attention_mask"],
    )


def test_a_trained_wordpiece_makes_one_token_of_a_chinese_character():
    made = trained("MaskedLM", BERT, REVIEWS)

    assert made.tokenize("服务很好 FILM") == ["服", "务", "很", "好", "film"]
    assert made("good", "film")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert made.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    assert made.decode(made("the film")["input_ids"], skip_special_tokens=True) == "the film"


def test_training_a_tokenizer_twice_gives_the_same_one():
    code = (
        "from lmops_trainer.data.tokenizers import _trained\n"
        "texts = [f'{a}{b} {c}' for a in 'abcdefgh' for b in 'xyzuvw' for c in ('one', 'tone', 'stone')]\n"
        "for task in ('BertPreTraining', 'CausalLM', 'MaskedLM'):\n"
        "    made = _trained(120 if task == 'BertPreTraining' else 300, 'x', task, texts)\n"
        "    print(sorted(made.get_vocab().items(), key=lambda item: item[1]))\n"
    )
    told_by = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]

    assert told_by[0].returncode == 0, told_by[0].stderr
    assert told_by[0].stdout == told_by[1].stdout


def test_a_small_vocabulary_keeps_the_frequent_characters_and_its_size():
    texts = [chr(0x4E00 + i) * (600 - i) for i in range(600)]

    made = trained("MaskedLM", BERT, texts, size=300)

    assert len(made) <= 300
    assert made.tokenize(chr(0x4E00)) == [chr(0x4E00)]
    assert made.tokenize(chr(0x4E00 + 599)) == ["[UNK]"]


def test_a_trained_byte_level_tokenizer_reads_anything_back():
    causal, masked = trained("CausalLM", GPT2, REVIEWS), trained("MaskedLM", ModelConfig("roberta", 512, None), REVIEWS)

    for made in (causal, masked):
        assert made.decode(made("naïve 🎬 film\n")["input_ids"], skip_special_tokens=True) == "naïve 🎬 film\n"
    assert (causal.eos_token, causal.pad_token, causal.mask_token) == ("<|endoftext|>", "<|endoftext|>", None)
    assert masked.convert_ids_to_tokens(masked("a")["input_ids"]) == ["<s>", "a", "</s>"]
    assert masked.mask_token == "<mask>"


def test_a_tokenizer_that_puts_nothing_between_two_texts_gets_the_end_of_text_there():
    made = trained("SequenceClassification", GPT2, REVIEWS)

    tokens = made.convert_ids_to_tokens(made("a", "a")["input_ids"])

    assert tokens == ["a", "<|endoftext|>", "a"]
    assert made.convert_ids_to_tokens(made("a")["input_ids"]) == ["a"]


def test_a_saved_tokenizer_is_the_same_again(tmp_path):
    for number, made in enumerate((trained("MaskedLM", BERT, REVIEWS), trained("CausalLM", GPT2, REVIEWS))):
        made.save_pretrained(tmp_path / str(number))

        again = saved(tmp_path / str(number))

        assert (again.get_vocab(), again("a good film", "so")) == (made.get_vocab(), made("a good film", "so"))
        assert again.pad_token == made.pad_token


def test_openais_two_files_are_gpt2s_tokenizer(volume):
    uri = volume.link("gpt2", raw("encoder.json").parent)

    made = tokenizer(model("CausalLM", {"uri": uri}, architecture={"name": "gpt2"}), [], GPT2)

    assert made("Hello world")["input_ids"] == [15496, 995]
    assert (len(made), made.eos_token_id) == (50257, 50256)


def test_more_tokens_than_embeddings_are_refused(volume):
    uri = volume.bert(vocabulary=20)

    with pytest.raises(Refusal) as refusal:
        tokenizer(model(uri=uri), [])

    assert told(refusal) == (
        "Model",
        "TokenizerMismatch",
        f"The tokenizer knows {len(SPECIAL + WORDS)} tokens, and the model has embeddings for 20.",
        "Use the tokenizer that belongs to the model; in an architecture leave vocab_size out.",
    )


def test_a_masked_language_model_needs_a_mask_token(volume):
    trained("CausalLM", GPT2, REVIEWS).save_pretrained(volume.root / "gpt2")

    with pytest.raises(Refusal, match="no mask token, which MaskedLM needs") as refusal:
        tokenizer(model("MaskedLM", uri="pvc://data/gpt2"), [], GPT2)

    assert refusal.value.reason == "TokenizerMismatch"


@pytest.mark.parametrize(
    ("files", "reason", "message"),
    [
        ({}, "ModelMissing", "pvc://data/m is no model: it holds no config.json."),
        (
            {"config.json": "{"},
            "ModelUnreadable",
            "config.json of pvc://data/m is not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1).",
        ),
        ({"config.json": "{}"}, "TokenizerMissing", "pvc://data/m holds no tokenizer."),
    ],
)
def test_a_folder_without_model_or_tokenizer_is_refused(volume, files, reason, message):
    (volume.root / "m").mkdir()
    for name, content in files.items():
        volume.write(f"m/{name}", content)

    with pytest.raises(Refusal) as refusal:
        tokenizer(model(uri="pvc://data/m"), [])

    assert told(refusal)[:3] == ("Model", reason, message)


def test_a_broken_tokenizer_is_refused(volume):
    uri = volume.bert()
    volume.write("bert/tokenizer.json", '{"version": "1.0", "model": {}}')

    with pytest.raises(Refusal, match=r"The tokenizer of pvc://data/bert could not be loaded") as refusal:
        tokenizer(model(uri=uri), [])

    assert refusal.value.reason == "TokenizerUnreadable"


def test_the_window_comes_from_the_configuration(volume):
    folder = model_config(model(uri=volume.bert(window=64)))
    volume.write(
        "r/config.json", json.dumps({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1})
    )
    roberta = model_config(model(uri="pvc://data/r"))
    small = {"name": "gpt2", "config": {"n_positions": 256, "n_embd": 32}}
    architecture = model_config(model("CausalLM", {"train": {}}, architecture=small))

    assert (folder.kind, folder.window) == ("bert", 64)
    assert roberta.window == 512
    assert (architecture.kind, architecture.window, architecture.vocabulary) == ("gpt2", 256, None)
    assert [longest(None, config) for config in (folder, GPT2, ModelConfig("x", None, None))] == [64, 512, 512]
    assert longest(1000, GPT2) == 1000


def test_a_length_above_the_window_is_refused():
    with pytest.raises(Refusal) as refusal:
        longest(600, BERT)

    assert told(refusal)[:3] == (
        "Settings",
        "MaxLengthAboveWindow",
        "dataset.maxLength is 600, and the model reads 512 tokens at the most.",
    )


def test_an_architecture_that_does_not_exist_is_refused():
    with pytest.raises(Refusal) as refusal:
        model_config(model("CausalLM", {"train": {}}, architecture={"name": "gtp2"}))

    assert told(refusal) == (
        "Model",
        "UnknownArchitecture",
        "transformers knows no model type 'gtp2'.",
        "Did you mean 'gpt2'?",
    )
