"""A model of transformers becomes an ONNX graph in which every linear layer is a MatMul named after its module.

The weight of layer `a.b` is the constant `a.b.weight`, [inputs, outputs], whatever the exporter has made of it; that is
what the methods find layers by. A table that embeds and scores alike (tied weights) stays one constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import nn
from torch.export import Dim
from transformers import DynamicCache, PreTrainedModel

from lmops_compressor.linearize import delinearize, linearize
from lmops_compressor.runners.onnx import HIDDEN
from lmops_trainer import models
from lmops_trainer.failures import Refusal
from lmops_trainer.heads import removed

FILE, DATA = "model.onnx", "model.onnx.data"
ROWS, LENGTH, PAST = 2, 3, 5
"""Of the example: three sizes above 1 that differ, so that none is taken for another or for a constant."""
PREFIX = "model."
"""What the wrapper puts before each name."""


def export(model: PreTrainedModel, task: str, folder: Path) -> Path:
    """Writes the graph, its weights beside it, and returns its path; the model is as it was afterwards.

    Inputs are `input_ids` and `attention_mask` (and `token_type_ids` where the model has them), int64 of any [rows,
    length]; the outputs are `logits` and, of an encoder, `hidden`, its last hidden state. A CausalLM also takes
    `past_key_values.N.key` and `.value`, [rows, heads, past, width], which may be empty, and gives `present.N.key` and
    `.value`; its mask is over past and present.
    """
    attention = model.config._attn_implementation
    linearize(model, views=True).set_attn_implementation("eager")
    path = folder / FILE
    try:
        graph = _traced(model, _Decoder if task == "CausalLM" else _Encoder)
        finish(graph)
        ir.save(graph, path, external_data=DATA)
        del graph
    finally:
        model.set_attn_implementation(attention)
        delinearize(model)
    return path


def finish(model: ir.Model) -> None:
    """Names and turns the weights, and takes out what can be computed beforehand."""
    for value in list(model.graph.initializers.values()):
        if value.name and value.name.startswith(PREFIX):
            value.name = value.name.removeprefix(PREFIX)
    _turn(model.graph)
    optimizer.fold_constants(model)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.ClearMetadataAndDocStringPass(),  # a stack trace for each node, longer than the weights of a small model
    ):
        step(model)


class _Encoder(nn.Module):
    """A model with its scores and its last hidden state, and the mask as attention adds it: the model's own way of
    making that traces into far more nodes."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.causal = any(getattr(module, "is_causal", False) for module in model.modules())
        known = models.inputs(model)
        self.inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in known]
        self.outputs = ["logits", HIDDEN]

    def example(self) -> tuple[list[torch.Tensor], list[dict[int, str]]]:
        """Tensors to trace with, and the names of their dimensions."""
        ones = [torch.ones(ROWS, LENGTH, dtype=torch.int64) for _ in self.inputs]  # one tensor would be one input
        return ones, [{0: "rows", 1: "length"}] * len(self.inputs)

    def forward(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        given = dict(zip(self.inputs, values, strict=True))
        seen = given["attention_mask"][:, None, None, :] > 0
        if self.causal:
            places = torch.arange(seen.shape[-1], device=seen.device)
            seen = seen & (places <= places[:, None])
        given["attention_mask"] = _added(seen)
        hidden: list[torch.Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda _, __, output: hidden.append(output[0]))
        try:
            return [self.model(**given).logits, hidden[0]]
        finally:
            hook.remove()


class _Decoder(nn.Module):
    """A language model with its key-value cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        config = model.config.get_text_config(decoder=True)
        self.layers = config.num_hidden_layers
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.heads = [heads - gone for gone in removed(config) or [0] * self.layers]
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        parts = [f"{number}.{part}" for number in range(self.layers) for part in ("key", "value")]
        self.inputs = ["input_ids", "attention_mask", *(f"past_key_values.{part}" for part in parts)]
        self.outputs = ["logits", *(f"present.{part}" for part in parts)]

    def example(self) -> tuple[list[torch.Tensor], list[dict[int, str]]]:
        ids, mask = (torch.ones(ROWS, length, dtype=torch.int64) for length in (LENGTH, PAST + LENGTH))
        past = [torch.zeros(ROWS, heads, PAST, self.width) for heads in self.heads for _ in ("key", "value")]
        names = [{0: "rows", 1: "length"}, {0: "rows", 1: "total"}, *({0: "rows", 2: "past"} for _ in past)]
        return [ids, mask, *past], names

    def forward(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        ids, mask, *past = values
        before, length = past[0].shape[2], ids.shape[1]
        places = torch.arange(length, device=ids.device) + before
        seen = torch.arange(before + length, device=ids.device) <= places[:, None]
        cache = DynamicCache(tuple(zip(past[::2], past[1::2], strict=True)))
        found = self.model(
            input_ids=ids,
            attention_mask=_added(seen & (mask[:, None, None, :] > 0)),
            position_ids=places[None],
            past_key_values=cache,
            use_cache=True,
        )
        present = [part for layer in found.past_key_values.layers for part in (layer.keys, layer.values)]
        return [found.logits, *present]


def _added(seen: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of attention: nothing where a token is seen."""
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


@torch.no_grad()
def _traced(model: PreTrainedModel, kind: type[_Encoder] | type[_Decoder]) -> ir.Model:
    wrapped = kind(model).eval()
    values, names = wrapped.example()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapped,
                (values,),
                input_names=wrapped.inputs,
                output_names=wrapped.outputs,
                dynamic_shapes=([dict.fromkeys(named, Dim.DYNAMIC) for named in names],),
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        cause = error.__cause__ or error  # the exporter's own words are advice for those who develop it
        lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        raise Refusal(
            "Model",
            "NotExported",
            f"{type(model).__name__} cannot be turned into an ONNX graph: {lines[0][:300]}",
            "Take a method that is not one of ONNX Runtime, or a model like BERT or GPT-2.",
            lines[:20],
        ) from error
    assert program is not None
    found: ir.Model = program.model
    _dimensions(found.graph.inputs, names)
    return found


def _dimensions(inputs: Sequence[ir.Value], names: Sequence[Mapping[int, str]]) -> None:
    """Dimensions are called what they are."""
    for value, named in zip(inputs, names, strict=True):
        assert value.shape is not None
        value.shape = ir.Shape([named.get(place, size) for place, size in enumerate(value.shape)])


def _turn(graph: ir.Graph) -> None:
    """Takes the Transpose between each weight and its MatMul out of the graph, by turning the weight itself."""
    turned: set[str] = set()
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or len(weight.shape or ()) != 2:
            continue
        if weight.name not in turned:
            tables = [user for user in weight.consumers() if user.op_type == "Gather"]
            weight.const_value, weight.shape = (
                _transposed(weight.const_value),
                ir.Shape(reversed(list(weight.shape or ()))),
            )
            for table in tables:
                _turned_table(graph, table)
            turned.add(weight.name or "")
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)


def _transposed(tensor: Any) -> ir.LazyTensor:
    """Turned when it is written, one at a time: there is never a second copy of all weights."""
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().T)),
        dtype=tensor.dtype,
        shape=ir.Shape(reversed(list(tensor.shape))),
    )


def _turned_table(graph: ir.Graph, gather: ir.Node) -> None:
    """Takes columns where rows were: the table now lies as the scores over the vocabulary need it."""
    ids, old = gather.inputs[1], gather.outputs[0]
    assert ids is not None
    assert old.shape is not None
    rank, kind = len(old.shape), ir.TensorType(old.dtype or ir.DataType.FLOAT)
    taken = ir.node("Gather", [gather.inputs[0], ids], {"axis": 1}, name=gather.name)
    taken.outputs[0].type = kind
    laid = ir.node("Transpose", [taken.outputs[0]], {"perm": [*range(1, rank), 0]}, name=f"{gather.name}_rows")
    laid.outputs[0].type, laid.outputs[0].shape = kind, old.shape
    ir.convenience.replace_nodes_and_values(graph, gather, [gather], [taken, laid], [old], laid.outputs)
