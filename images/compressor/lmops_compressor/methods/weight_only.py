"""WeightOnly: weights in 4 or 8 bits, of which each group shares a scale; what flows between them stays float."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import blocks, graph
from lmops_compressor.methods import Subject, Tell, quantizable, unchanged
from lmops_compressor.rows import Draw

GROUP = 32
"""Weights that share a scale, unless it is said."""


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Packs linear layers and embeddings; no rows are looked at."""
    names, bits, size = list(quantizable(subject.model, how)), round(how.weight_bits), how.group_size or GROUP
    with graph.exported(subject, target) as path:
        tell(0.5)
        model = ir.load(path)
        nodes = graph.matmuls(model.graph, names)
        for node in [*nodes.values(), *graph.heads(model.graph).values()]:
            blocks.quantize_layer(model.graph, node, bits, size)
        embedded = blocks.quantize_embeddings(model.graph, bits, size)
        model.graph.opset_imports[blocks.DOMAIN] = 1
        done = graph.write(model, target)
    step = f"{how.method} {bits} bit"
    found = blocks.counts(done.graph)
    changed = sum(found.get(name) == bits for name in names)
    if changed != len(names) or not names:
        raise unchanged(step, len(names), changed)
    if left := graph.tables(done.graph):
        raise unchanged(f"{step}, of the embeddings,", embedded, embedded - len(left))
    detail = f"{bits} bit in groups of {size} in {changed} layers and {embedded} embeddings"
    return Change(step=step, layers=changed, detail=detail)
