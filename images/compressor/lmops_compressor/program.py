"""A model becomes a program of ExecuTorch: traced, quantized in its graph, and lowered to XNNPACK."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from transformers import PreTrainedModel

from lmops_compressor.runners.executorch import INPUTS, LONGEST
from lmops_trainer.failures import Refusal

TOKENS = 8
"""Of the row that is traced; another number above one does as well."""
PREFIX = "model."
"""What the wrapper puts before the names of layers."""
aten = torch.ops.aten
WEIGHT = "dequantize_per_channel"
"""The operation after which a weight is a number again: XNNPACK takes it together with the product."""


class Scores(nn.Module):
    """A model as a function of its inputs by place, as a program is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[1, classes], or [1, length, vocabulary]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids, attention_mask=attention_mask, **types)["logits"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Counted:
    """What is int8 in a graph."""

    linears: int
    embeddings: int
    tables: int
    """Embeddings that there are."""


@dataclass(frozen=True)
class Lowered:
    """A program, and what of it runs in XNNPACK."""

    content: bytes
    delegated: int
    """Operations that XNNPACK runs."""
    operations: int
    left: int
    """Weights that XNNPACK did not take, and that would be made floats at each call."""


def traced(model: PreTrainedModel, inputs: int, longest: int) -> GraphModule:
    """The graph of one row of 1 to `longest` tokens. Attention in plain products: XNNPACK knows these."""
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    with _quiet():
        try:
            return _exported(Scores(model).eval(), inputs, longest).module()  # type: ignore[no-any-return]
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # torch.export has no base class
            raise Refusal(
                "Model",
                "NotExported",
                f"{type(model).__name__} cannot be made a program of ExecuTorch: torch.export does not follow it.",
                "Take another method for this architecture.",
                str(error).splitlines(),
            ) from error


def quantized(graph: GraphModule, chosen: set[str]) -> GraphModule:
    """The graph with int8 weights in the layers of these names and in every embedding."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.composable_quantizer import ComposableQuantizer
    from torchao.quantization.pt2e.quantizer.embedding_quantizer import EmbeddingQuantizer

    class Linears(XNNPACKQuantizer):  # type: ignore[misc]
        """Leaves scalars alone: as floats they would no longer index tensors (pytorch/executorch#22062)."""

        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            return model

    linears = Linears().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    linears.set_filter_function(lambda node: _layer(node) in chosen)
    with _quiet():
        prepared = prepare_pt2e(graph, ComposableQuantizer([EmbeddingQuantizer(), linears]))
        prepared(*_row(sum(node.op == "placeholder" for node in graph.graph.nodes)))
        return convert_pt2e(prepared)  # type: ignore[no-any-return]


def counted(graph: GraphModule) -> Counted:
    """Counts the weights that are stored as bytes, by what uses them."""
    weights = [node for node in _calls(graph) if WEIGHT in str(node.target) and _is_bytes(graph, node.args[0])]
    users = [user.target for node in weights for user in node.users]
    return Counted(
        linears=users.count(aten.linear.default),
        embeddings=users.count(aten.embedding.default),
        tables=sum(node.target == aten.embedding.default for node in _calls(graph)),
    )


def lowered(graph: GraphModule, inputs: int, longest: int) -> Lowered:
    """The program: what XNNPACK can run is a part of its own, embeddings are looked up in bytes, the rest is plain."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes.quant_fusion_pass import QuantFusionPass

    with _quiet():
        edge = to_edge_transform_and_lower(
            _exported(graph, inputs, longest),
            partitioner=[XnnpackPartitioner()],
            constant_methods={LONGEST: longest},
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        # counted before memory is planned, which names operations otherwise
        shares = get_delegation_info(edge.exported_program().graph_module)
        made = edge.to_executorch(ExecutorchBackendConfig(passes=[QuantFusionPass(_fix_node_meta_val=True)]))
    return Lowered(
        made.buffer,
        delegated=shares.num_delegated_nodes,
        operations=shares.num_delegated_nodes + shares.num_non_delegated_nodes,
        left=sum(WEIGHT in str(node.target) for node in _calls(made.exported_program().graph_module)),
    )


def _exported(module: nn.Module, inputs: int, longest: int) -> Any:
    length = torch.export.Dim("length", min=1, max=longest)
    shapes = tuple({1: length} for _ in range(inputs))
    return torch.export.export(module, _row(inputs), dynamic_shapes=shapes, strict=False)


def _row(inputs: int) -> tuple[torch.Tensor, ...]:
    """A row of full length: of its tokens, its mask and its types, only the last is zero."""
    return tuple(torch.full((1, TOKENS), int(name != "token_type_ids")) for name in INPUTS[:inputs])


def _layer(node: Node) -> str:
    """The layer that an operation comes from."""
    path = next(reversed(node.meta["nn_module_stack"].values()))[0]
    return str(path).removeprefix("L['self'].").removeprefix(PREFIX)


def _calls(graph: GraphModule) -> Iterator[Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")


def _is_bytes(graph: GraphModule, node: Any) -> bool:
    stored = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
    return isinstance(stored, torch.Tensor) and stored.dtype in (torch.int8, torch.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries say of their own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
