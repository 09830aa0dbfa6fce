"""int8 as ONNX Runtime has it: each output of a layer, and each row of a table of embeddings, has a scale of its own.

Weights are rounded as `onnxruntime.quantization` rounds them, one at a time: that tool holds the whole model several
times over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor.graph import constant, replace, tables
from lmops_compressor.methods import unchanged
from lmops_compressor.runners import Array

Number = np.number[Any]
Parts = tuple[ir.Value, ir.Value, ir.Value]
"""A tensor in int8: its values, scales and zero points."""


def quantized_weight(graph: ir.Graph, weight: ir.Value, axis: int = 1, times: Array | None = None) -> Parts:
    """The weight of a layer ([inputs, outputs]) with a scale per output, or a table with one per row (axis 0).

    `times`, [inputs]: what the inputs were divided by.
    """
    name = weight.name
    assert weight.const_value is not None
    values = weight.const_value.numpy()
    if times is not None:
        values = values * times[:, None]
    scales = np.maximum(np.abs(values).max(1 - axis), np.finfo(np.float32).tiny) / np.float32(127)
    steps = np.rint(values / np.expand_dims(scales, 1 - axis)).astype(np.int8)
    return (
        constant(graph, f"{name}_quantized", ir.tensor(steps)),
        constant(graph, f"{name}_scale", ir.tensor(scales.astype(np.float32))),
        constant(graph, f"{name}_zero_point", ir.tensor(np.zeros(len(scales), np.int8))),
    )


def through(graph: ir.Graph, before: ir.Node, given: ir.Value, name: str, affine: tuple[Number, Number]) -> ir.Value:
    """An activation that has gone through int8, with this scale and zero point, which are called after `name`."""
    parts = zip(("scale", "zero_point"), affine, strict=True)
    constants = [constant(graph, f"{name}_{part}", ir.tensor(value)) for part, value in parts]
    steps = ir.node("QuantizeLinear", [given, *constants])
    floats = ir.node("DequantizeLinear", [steps.outputs[0], *constants])
    graph.insert_before(before, [steps, floats])
    return floats.outputs[0]


def dequantized_product(
    graph: ir.Graph, node: ir.Node, given: ir.Value, times: Array | None = None
) -> tuple[ir.Node, ir.Node]:
    """The nodes that multiply what has gone through int8 by the layer's weight in int8: the runtime makes one of them.

    `times`, [inputs]: what the inputs were divided by.
    """
    weight = node.inputs[1]
    assert weight is not None
    parts = quantized_weight(graph, weight, times=times)
    floats = ir.node("DequantizeLinear", parts, {"axis": 1}, name=f"{weight.name}_dequantize")
    return floats, ir.node("MatMul", [given, floats.outputs[0]], name=f"{node.name}_int8")


def quantize_tables(graph: ir.Graph) -> int:
    """Makes int8 of every table of floats and returns how many there were; those that score too have been already."""
    found = tables(graph)
    for node, table in found:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if axis == 0:
            quantized_weight(graph, table, axis)
        replace(graph, node, _lookup(graph, node, str(table.name), axis))
    return len(found)


def counted(how: Quantize, names: list[str], embedded: int, found: ir.Graph) -> Change:
    """What the graph that was written really holds."""
    step = f"{how.method} {how.weight_bits:g} bit"
    used = {str(value.name) for node in found for value in node.inputs if value is not None}
    weights = {name for name, value in found.initializers.items() if value.dtype == ir.DataType.INT8 and name in used}
    changed = sum(f"{name}.weight_quantized" in weights and f"{name}.weight" not in used for name in names)
    if changed != len(names) or not names:
        raise unchanged(step, len(names), changed)
    if left := tables(found):
        raise unchanged(f"{step}, of the embeddings,", embedded, embedded - len(left))
    return Change(step=step, layers=changed, detail=f"int8 weights in {changed} layers and {embedded} embeddings")


def _lookup(graph: ir.Graph, node: ir.Node, name: str, axis: int) -> list[ir.Node]:
    """Rows times their scales. A table that lies on its side (axis 1) gives columns, and its scales come in front."""
    ids = node.inputs[1]
    place = constant(graph, "first_axis" if axis else "last_axis", ir.tensor(np.array([0 if axis else -1], np.int64)))
    taken = ir.node("Gather", [graph.initializers[f"{name}_quantized"], ids], {"axis": axis})
    floats = ir.node("Cast", [taken.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Gather", [graph.initializers[f"{name}_scale"], ids], {"axis": 0})
    wide = ir.node("Unsqueeze", [scales.outputs[0], place])
    return [taken, floats, scales, wide, ir.node("Mul", [floats.outputs[0], wide.outputs[0]], name=f"{node.name}_int8")]
