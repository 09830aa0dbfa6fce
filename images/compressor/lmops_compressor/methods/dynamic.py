"""Dynamic: int8 weights, and activations in int8 with the range that each call brings (ONNX Runtime)."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import graph
from lmops_compressor.int8 import Parts, counted, quantize_tables, quantized_weight
from lmops_compressor.methods import Subject, Tell, quantizable
from lmops_compressor.rows import Draw


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Linear layers and embeddings become int8; no rows are looked at."""
    names = list(quantizable(subject.model, how))
    with graph.exported(subject, target) as path:
        tell(0.5)
        model = ir.load(path)
        activations: dict[ir.Value, Parts] = {}
        for node in [*graph.matmuls(model.graph, names).values(), *graph.heads(model.graph).values()]:
            _integer(model.graph, node, activations)
        embedded = quantize_tables(model.graph)
        done = graph.write(model, target)
    return counted(how, names, embedded, done.graph)


def _integer(found: ir.Graph, node: ir.Node, activations: dict[ir.Value, Parts]) -> None:
    """A product of integers, times both scales. What several layers read is made int8 once."""
    given, weight = node.inputs
    assert given is not None
    assert weight is not None
    if given not in activations:
        made = ir.node("DynamicQuantizeLinear", [given], num_outputs=3, name=f"{weight.name}_activation")
        found.insert_before(node, made)
        activations[given] = made.outputs[0], made.outputs[1], made.outputs[2]
    (steps, scale, zero), (weights, scales, zeros) = activations[given], quantized_weight(found, weight)
    product = ir.node("MatMulInteger", [steps, weights, zero, zeros], name=f"{weight.name}_integer")
    floats = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    both = ir.node("Mul", [scale, scales])
    replace = [product, floats, both, ir.node("Mul", [floats.outputs[0], both.outputs[0]], name=f"{node.name}_int8")]
    graph.replace(found, node, replace)
