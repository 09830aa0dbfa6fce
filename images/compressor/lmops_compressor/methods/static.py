"""Static: int8 weights, and activations in int8 with the range that calibration has seen (ONNX Runtime)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import graph
from lmops_compressor.int8 import counted, quantize_tables, quantized_weight
from lmops_compressor.methods import Subject, Tell, quantizable
from lmops_compressor.rows import Draw, Rows
from lmops_compressor.runners.onnx import OnnxRunner
from lmops_trainer.failures import Refusal

Range = tuple[float, float]
REDUCED = ("ReduceMin", "ReduceMax")


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Linear layers and embeddings become int8, in the standard's own nodes, which any runtime reads."""
    names, rows = list(quantizable(subject.model, how)), draw()
    if not len(rows):
        raise Refusal(
            "Data",
            "NoRows",
            "Static needs rows to calibrate with, and there are none.",
            "Name some in calibration.from.",
        )
    with graph.exported(subject, target) as path:
        tell(0.4)
        model = ir.load(path)
        nodes = [*graph.matmuls(model.graph, names).values(), *graph.heads(model.graph).values()]
        seen = ranges(
            path,
            [str(node.inputs[0].name) for node in nodes if node.inputs[0]],
            rows,
            lambda share: tell(0.4 + share / 2),
        )
        graph.release()
        activations: dict[str, ir.Value] = {}
        for node in nodes:
            _between(model.graph, node, seen, activations)
        embedded = quantize_tables(model.graph)
        done = graph.write(model, target)
    return counted(how, names, embedded, done.graph)


def ranges(path: Path, values: list[str], rows: Rows, tell: Tell) -> dict[str, Range]:
    """The least and the greatest that each value of the graph has been on these rows, padding included."""
    model = ir.load(path)
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    probed = list(dict.fromkeys(values))
    names: list[str] = []
    for name in probed:
        for kind in REDUCED:
            node = ir.node(kind, [by_name[name]], {"keepdims": 0}, name=f"{name}_{kind}")
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = (
                node.name,
                by_name[name].type,
                ir.Shape([]),
            )
            names.append(f"{name}_{kind}")
            model.graph.append(node)
            model.graph.outputs.append(node.outputs[0])
    ir.save(model, path)  # the weights stay where they are
    del model, by_name
    runner, done = OnnxRunner(path.parent, threads=torch.get_num_threads()), 0
    lows, highs = np.full(len(probed), np.inf), np.full(len(probed), -np.inf)
    for chosen, batch in rows.batches():
        found = np.asarray(runner.outputs({k: v.numpy() for k, v in batch.items()}, names))
        lows, highs = np.minimum(lows, found[::2]), np.maximum(highs, found[1::2])
        done += len(chosen)
        tell(done / len(rows))
    return dict(zip(probed, zip(lows.tolist(), highs.tolist(), strict=True), strict=True))


def _between(found: ir.Graph, node: ir.Node, seen: dict[str, Range], activations: dict[str, ir.Value]) -> None:
    """The same product, of values that have gone through int8. What several layers read goes through once."""
    given, weight = node.inputs
    assert given is not None
    assert weight is not None
    name = str(given.name)
    if name not in activations:
        scale, zero = _affine(found, name, seen[name])
        steps = ir.node("QuantizeLinear", [given, scale, zero], name=f"{name}_quantize")
        floats = ir.node("DequantizeLinear", [steps.outputs[0], scale, zero], name=f"{name}_dequantize")
        found.insert_before(node, [steps, floats])
        activations[name] = floats.outputs[0]
    parts = quantized_weight(found, weight)
    floats = ir.node("DequantizeLinear", parts, {"axis": 1}, name=f"{weight.name}_dequantize")
    product = ir.node("MatMul", [activations[name], floats.outputs[0]], name=f"{node.name}_int8")
    graph.replace(found, node, [floats, product])


def _affine(found: ir.Graph, name: str, seen: Range) -> tuple[ir.Value, ir.Value]:
    """The scale and the zero point by which 0..255 spans the range and 0 itself."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    return (
        graph.constant(found, f"{name}_scale", ir.tensor(np.float32(scale))),
        graph.constant(found, f"{name}_zero_point", ir.tensor(np.uint8(np.clip(round(-low / scale), 0, 255)))),
    )
