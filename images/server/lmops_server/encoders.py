"""Encoders, loaded: texts that have become tokens go in many at a time, and each gets its scores or its embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from lmops_compressor.runners import Array
from lmops_server.batcher import Room
from lmops_server.opened import Opened
from lmops_server.packed import pack
from lmops_trainer import models
from lmops_trainer.inference import LOGITS, TOKENS, pooled
from lmops_trainer.tasks.batches import padded

ROWS = 64
"""The most rows of a pass."""
PLACED = 8
"""Of how many rows of users in a pass one is told where it lies: the oldest first."""
QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""What makes 8 bits of activations; the second by one scale for all rows of a batch."""


class Example(NamedTuple):
    """One input of the model."""

    ids: list[int]
    types: list[int] | None
    """The part of a pair that each token is of."""
    embed: bool = False
    """Whether its embedding is wanted, and not its scores."""
    probes: bool = False
    """Whether a gate asks it: where it lies says nothing of users."""


class Encoder(Protocol):
    """A loaded encoder."""

    room: Room
    workers: int
    """Passes that may run at once."""
    embeds: bool
    """Whether it tells embeddings."""
    placed: Callable[[Array], None] | None
    """Told the embeddings of a few examples of each pass, by an encoder that has embeddings."""

    def __call__(self, examples: Sequence[Example]) -> list[Array]:
        """Of each example: [classes], or [masks, vocabulary], or [width]."""


def encoder(opened: Opened, threads: int) -> Encoder:
    """Loads what was opened with its engine."""
    pad, mask = _special(opened)
    if opened.engine == "ONNX":
        return _Graph(opened, threads, pad, mask)
    return _Module(opened, threads, pad, mask)


class _Module:
    """A model of transformers: one pass at a time, on all processors or the accelerator."""

    workers = 1
    embeds = True
    placed: Callable[[Array], None] | None = None

    def __init__(self, opened: Opened, threads: int, pad: int, mask: int | None) -> None:
        torch.set_num_threads(threads)
        model = models.load(opened.folder, opened.task, trust_remote_code=opened.trust_remote_code)
        self._model = model.to(opened.device)  # type: ignore[arg-type]
        pack(model)
        self._inputs = models.inputs(self._model)
        self._pad, self._mask = pad, mask
        self._scored = opened.task != models.BODY
        self._hidden: list[torch.Tensor] = []
        model.base_model.register_forward_hook(lambda _, __, output: self._hidden.append(output[0]))
        self.room = _room(TOKENS[opened.device], model.config.vocab_size if opened.task == "MaskedLM" else None)

    @torch.inference_mode()
    def __call__(self, examples: Sequence[Example]) -> list[Array]:
        batch = padded([_columns(example, "token_type_ids" in self._inputs) for example in examples], self._pad)
        given = {
            name: torch.from_numpy(values).to(self._model.device)
            for name, values in batch.items()
            if name in self._inputs
        }
        self._hidden.clear()
        found = self._model(**given)
        scores = found["logits"].float().cpu().numpy() if self._scored else None
        hidden = self._hidden.pop()
        _tell(self.placed, hidden, examples)
        embeddings = pooled(hidden, given["attention_mask"]) if any(e.embed for e in examples) else None
        return _answers(examples, batch, scores, embeddings, self._mask)


class _Graph:
    """A graph of ONNX Runtime.

    Where it computes in 8 bits, rows go through it one by one, as many at once as there are processors: such graphs
    gain nothing by batches, and where there is one scale for a batch, an answer would depend on what others ask.
    """

    placed: Callable[[Array], None] | None = None

    def __init__(self, opened: Opened, threads: int, pad: int, mask: int | None) -> None:
        from lmops_compressor.runners.onnx import HIDDEN, OnnxRunner

        self._alone = _holds(opened, QUANTIZERS)
        self._runner = OnnxRunner(opened.folder, 1 if self._alone else threads)
        self._pad, self._mask, self._hidden = pad, mask, HIDDEN
        self.embeds = HIDDEN in self._runner.gives
        self.workers = threads if self._alone else 1
        self.room = _room(TOKENS["cpu"], None)
        if self._alone:
            self.room = Room(1, self.room.tokens)

    def __call__(self, examples: Sequence[Example]) -> list[Array]:
        batch = padded([_columns(example, True) for example in examples], self._pad)
        embed = any(example.embed for example in examples)
        if not (embed or (self.placed and self.embeds)):
            return _answers(examples, batch, self._runner.logits(batch), None, self._mask)
        scored = not all(example.embed for example in examples)
        found, *more = self._runner.outputs(batch, [self._hidden, *(["logits"] if scored else [])])
        hidden = torch.from_numpy(found)
        _tell(self.placed, hidden, examples)
        embeddings = pooled(hidden, torch.from_numpy(batch["attention_mask"])) if embed else None
        return _answers(examples, batch, next(iter(more), None), embeddings, self._mask)


def _tell(placed: Callable[[Array], None] | None, hidden: torch.Tensor, examples: Sequence[Example]) -> None:
    """Where a few of the rows of a pass lie that users have sent."""
    if placed is None:
        return
    for row in [row for row, example in enumerate(examples) if not example.probes][::PLACED]:
        placed(hidden[row, : len(examples[row].ids)].mean(dim=0).float().cpu().numpy())


def _answers(
    examples: Sequence[Example],
    batch: Mapping[str, Array],
    scores: Array | None,
    embeddings: Array | None,
    mask: int | None,
) -> list[Array]:
    found: list[Array] = []
    for row, example in enumerate(examples):
        if example.embed:
            assert embeddings is not None
            found.append(embeddings[row])
        else:
            assert scores is not None
            found.append(scores[row] if scores.ndim == 2 else scores[row][batch["input_ids"][row] == mask])
    return found


def _columns(example: Example, types: bool) -> dict[str, Any]:
    if not types:
        return {"input_ids": example.ids}
    return {"input_ids": example.ids, "token_type_ids": example.types or [0] * len(example.ids)}


def _room(tokens: int, vocabulary: int | None) -> Room:
    return Room(ROWS, tokens if vocabulary is None else max(1, min(tokens, LOGITS // vocabulary)))


def _special(opened: Opened) -> tuple[int, int | None]:
    tokenizer = opened.tokenizer()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad or 0), tokenizer.mask_token_id


def _holds(opened: Opened, operators: set[str]) -> bool:
    """Whether the graph has a node of these kinds; its weights are not read."""
    import onnx

    graph = onnx.load(next(opened.folder.glob("*.onnx")), load_external_data=False).graph
    return any(node.op_type in operators for node in graph.node)
