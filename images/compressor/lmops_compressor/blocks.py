"""Weights in 4 or 8 bits, of which each group along the input shares a scale and a zero point (MatMulNBits)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

from lmops_compressor.graph import constant, replace, tables

logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # importing that module has turned on everybody's INFO

Array = np.ndarray[Any, Any]
DOMAIN = "com.microsoft"
INTEGER_PRODUCTS = 4
"""The accuracy level at which the runtime multiplies integers, which is what makes it fast."""


def packed(values: Array, bits: int, size: int) -> tuple[Array, Array, Array]:
    """[inputs, outputs] as ONNX Runtime packs it: steps, scales and zero points, each by output and group."""
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=False, bits=bits)
    steps, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(values))
    return steps, scales, zeros


def rounded(values: Array, bits: int, size: int) -> Array:
    """[inputs, outputs] as it is once it has been packed."""
    steps, scales, zeros = packed(values, bits, size)
    inputs, outputs = values.shape
    groups = scales.shape[1]
    wide, shifts = _unpacked(steps, bits), _unpacked(zeros, bits)[:, :groups, None]
    floats = (wide.astype(np.float32) - shifts) * scales[:, :, None]
    return np.ascontiguousarray(floats.reshape(outputs, -1)[:, :inputs].T)


def quantize_layer(graph: ir.Graph, node: ir.Node, bits: int, size: int) -> None:
    """Makes a MatMul with a constant weight one whose weight is packed."""
    given, weight = node.inputs
    assert weight is not None
    assert weight.const_value is not None
    values = weight.const_value.numpy()
    parts = _stored(graph, str(weight.name), values, bits, size)
    inputs, outputs = values.shape
    made = ir.node(
        "MatMulNBits",
        [given, *parts],
        {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": INTEGER_PRODUCTS},
        domain=DOMAIN,
        name=f"{node.name}_{bits}bit",
    )
    replace(graph, node, [made])


def quantize_embeddings(graph: ir.Graph, bits: int, size: int) -> int:
    """Packs every table of floats; returns how many there were.

    A table that scores too has been packed as the weight of that: its constants serve both.
    """
    found = tables(graph)
    for node, table in found:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        assert table.const_value is not None
        width = int(table.const_value.shape[1 - axis])  # type: ignore[arg-type]
        if axis == 0:
            _stored(graph, str(table.name), table.const_value.numpy().T, bits, size)
        laid = node if axis == 0 else node.outputs[0].consumers()[0]  # packed, the columns of one are rows already
        replace(graph, laid, _lookup(graph, node, table, bits, size, width))
        if laid is not node:
            graph.remove(node, safe=True)
    return len(found)


def counts(graph: ir.Graph) -> dict[str, int]:
    """The bits of each layer that is packed, as the graph has them."""
    found = [node for node in graph if node.op_type == "MatMulNBits"]
    return {str(node.inputs[1].name).rpartition(".weight_")[0]: node.attributes["bits"].as_int() for node in found}  # type: ignore[union-attr]


def _stored(graph: ir.Graph, name: str, values: Array, bits: int, size: int) -> list[ir.Value]:
    parts = zip(("Q", "scales", "zeros"), packed(values, bits, size), strict=True)
    return [constant(graph, f"{name}_{part}{bits}", ir.tensor(stored)) for part, stored in parts]


def _lookup(graph: ir.Graph, node: ir.Node, table: ir.Value, bits: int, size: int, width: int) -> list[ir.Node]:
    """Rows of packed values, where a row is all groups of one output; what fills the last group up is cut off."""
    steps, scales, zeros = (graph.initializers[f"{table.name}_{part}{bits}"] for part in ("Q", "scales", "zeros"))
    filled = -(-width // size) * size
    flat = constant(graph, f"row_{bits}_{filled}", ir.tensor(np.array([-1, filled * bits // 8], np.int64)))
    rows = ir.node("Reshape", [steps, flat])
    taken = ir.node(
        "GatherBlockQuantized",
        [rows.outputs[0], node.inputs[1], scales, zeros],
        {"gather_axis": 0, "quantize_axis": 1, "block_size": size, "bits": bits},
        domain=DOMAIN,
        name=f"{node.name}_{bits}bit",
    )
    if filled == width:
        return [rows, taken]
    bounds = [constant(graph, f"cut_{bound}", ir.tensor(np.array([bound], np.int64))) for bound in (0, width, -1)]
    return [rows, taken, ir.node("Slice", [taken.outputs[0], *bounds], name=f"{node.name}_cut")]


def _unpacked(steps: Array, bits: int) -> Array:
    """One number a byte: of two in a byte the lower half comes first."""
    if bits == 8:
        return steps
    return np.stack([steps & 15, steps >> 4], axis=-1).reshape(*steps.shape[:-1], -1)
