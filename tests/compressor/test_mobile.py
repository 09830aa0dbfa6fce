"""Mobile: a program that the ExecuTorch runtime opens and runs, and that says what the model says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import compressed
import tuned
from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor.methods import mobile
from lmops_compressor.rows import Rows
from lmops_compressor.runners import format_of, opened, weights
from lmops_compressor.runners.executorch import ExecutorchRunner
from lmops_compressor.runners.torch import TorchRunner
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal
from volumes import told

pytestmark = pytest.mark.slow
EXCLUDED = "bert.encoder.layer.1.output.dense"


@dataclass(frozen=True)
class Made:
    """A program, and what it was made of."""

    source: Source
    rows: Rows
    folder: Path
    change: Change


def made(source: Source, rows: Rows, target: Path, **settings: Any) -> Made:
    how = Quantize.model_validate({"method": "Mobile", **settings})
    return Made(
        source, rows, target, mobile.quantize(compressed.subject(source), how, lambda: rows, target, lambda _: None)
    )


@pytest.fixture(scope="module")
def classifier(bert: Source, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The fine-tuned BERT, but for the last product."""
    rows = tuned.reviews(bert, 60, skip=2000)
    return made(bert, rows, tmp_path_factory.mktemp("pte"), exclude=[EXCLUDED])


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A trained GPT-2 of two layers."""
    source = tuned.language_model(tmp_path_factory.mktemp("gpt2"))
    return made(source, compressed.news(source, 12), tmp_path_factory.mktemp("pte"))


def compared(one: Made) -> tuple[float, float]:
    """The cosine of the scores of program and model, over all tokens there are, and the share of equal answers.

    What is common to all answers is taken off before: it would make any two alike.
    """
    ours, theirs = opened(one.folder, one.source.task, 1), TorchRunner(one.source.folder, one.source.task, 1)
    said, meant = [], []
    for _, tensors in one.rows.batches():
        batch = {name: values.numpy() for name, values in tensors.items() if name != "labels"}
        scores = ours.logits(batch), theirs.logits(batch)
        assert scores[0].shape == scores[1].shape
        there = slice(None) if scores[0].ndim == 2 else batch["attention_mask"].astype(bool)
        said.append(scores[0][there])
        meant.append(scores[1][there])
    x, y = np.concatenate(said), np.concatenate(meant)
    agreed = float((x.argmax(-1) == y.argmax(-1)).mean())
    x, y = x - y.mean(0), y - y.mean(0)
    alike = float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    smaller = weights(one.source.folder) / weights(one.folder)
    print(f"cosine {alike:.5f}, agreement {agreed:.3f}, {smaller:.2f} times smaller; {one.change.detail}")
    return alike, agreed


def test_a_bert_becomes_a_program_that_says_the_same_in_a_quarter_of_the_bytes(classifier: Made) -> None:
    assert [file.name for file in classifier.folder.iterdir()] == ["model.pte"]
    assert format_of(classifier.folder) == "executorch"
    assert classifier.change.layers == 11 + 3
    assert classifier.change.detail.startswith("int8 weights in 11 linear layers and 3 embeddings; XNNPACK runs ")

    alike, agreed = compared(classifier)
    assert alike > 0.995
    assert agreed >= 0.95
    left = 384 * 1536 + 384 * 384  # the layer that was excluded, and the pooler, stay fp32
    assert weights(classifier.folder) < (weights(classifier.source.folder) - 4 * left) / 3.7 + 4 * left


def test_a_gpt2_becomes_a_program_that_goes_on_with_the_same_words(writer: Made) -> None:
    assert writer.change.layers == 2 * 4 + 1 + 2

    alike, agreed = compared(writer)
    assert alike > 0.995
    assert agreed >= 0.95


def test_a_masked_language_model_fills_the_same_words(classifier: Made, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96, initializer_range=0.2
    )
    folder, target = tmp_path / "bert", tmp_path / "pte"
    BertForMaskedLM(config).save_pretrained(folder)
    classifier.source.tokenizer().save_pretrained(folder)
    target.mkdir()
    source = Source("pvc://data/masked", folder, "MaskedLM", [], 32, {})
    found = made(source, tuned.reviews(source, 12), target)

    alike, agreed = compared(found)
    assert found.change.layers == 6 + 1 + 3
    assert alike > 0.995
    assert agreed >= 0.9


def test_a_row_has_the_same_scores_whatever_it_is_padded_to_and_whoever_is_beside_it(classifier: Made) -> None:
    runner = ExecutorchRunner(classifier.folder, 1)
    ids = np.asarray([[101, 2023, 2003, 2204, 102, 0, 0], [101, 2919, 2143, 1012, 2053, 2066, 102]])
    both = runner.logits({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    alone = runner.logits({"input_ids": ids[:1, :5], "attention_mask": np.ones((1, 5), np.int64)})

    assert both.shape == (2, 2)
    np.testing.assert_array_equal(both[:1], alone)


def test_a_row_may_have_one_token_and_no_more_than_the_model_was_made_for(writer: Made) -> None:
    runner = ExecutorchRunner(writer.folder, 1)
    batch = {"input_ids": np.asarray([[7]]), "attention_mask": np.asarray([[1]])}
    theirs = TorchRunner(writer.source.folder, "CausalLM", 1).logits(batch)
    np.testing.assert_allclose(runner.logits(batch), theirs, atol=0.1 * np.abs(theirs).max())

    assert runner.longest == writer.source.max_length == 64
    with pytest.raises(Refusal) as refusal:
        runner.logits({"input_ids": np.ones((1, 65), np.int64), "attention_mask": np.ones((1, 65), np.int64)})
    assert told(refusal)[:3] == (
        "Data",
        "RowTooLong",
        "A row has 65 tokens; the ExecuTorch program takes 64 at most.",
    )


def test_a_program_that_says_something_else_is_found_out(
    writer: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ExecutorchRunner.logits
    monkeypatch.setattr(ExecutorchRunner, "logits", lambda self, batch: said(self, batch)[:, ::-1])

    with pytest.raises(Refusal, match="says something other than the model: it is off by"):
        made(writer.source, writer.rows, tmp_path)


def test_an_exclusion_that_fits_no_layer_is_refused(classifier: Made, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no layer is called '\*\.layer\.99\.\*'"):
        made(classifier.source, classifier.rows, tmp_path, exclude=["*.layer.99.*"])


def test_a_library_that_finds_no_layer_to_quantize_is_found_out(
    writer: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmops_compressor.program._layer", lambda _: "none")

    with pytest.raises(Refusal, match="Mobile 8 bit should have changed 11 layers, and has changed 2"):
        made(writer.source, writer.rows, tmp_path)
    assert list(tmp_path.iterdir()) == []
