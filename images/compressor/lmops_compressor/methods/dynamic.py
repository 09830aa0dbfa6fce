"""Dynamic: int8 weights, and activations in int8, each token by a scale of its own (ONNX Runtime).

ONNX Runtime's own tool takes one scale for all tokens of a call. One large token then costs all others their bits, and
an answer depends on what else is in its batch. A scale for each token is what ZeroQuant has (Yao et al. 2022). A head
that scores a vocabulary by the table that embeds it has one scale for all all the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import graph
from lmops_compressor.int8 import counted, dequantized_product, quantize_tables, quantized_weight, through
from lmops_compressor.methods import Subject, Tell, quantizable
from lmops_compressor.rows import Draw

Tokens = tuple[ir.Value, ir.Value]
"""An activation that has gone through int8, each token divided by its largest value, and these, [rows, length, 1]."""
STEPS, MIDDLE = np.float32(1 / 127), np.uint8(128)
"""The scale of what lies between -1 and 1, and what stands for 0: ONNX Runtime is slow with signed activations."""


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Linear layers and embeddings become int8; no rows are looked at."""
    names = list(quantizable(subject.model, how))
    with graph.exported(subject, target) as path:
        tell(0.5)
        model = ir.load(path)
        activations: dict[ir.Value, Tokens] = {}
        for node in graph.matmuls(model.graph, names).values():
            _by_token(model.graph, node, activations)
        for node in graph.heads(model.graph).values():
            _head(model.graph, node)
        embedded = quantize_tables(model.graph)
        done = graph.write(model, target)
    return counted(how, names, embedded, done.graph)


def _by_token(found: ir.Graph, node: ir.Node, activations: dict[ir.Value, Tokens]) -> None:
    """The same product, of tokens that have gone through int8. What several layers read goes through once."""
    given = node.inputs[0]
    assert given is not None
    if given not in activations:
        activations[given] = _divided(found, node, given)
    values, largest = activations[given]
    floats, product = dequantized_product(found, node, values)
    graph.replace(found, node, [floats, product, ir.node("Mul", [product.outputs[0], largest])])


def _divided(found: ir.Graph, before: ir.Node, given: ir.Value) -> Tokens:
    sizes = ir.node("Abs", [given])
    last = graph.constant(found, "last_axis", ir.tensor(np.array([-1], np.int64)))
    tiny = graph.constant(found, "tiny", ir.tensor(np.finfo(np.float32).tiny))
    most = ir.node("ReduceMax", [sizes.outputs[0], last], {"keepdims": 1})
    largest = ir.node("Max", [most.outputs[0], tiny])
    divided = ir.node("Div", [given, largest.outputs[0]])
    found.insert_before(before, [sizes, most, largest, divided])
    return through(found, before, divided.outputs[0], "tokens", (STEPS, MIDDLE)), largest.outputs[0]


def _head(found: ir.Graph, node: ir.Node) -> None:
    """The same with one scale for all tokens, which the runtime does in one kernel.

    A second pass over as many scores as there are words would cost a third of the time of a small model, and what a
    head reads has just been normalised: its tokens are alike.
    """
    given, weight = node.inputs
    assert weight is not None
    read = ir.node("DynamicQuantizeLinear", [given], num_outputs=3, name=f"{weight.name}_activation")
    (steps, scale, zero), (weights, scales, zeros) = read.outputs, quantized_weight(found, weight)
    product = ir.node("MatMulInteger", [steps, weights, zero, zeros], name=f"{weight.name}_integer")
    floats = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    both = ir.node("Mul", [scale, scales])
    scores = ir.node("Mul", [floats.outputs[0], both.outputs[0]], name=f"{node.name}_int8")
    graph.replace(found, node, [read, product, floats, both, scores])
