"""The graph that a method changes: where its layers and its tables are, and how many of them it has really changed."""

from __future__ import annotations

import ctypes
import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from lmops_compressor.export import DATA, FILE, export
from lmops_compressor.methods import Subject
from lmops_compressor.runners.onnx import OnnxRunner
from lmops_trainer.failures import Refusal


@contextmanager
def exported(subject: Subject, target: Path) -> Iterator[Path]:
    """The graph in fp32, in a folder of its own beside `target`.

    Of the model in `subject` only the shapes are left: its weights are on the disk now, and once is enough.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = export(subject.model, subject.source.task, Path(folder))
        subject.model.to("meta")  # type: ignore[arg-type]
        release()
        yield path


def release() -> None:
    """Gives back to the system what was freed: glibc keeps blocks of a few MiB, as most weights are, for itself."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def matmuls(graph: ir.Graph, names: Sequence[str]) -> dict[str, ir.Node]:
    """The nodes of these layers; a sentence where one has not become a MatMul with a constant weight."""
    found = {}
    for node in graph:
        weight = node.inputs[1].name if node.op_type == "MatMul" and node.inputs[1] is not None else None
        if weight in graph.initializers:
            found[str(weight).removesuffix(".weight")] = node
    lost = [name for name in names if name not in found]
    if lost:
        raise Refusal(
            "Model",
            "LayersNotFound",
            f"{len(lost)} layers of this architecture are no plain matrix products in ONNX, among them {lost[0]}.",
            "Name them in exclude, or take another method.",
        )
    return {name: found[name] for name in names}


def heads(graph: ir.Graph) -> dict[str, ir.Node]:
    """The nodes that score a vocabulary with the very table that embeds it: one constant, so one width of bits."""
    tied = {value.name for _, value in tables(graph)}
    return {
        str(node.inputs[1].name).removesuffix(".weight"): node
        for node in graph
        if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].name in tied
    }


def tables(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """The nodes that look rows up in a table of floats, and the table."""
    found = []
    for node in graph:
        value = node.inputs[0] if node.op_type == "Gather" else None
        if value is None or value.name not in graph.initializers or value.dtype != ir.DataType.FLOAT:
            continue
        if len(value.shape or ()) == 2:
            found.append((node, value))
    return found


def constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A constant of the graph; one that has this name already is taken for the same."""
    if name not in graph.initializers:
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape([int(size) for size in tensor.shape.numpy()])
        graph.register_initializer(ir.Value(name=name, const_value=tensor, type=kind, shape=shape))
    return graph.initializers[name]


def replace(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Puts nodes in the place of one; the last gives what it gave."""
    before, after = old.outputs[0], new[-1].outputs[0]
    name = before.name
    after.shape, after.type = before.shape, before.type
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, [before], [after])
    after.name = name


def write(model: ir.Model, target: Path) -> ir.Model:
    """Saves the graph and the constants that it still uses, and opens again what it has saved, as its runtime will."""
    common.RemoveUnusedNodesPass()(model)
    ir.save(model, target / FILE, external_data=DATA)
    _tried(target)
    return ir.load(target / FILE)


def _tried(folder: Path) -> None:
    """Has the runtime read two tokens: what it cannot run is told here, by the method, and not as a broken file."""
    two = {"input_ids": np.zeros((1, 2), np.int64), "attention_mask": np.ones((1, 2), np.int64)}
    try:
        OnnxRunner(folder, 1).logits(two)
    except Exception as error:  # the runtime has a class of its own for each of a dozen faults
        cause = error.__cause__ or error
        raise Refusal(
            "Model",
            "GraphNotRun",
            f"ONNX Runtime does not run the graph that was made of this model: {str(cause).splitlines()[0][:300]}",
            "Take another method for this architecture.",
        ) from error
