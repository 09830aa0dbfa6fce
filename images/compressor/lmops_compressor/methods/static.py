"""Static: int8 weights, and activations in int8 with the ranges that calibration has seen (ONNX Runtime).

A few channels of an activation are many times larger than all others, and one range for all leaves these few bits.
So each channel is divided by its largest value first, by which its weights are multiplied: SmoothQuant (Xiao et al.
2022) with alpha 1: the weights, with a scale for each output, bear all of the difficulty better than half of it (KL of
a MiniLM, in millinats: 2.0 undivided, 5.3 with alpha 0.5, 0.6 with 1). A channel below the median is given the median's
room, for few rows tell little of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import graph
from lmops_compressor.int8 import counted, dequantized_product, quantize_tables, through
from lmops_compressor.methods import Subject, Tell, quantizable
from lmops_compressor.rows import Draw, Rows
from lmops_compressor.runners import Array
from lmops_compressor.runners.onnx import OnnxRunner
from lmops_trainer.failures import Refusal

REDUCED = ("ReduceMin", "ReduceMax")
TINY = np.finfo(np.float32).tiny
TOKENS = 1024
"""Padded tokens of a batch: what flows through a graph is as large as its weights soon."""
Divided = tuple[ir.Value, Array | None]
"""An activation that has gone through int8, and what each of its channels was divided by."""


class Range(NamedTuple):
    """Of an activation: the least and the greatest that each of its channels has been."""

    low: Array
    high: Array

    def sizes(self) -> Array:
        """What each channel is divided by: its largest value, or the median of those seen where that is more."""
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        usual = np.median(largest[largest > 0]) if largest.any() else 1.0
        return np.maximum(largest, usual).astype(np.float32)

    def affine(self, sizes: Array | float = 1.0) -> tuple[np.float32, np.uint8]:
        """The scale and the zero point by which 0..255 spans 0 and all channels, divided by their sizes."""
        low, high = min((self.low / sizes).min(), 0.0), max((self.high / sizes).max(), 0.0)
        scale = max((high - low) / 255, float(TINY))
        return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))


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
        layers, heads = graph.matmuls(model.graph, names).values(), graph.heads(model.graph).values()
        read = [str(node.inputs[0].name) for node in (*layers, *heads) if node.inputs[0]]
        seen = ranges(path, read, rows, lambda share: tell(0.4 + share / 2))
        graph.release()
        activations: dict[str, Divided] = {}
        for node in layers:
            _between(model.graph, node, seen, activations)
        for node in heads:
            _between(model.graph, node, seen, activations, divide=False)  # the table is for others to look rows up in
        embedded = quantize_tables(model.graph)
        done = graph.write(model, target)
    return counted(how, names, embedded, done.graph)


def ranges(path: Path, values: list[str], rows: Rows, tell: Tell) -> dict[str, Range]:
    """The least and the greatest that each channel of these values has been on these rows, padding included."""
    probed = list(dict.fromkeys(values))
    names = _probe(path, probed)
    runner, done = OnnxRunner(path.parent, threads=torch.get_num_threads(), lean=True), 0
    found: list[Array] | None = None
    for chosen, batch in rows.batches(TOKENS):
        new = runner.outputs({k: v.numpy() for k, v in batch.items()}, names)
        pairs = zip(found or new, new, strict=True)
        found = [(np.maximum if place % 2 else np.minimum)(*pair) for place, pair in enumerate(pairs)]
        done += len(chosen)
        tell(done / len(rows))
    assert found is not None
    return {name: Range(*pair) for name, *pair in zip(probed, found[::2], found[1::2], strict=True)}


def _probe(path: Path, values: list[str]) -> list[str]:
    """Has the graph give the least and the greatest of each channel of these values alone, by the names returned."""
    model = ir.load(path)
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    names = []
    model.graph.outputs.clear()
    for name in values:
        value = by_name[name]
        assert value.shape is not None
        others = ir.tensor(np.arange(len(value.shape) - 1))
        axes = graph.constant(model.graph, f"axes_of_{len(value.shape)}", others)
        for kind in REDUCED:
            node = ir.node(kind, [value, axes], {"keepdims": 0}, name=f"{name}_{kind}")
            channels = node.outputs[0]
            channels.name, channels.type, channels.shape = node.name, value.type, ir.Shape([value.shape[-1]])
            names.append(str(node.name))
            model.graph.append(node)
            model.graph.outputs.append(channels)
    common.RemoveUnusedNodesPass()(model)  # the scores of a vocabulary are large
    ir.save(model, path)  # the weights stay where they are
    return names


def _between(
    found: ir.Graph, node: ir.Node, seen: dict[str, Range], activations: dict[str, Divided], divide: bool = True
) -> None:
    """The same product, of values that have gone through int8. What several layers read goes through once."""
    given = node.inputs[0]
    assert given is not None
    name = str(given.name)
    if name not in activations:
        sizes = seen[name].sizes() if divide else None
        activations[name] = _divided(found, node, given, seen[name], sizes), sizes
    values, sizes = activations[name]
    assert divide or sizes is None, "a head reads what a layer reads"
    graph.replace(found, node, dequantized_product(found, node, values, sizes))


def _divided(found: ir.Graph, before: ir.Node, given: ir.Value, seen: Range, sizes: Array | None) -> ir.Value:
    """An activation that has gone through int8, each channel divided by its size."""
    name = str(given.name)
    if sizes is None:
        return through(found, before, given, name, seen.affine())
    factors = graph.constant(found, f"{name}_factors", ir.tensor(1 / sizes))
    divided = ir.node("Mul", [given, factors])
    found.insert_before(before, divided)
    return through(found, before, divided.outputs[0], name, seen.affine(sizes))
