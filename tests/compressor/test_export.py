"""An exported graph scores as the model does, at any size, with its layers named after the modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2ForSequenceClassification

import compressed
import tuned
from lmops_compressor import graph
from lmops_compressor.export import export
from lmops_compressor.methods import layers
from lmops_compressor.rows import Rows
from lmops_compressor.runners import format_of, opened, weights
from lmops_compressor.runners.onnx import OnnxRunner
from lmops_compressor.source import Source
from lmops_trainer import models
from lmops_trainer.endings import Stop
from lmops_trainer.failures import Refusal
from lmops_trainer.heads import attentions
from runs import TINY, tokenizer


def arrays(rows: Rows) -> list[dict[str, np.ndarray]]:
    """The batches as a runner is given them."""
    return [{name: values.numpy() for name, values in batch.items()} for _, batch in rows.batches()]


def torch_logits(source: Source, batch: dict[str, np.ndarray]) -> np.ndarray:
    model = source.model()
    with torch.no_grad():
        return model(**{k: torch.from_numpy(v) for k, v in batch.items() if k in models.inputs(model)}).logits.numpy()


def test_a_classifier_scores_as_in_torch(bert: Source, tmp_path: Path):
    model = bert.model()
    before = {name: values.clone() for name, values in model.state_dict().items()}

    export(model, bert.task, tmp_path)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert format_of(tmp_path) == "onnx"
    assert weights(tmp_path) == pytest.approx(sum(v.nbytes for v in model.parameters()), rel=0.01)
    runner = opened(tmp_path, bert.task, threads=1)
    for batch in [*arrays(tuned.reviews(bert, 24)), *arrays(tuned.reviews(bert, 1))]:
        np.testing.assert_allclose(runner.logits(batch), torch_logits(bert, batch), rtol=0, atol=1e-4)
    found = ir.load(tmp_path / "model.onnx").graph
    assert len(graph.matmuls(found, list(layers(model, [])))) == 12
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_causal_classifier_looks_at_what_came_before_alone(tmp_path: Path):
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    model = GPT2ForSequenceClassification(config).eval()
    ids, mask = torch.randint(1, 64, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    ids[1, 6:], mask[1, 6:] = 0, 0
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits.numpy()
        hidden = model.base_model(input_ids=ids, attention_mask=mask)[0].numpy()

    export(model, "SequenceClassification", tmp_path)

    runner = OnnxRunner(tmp_path, 1)
    scores, found = runner.outputs({"input_ids": ids.numpy(), "attention_mask": mask.numpy()}, ["logits", "hidden"])
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5)
    inside = mask.numpy() > 0
    np.testing.assert_allclose(found[inside], hidden[inside], rtol=0, atol=1e-5)


def test_a_language_model_scores_as_in_torch_and_its_tied_table_is_stored_once(gpt2: Source, tmp_path: Path):
    model = gpt2.model()

    export(model, gpt2.task, tmp_path)

    assert weights(tmp_path) == pytest.approx(sum(v.nbytes for v in model.parameters()), rel=0.05)
    runner = OnnxRunner(tmp_path, 1)
    rows = compressed.news(gpt2, 3)
    rows.examples[1]["input_ids"] = rows.examples[1]["input_ids"][:20]
    [batch] = arrays(rows)
    got, want = runner.logits(batch), torch_logits(gpt2, batch)
    inside = batch["attention_mask"] > 0
    np.testing.assert_allclose(got[inside], want[inside], rtol=0, atol=1e-4)
    one = {"input_ids": batch["input_ids"][:1, :1]}
    one["attention_mask"] = np.ones_like(one["input_ids"])
    np.testing.assert_allclose(runner.logits(one), torch_logits(gpt2, one), rtol=0, atol=1e-4)
    found = ir.load(tmp_path / "model.onnx").graph
    assert len(graph.matmuls(found, list(layers(model, [])))) == 8
    assert list(graph.heads(found)) == ["lm_head"]


def test_greedy_tokens_are_those_of_transformers_with_and_without_the_cache(gpt2: Source, tmp_path: Path):
    model = gpt2.model()
    prompt = np.asarray([example["input_ids"][:12] for example in compressed.news(gpt2, 2).examples])
    want = model.generate(torch.from_numpy(prompt), max_new_tokens=32, min_new_tokens=32, do_sample=False)  # type: ignore[operator]
    export(model, gpt2.task, tmp_path)

    runner = OnnxRunner(tmp_path, 1)

    assert runner.generate(prompt, 32).tolist() == want[:, 12:].tolist()
    assert runner.generate(prompt, 32, cached=False).tolist() == want[:, 12:].tolist()


def test_a_language_model_whose_blocks_have_fewer_heads_writes_as_in_torch(gpt2: Source, tmp_path: Path):
    model = gpt2.model()
    left = [attention.heads - gone for attention, gone in zip(attentions(model), (1, 2), strict=True)]
    for attention, heads in zip(attentions(model), left, strict=True):
        attention.keep(range(heads))
    model.config.lmops_pruned_heads = [1, 2]
    prompt = np.asarray([example["input_ids"][:12] for example in compressed.news(gpt2, 2).examples])
    want = model.generate(torch.from_numpy(prompt), max_new_tokens=16, min_new_tokens=16, do_sample=False)  # type: ignore[operator]

    export(model, gpt2.task, tmp_path)

    runner = OnnxRunner(tmp_path, 1)
    assert [runner.empty(1)[f"past_key_values.{block}.key"].shape[1] for block in (0, 1)] == left
    assert runner.generate(prompt, 16).tolist() == want[:, 12:].tolist()


def test_who_is_told_to_stop_while_a_model_is_exported_stops(bert: Source, tmp_path: Path):
    model = bert.model()

    def told(*_: object) -> None:
        raise Stop("SIGTERM")

    next(iter(layers(model, []).values())).register_forward_hook(told)

    with pytest.raises(Stop):
        export(model, bert.task, tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_masked_language_model_scores_as_in_torch_and_its_tied_table_is_stored_once(tmp_path: Path):
    torch.manual_seed(1)
    config = {name: json.loads(str(value)) for name, value in TINY.items()} | {"initializer_range": 0.5}
    model = BertForMaskedLM(BertConfig(vocab_size=300, **config)).eval()
    tokenizer().save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    source = Source("pvc://data/mlm", tmp_path / "model", "MaskedLM", [], 32, {})

    export(source.model(), "MaskedLM", tmp_path)

    ids = np.arange(5, 20).reshape(1, 15)
    for batch in (
        {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        {"input_ids": ids, "attention_mask": (ids < 15) * 1},
    ):
        np.testing.assert_allclose(
            OnnxRunner(tmp_path, 1).logits(batch), torch_logits(source, batch), rtol=0, atol=1e-4
        )
    found = ir.load(tmp_path / "model.onnx").graph
    assert len(graph.tables(found)) == 3
    assert len(graph.heads(found)) == 1


def test_a_graph_that_is_cut_short_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x3a")

    with pytest.raises(Refusal, match=r"model\.onnx cannot be loaded") as refused:
        OnnxRunner(tmp_path, 1)

    assert (refused.value.class_, refused.value.reason) == ("Model", "ModelUnreadable")
