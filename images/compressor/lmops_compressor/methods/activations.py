"""A statistic of the inputs of each layer, over all rows, gathered one block of the model after the other.

Held at a time are the statistics of one block's layers, and of each row what the next block reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from lmops_compressor.methods import Subject, Tell
from lmops_compressor.methods.masks import matrix
from lmops_compressor.rows import TOKENS, Rows
from lmops_trainer.failures import Refusal
from lmops_trainer.models import inputs

DAMPING = 0.01
"""The share, as SparseGPT and ZipLM have it."""


class Statistic(Protocol):
    """What is kept of a layer's inputs."""

    def add(self, seen: torch.Tensor) -> None:
        """Takes in the inputs of some tokens, [tokens, inputs]."""


S = TypeVar("S", bound=Statistic)


class Norms:
    """The Euclidean norm of each input over all tokens."""

    def __init__(self, width: int) -> None:
        self._squares = torch.zeros(width, dtype=torch.float64)

    def add(self, seen: torch.Tensor) -> None:
        """Takes in the inputs of some tokens, [tokens, inputs]."""
        self._squares = self._squares.to(seen.device) + seen.square().sum(dim=0)

    @property
    def norms(self) -> torch.Tensor:
        """[inputs], fp32."""
        return self._squares.sqrt().float()


class Gram:
    """The products of each two inputs, summed over all tokens, and the sum of each: the Hessian of a layer's error."""

    def __init__(self, width: int) -> None:
        self.products = torch.zeros(width, width)
        """[inputs, inputs]."""
        self.sums = torch.zeros(width)
        """[inputs]."""
        self.tokens = 0

    def add(self, seen: torch.Tensor) -> None:
        """Takes in the inputs of some tokens, [tokens, inputs]."""
        self.products, self.sums = self.products.to(seen.device), self.sums.to(seen.device)
        self.products.addmm_(seen.T, seen)
        self.sums += seen.sum(dim=0)
        self.tokens += len(seen)


def damping(products: torch.Tensor) -> torch.Tensor:
    """What is added to the diagonal of a Hessian so that it has an inverse: a share of its mean."""
    return DAMPING * products.diagonal().double().mean().clamp(min=1e-12)


@dataclass
class _Batch:
    """One batch on its way through the blocks."""

    inside: torch.Tensor
    """True for each token that is no padding, [rows x length]."""
    hidden: torch.Tensor = field(default_factory=torch.Tensor)
    """What the next block reads, [rows, length, width]."""
    beside: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    """What each block is given beside it: masks, shared by all blocks."""


@torch.no_grad()
def through(
    subject: Subject, rows: Rows, layers: Mapping[str, nn.Module], statistic: Callable[[int], S], tell: Tell
) -> Iterator[tuple[str, S]]:
    """Each layer with what has flowed into it, block by block, without padding.

    Whoever prunes a layer before asking for the next has later blocks see what the pruned ones put out.
    """
    model = subject.model
    given = [{name: value.to(model.device) for name, value in batch.items()} for _, batch in rows.batches(TOKENS)]
    stack = blocks(model)
    inside = [_among(layers, block) for block in stack]
    outside = {name: layer for name, layer in layers.items() if not any(name in held for held in inside)}
    if outside:
        with _watched(outside, statistic) as watch:
            for batch in given:
                watch.inside = batch["attention_mask"].flatten().bool()
                _read(model, batch)
        yield from watch.seen.items()
    flows = [_entered(model, stack, batch) for batch in given] if len(outside) < len(layers) else []
    last = max((number for number, held in enumerate(inside) if held), default=-1)
    for number, block in enumerate(stack[: last + 1]):
        if inside[number]:
            with _watched(inside[number], statistic) as watch:
                for flow in flows:
                    watch.inside = flow.inside
                    _passed(block, number, flow)
            yield from watch.seen.items()
        for flow in flows if number < last else []:
            flow.hidden = _passed(block, number, flow)
        tell((number + 1) / (last + 1))


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the encoder or decoder, in order; none where one block stands for several, as ALBERT's does."""
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    longest = max(lists, key=len, default=nn.ModuleList())
    return list(longest) if len(longest) > 1 else []


def _among(layers: Mapping[str, nn.Module], block: nn.Module) -> dict[str, nn.Module]:
    held = set(block.modules())
    return {name: layer for name, layer in layers.items() if layer in held}


class _Watch(Generic[S]):
    def __init__(self, seen: dict[str, S]) -> None:
        self.seen = seen
        self.inside = torch.empty(0)

    def hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            tokens = arguments[0].reshape(-1, arguments[0].shape[-1])
            if len(tokens) != len(self.inside):
                raise Refusal(
                    "Model",
                    "WrongArchitecture",
                    f"{name} does not read one input for each token, so that padding cannot be told from text.",
                    "Take method Magnitude, or exclude the layer.",
                )
            self.seen[name].add(tokens[self.inside])

        return look


@contextmanager
def _watched(layers: Mapping[str, nn.Module], statistic: Callable[[int], S]) -> Iterator[_Watch[S]]:
    watch = _Watch({name: statistic(matrix(layer).shape[1]) for name, layer in layers.items()})
    hooks = [layer.register_forward_pre_hook(watch.hook(name)) for name, layer in layers.items()]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _entered(model: PreTrainedModel, stack: list[nn.Module], batch: Mapping[str, torch.Tensor]) -> _Batch:
    """A batch before the first block, and what the model gives to each block."""
    found = _Batch(batch["attention_mask"].flatten().bool())

    def look(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not found.beside:
            found.hidden = arguments[0]
        found.beside.append((arguments[1:], named))

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in stack]
    try:
        _read(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _passed(block: nn.Module, number: int, flow: _Batch) -> torch.Tensor:
    arguments, named = flow.beside[number]
    found = block(flow.hidden, *arguments, **named)
    return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]


def _read(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> None:
    """One pass without the head, and without the cache of keys and values that a language model would keep."""
    caches = getattr(model.config, "use_cache", False)
    if caches:
        model.config.use_cache = False
    try:
        model.base_model(**{name: batch[name] for name in inputs(model) if name in batch})
    finally:
        if caches:
            model.config.use_cache = caches
