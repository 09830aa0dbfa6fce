"""What each ONNX method writes opens in ONNX Runtime, is as small as it should be, and agrees with the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

import compressed
import subjects
import tuned
from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import blocks, methods
from lmops_compressor.export import export
from lmops_compressor.methods.mixed_precision import allocated
from lmops_compressor.rows import Rows
from lmops_compressor.runners import weights
from lmops_compressor.runners.onnx import OnnxRunner
from lmops_compressor.source import Source
from lmops_trainer import models
from lmops_trainer.failures import Refusal


@dataclass(frozen=True)
class Made:
    """What a method has written."""

    change: Change
    folder: Path
    graph: ir.Graph
    told: list[float]

    @property
    def runner(self) -> OnnxRunner:
        return OnnxRunner(self.folder, 1)


def made(source: Source, folder: Path, rows: Rows | None = None, **how: Any) -> Made:
    """The model, quantized."""
    told: list[float] = []
    target = folder / "quantized"
    target.mkdir()
    settings, drawn = Quantize.model_validate(how), rows or few(source)
    change = methods.quantizer(settings.method).quantize(
        compressed.subject(source), settings, lambda: drawn, target, told.append
    )
    assert sorted(file.name for file in folder.iterdir()) == ["quantized"]
    return Made(change, target, ir.load(target / "model.onnx").graph, told)


def few(source: Source, count: int = 24) -> Rows:
    """Rows that calibrate, and with which the model was trained."""
    return compressed.news(source, count) if source.task == "CausalLM" else tuned.reviews(source, count)


def held_out(source: Source) -> Rows:
    """Rows of which the model has seen none; of those with a class half are good and half are bad."""
    if source.task == "CausalLM":
        return compressed.rows(source, list(compressed.news(source, 504).examples[480:]))
    return tuned.reviews(source, 100, skip=2000)


def smaller(source: Source, of: Made) -> float:
    """How many times smaller than the weights in fp32."""
    return weights(source.folder) / weights(of.folder)


def agreement(source: Source, of: Made) -> float:
    """The share of predictions that are those of the model in fp32, which itself does not always say one thing."""
    model, same, said = source.model(), [], []
    for _, batch in held_out(source).batches():
        with torch.no_grad():
            before = model(**{k: v for k, v in batch.items() if k in models.inputs(model)}).logits.numpy()
        after = of.runner.logits({name: values.numpy() for name, values in batch.items()})
        same.append((before.argmax(-1) == after.argmax(-1)).ravel())
        said.append(before.argmax(-1).ravel())
    found, most = float(np.concatenate(same).mean()), np.bincount(np.concatenate(said)).max() / sum(map(len, said))
    print(f"{of.change.step}: {found:.3f} are the same, {most:.3f} would be if it always said one thing")
    assert most < 0.9
    return found


def operators(found: ir.Graph, kind: str) -> int:
    return sum(node.op_type == kind for node in found)


@pytest.fixture(scope="module")
def dynamic_gpt2(gpt2: Source, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(gpt2, tmp_path_factory.mktemp("made"), method="Dynamic")


def test_dynamic_makes_int8_of_every_layer_and_embedding_of_a_bert(bert: Source, tmp_path: Path):
    found = made(bert, tmp_path, method="Dynamic")

    assert found.change == Change(step="Dynamic 8 bit", layers=12, detail="int8 weights in 12 layers and 3 embeddings")
    assert operators(found.graph, "QuantizeLinear") == operators(found.graph, "ReduceMax") == 8  # four in each of two
    assert smaller(bert, found) > 3.5
    assert agreement(bert, found) >= 0.95


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration rows, as the tool of ONNX Runtime wants them."""

    def __init__(self, rows: Rows, names: list[str]) -> None:
        self._batches = (
            {name: batch.get(name, torch.zeros_like(batch["input_ids"])).numpy() for name in names}
            for _, batch in rows.batches()
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@pytest.mark.parametrize(("method", "share"), [("Dynamic", 0.8), ("Static", 1 / 6)])
def test_int8_is_nearer_to_a_real_bert_than_the_tool_that_one_would_call_by_hand(
    method: str, share: float, tmp_path: Path
):
    """With one range for all channels Static is at a quarter, and not at an eighth."""
    subject, rows = subjects.minilm(tmp_path)
    plain, tool, ours = (tmp_path / name for name in ("plain", "tool", "ours"))
    for folder in (plain, tool, ours):
        folder.mkdir()
    path = export(subject.model, subject.source.task, plain)
    kinds: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gather"], "per_channel": True}
    if method == "Dynamic":
        quantize_dynamic(path, tool / "model.onnx", **kinds)
    else:
        reader = Reader(rows, [str(value.name) for value in ir.load(path).graph.inputs])
        quantize_static(path, tool / "model.onnx", reader, **kinds)
    methods.quantizer(method).quantize(subject, Quantize(method=method), lambda: rows, ours, lambda _: None)

    _, batch = next(rows.batches())
    values = {name: tensor.numpy() for name, tensor in batch.items()}
    scores, by_hand, by_us = (OnnxRunner(folder, 1).logits(values) for folder in (plain, tool, ours))
    far, near = (float(np.abs(found - scores).mean()) for found in (by_hand, by_us))
    print(f"mean difference of the scores: {far:.4f} by hand, {near:.4f} by {method}")
    assert 0 < near < share * far


def test_dynamic_answers_a_row_whatever_else_is_in_its_batch(bert: Source, tmp_path: Path):
    runner = made(bert, tmp_path, method="Dynamic").runner
    ids = np.asarray([example["input_ids"][:12] for example in tuned.reviews(bert, 64).examples
                      if len(example["input_ids"]) >= 12])  # fmt: skip
    together = runner.logits({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    alone = [runner.logits({"input_ids": row[None], "attention_mask": np.ones_like(row[None])}) for row in ids]

    assert len(ids) > 10
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_an_int8_gpt2_writes_the_same_256_tokens_with_and_without_its_cache(gpt2: Source, dynamic_gpt2: Made):
    found = dynamic_gpt2

    assert found.change == Change(step="Dynamic 8 bit", layers=8, detail="int8 weights in 8 layers and 2 embeddings")
    assert smaller(gpt2, found) > 3.5
    assert agreement(gpt2, found) >= 0.95
    prompt = np.asarray([example["input_ids"][:12] for example in compressed.news(gpt2, 2).examples])
    assert found.runner.generate(prompt, 256).tolist() == found.runner.generate(prompt, 256, cached=False).tolist()


def test_static_calibrates_on_the_rows(bert: Source, tmp_path: Path):
    found = made(bert, tmp_path, method="Static", rows=tuned.reviews(bert, 64))

    assert found.change == Change(step="Static 8 bit", layers=12, detail="int8 weights in 12 layers and 3 embeddings")
    assert operators(found.graph, "MatMulInteger") == operators(found.graph, "DynamicQuantizeLinear") == 0
    assert found.told == sorted(found.told)
    assert smaller(bert, found) > 3.5
    assert agreement(bert, found) >= 0.95


def test_static_makes_a_gpt2_that_agrees(gpt2: Source, tmp_path: Path):
    found = made(gpt2, tmp_path, method="Static")

    assert found.change.layers == 8
    assert smaller(gpt2, found) > 3.5
    assert agreement(gpt2, found) >= 0.95


@pytest.mark.parametrize(("bits", "size", "ratio", "same"), [(4, 32, 5.5, 0.95), (8, 64, 3.3, 0.97)])
def test_weight_only_packs_layers_and_the_tied_table_once(
    gpt2: Source, tmp_path: Path, bits: int, size: int, ratio: float, same: float
):
    found = made(gpt2, tmp_path, method="WeightOnly", bits=bits, groupSize=size)

    assert found.change == Change(
        step=f"WeightOnly {bits} bit", layers=8, detail=f"{bits} bit in groups of {size} in 8 layers and 2 embeddings"
    )
    assert operators(found.graph, "MatMulNBits") == 9
    assert operators(found.graph, "GatherBlockQuantized") == 2
    assert smaller(gpt2, found) > ratio
    assert agreement(gpt2, found) >= same


@pytest.mark.parametrize("method", ["WeightOnly", "MixedPrecision"])
@pytest.mark.parametrize(("width", "size"), [(80, 32), (48, 32), (64, 128)])
def test_a_tied_table_whose_rows_are_no_whole_groups_is_packed_too(tmp_path: Path, method: str, width: int, size: int):
    odd = compressed.untrained(tmp_path / "odd", n_embd=width)
    (tmp_path / "made").mkdir()

    found = made(odd, tmp_path / "made", method=method, groupSize=size, bits=8)

    assert found.change.layers == 4
    assert operators(found.graph, "MatMulNBits") == 5
    assert operators(found.graph, "GatherBlockQuantized") == 2
    assert agreement(odd, found) >= 0.95


def test_weight_only_leaves_out_what_is_excluded(bert: Source, tmp_path: Path):
    found = made(bert, tmp_path, method="WeightOnly", exclude=["*.layer.0.*", "*.attention.self.query"])

    packed = blocks.counts(found.graph)
    assert found.change.layers == len(packed) == 12 - 6 - 1
    assert not [name for name in packed if ".layer.0." in name or name.endswith(".query")]
    kept = found.graph.initializers["bert.encoder.layer.1.attention.self.query.weight"].const_value
    assert kept is not None
    want = bert.model().get_submodule("bert.encoder.layer.1.attention.self.query").weight.T.detach().numpy()
    assert np.array_equal(kept.numpy(), want)


def test_mixed_precision_gives_the_bits_to_the_layers_that_need_them(gpt2: Source, tmp_path: Path):
    found = made(gpt2, tmp_path, method="MixedPrecision", bits=7, choices=[4, 8, 16], rows=compressed.news(gpt2, 6))

    sizes = {name: layer.weight.numel() for name, layer in methods.layers(gpt2.model(), []).items()}
    packed = {name: bits for name, bits in blocks.counts(found.graph).items() if name in sizes}
    halves = [name for name in sizes if f"{name}.weight_fp16" in found.graph.initializers]
    bits = packed | dict.fromkeys(halves, 16)
    average = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert found.change.layers == len(bits) == 8
    assert 6.5 < average <= 7
    assert found.change.detail.startswith(f"{average:.2f} bit on average: ")
    assert agreement(gpt2, found) >= 0.95


def test_bits_go_where_a_bit_takes_most_divergence_away():
    found = {"a": {4: 0.5, 8: 0.1}, "b": {4: 0.4, 8: 0.0}, "c": {4: 0.01, 8: 0.0}}

    assert allocated(found, {"a": 10, "b": 10, "c": 10}, [4, 8], 4) == {"a": 4, "b": 4, "c": 4}
    assert allocated(found, {"a": 10, "b": 10, "c": 10}, [4, 8], 6) == {"a": 8, "b": 4, "c": 4}
    assert allocated(found, {"a": 20, "b": 10, "c": 10}, [4, 8], 6) == {"a": 4, "b": 8, "c": 8}
    assert allocated(found, {"a": 10, "b": 10, "c": 10}, [4, 8, 16], 16) == {"a": 16, "b": 16, "c": 16}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_rounded_as_the_runtime_reads_it(bits: int, tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(96, 24)).astype(np.float32)
    given, table = (
        ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([96, 96])),
        ir.tensor(values, name="w"),
    )
    weight = ir.Value(name="w", const_value=table, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([96, 24]))
    node = ir.node("MatMul", [given, weight], name="n")
    node.outputs[0].name, node.outputs[0].type = "logits", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [given], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20, blocks.DOMAIN: 1}
    )
    blocks.quantize_layer(graph, node, bits, 32)
    next(iter(graph)).attributes.pop("accuracy_level")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")

    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [read] = session.run(None, {"x": np.eye(96, dtype=np.float32)})
    np.testing.assert_allclose(read, blocks.rounded(values, bits, 32), rtol=0, atol=1e-6)


def test_a_graph_that_the_runtime_cannot_run_is_told_by_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def torn(*given: Any) -> tuple[Any, ...]:
        steps, scales, zeros = packed(*given)
        return steps[:, :1], scales, zeros

    packed = blocks.packed
    monkeypatch.setattr(blocks, "packed", torn)

    with pytest.raises(Refusal, match="ONNX Runtime does not run the graph that was made of this model: ") as refused:
        made(compressed.untrained(tmp_path / "model", n_embd=64), tmp_path, method="WeightOnly")

    assert (refused.value.class_, refused.value.reason) == ("Model", "GraphNotRun")


@pytest.mark.parametrize(
    ("how", "reason", "message"),
    [
        ({"method": "Dynamic", "exclude": ["bert.encoder.layer.9.*"]}, "LayerUnknown", "no layer is called"),
        ({"method": "Static", "exclude": ["*.nothing"]}, "LayerUnknown", "no layer is called"),
        (
            {"method": "Dynamic", "exclude": ["*"]},
            "NothingToQuantize",
            "finds no layer to quantize: exclude names all of them",
        ),
        ({"method": "MixedPrecision", "bits": 3}, "TooFewBits", "An average of 3 bits cannot be had"),
        ({"method": "MixedPrecision", "choices": [8, 8, 8], "bits": 8}, "OneChoice", "choices names one number"),
    ],
)
def test_settings_that_no_model_can_meet_are_refused_in_a_sentence(
    bert: Source, tmp_path: Path, how: dict[str, Any], reason: str, message: str
):
    with pytest.raises(Refusal, match=message) as refused:
        made(bert, tmp_path, **how)

    assert refused.value.reason == reason
