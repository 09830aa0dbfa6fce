"""What a model makes of the rows of a split: a prediction or a loss for each, and the figures of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmops_trainer import drift
from lmops_trainer.inference import Collator, Pass, passes, pooled, token_losses
from lmops_trainer.scores import (
    averaged,
    classification_scores,
    cross_entropy,
    language_model_scores,
    next_sentence_scores,
)

Array = np.ndarray[Any, Any]
Report = Callable[[float], None]
"""Told the share of the examples that are done."""


@dataclass(frozen=True)
class Told:
    """The classes of the rows: the true ones, and what the model makes of them."""

    labels: Array
    probabilities: Array
    """Of each class, for each row."""

    @property
    def predictions(self) -> Array:
        """The most probable class of each row."""
        return self.probabilities.argmax(axis=1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scored:
    """The model's answers and their figures."""

    predictions: pa.Table
    """One record for each row; for a language model, for each text as the model read it."""
    metrics: dict[str, float]
    told: Told | None = None
    """For tasks that have classes."""
    seen: drift.Seen | None = None
    """For the same tasks: what was read, and where it lies."""


def classified(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Any,
    rows: pa.Table,
    names: list[str],
    collator: Collator,
    report: Report,
) -> Scored:
    """The class of each row. The windows of one row are averaged to one prediction."""
    positions = _positions(rows, examples)
    glance = _Glance(positions)
    answers = np.zeros((len(examples), len(names)))
    for done in _passes(model, examples, collator, report, over_vocabulary=False):
        answers[done.chosen] = torch.softmax(done.logits.double(), dim=-1).cpu().numpy()
        glance.add(done)
    probabilities = averaged(answers, positions, rows.num_rows)
    index = {name: i for i, name in enumerate(names)}
    told = Told(np.asarray([index[name] for name in rows.column("label").to_pylist()]), probabilities)
    return Scored(
        predictions=_with_classes(rows, names, told),
        metrics=classification_scores(told.labels, told.predictions, probabilities, names),
        told=told,
        seen=glance.seen(tokenizer, examples),
    )


def foretold(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Any,
    collator: Collator,
    report: Report,
    masked: bool,
) -> Scored:
    """The loss of each text as the model read it; of pairs of sentences also whether their order was told rightly."""
    losses, tokens = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)
    told, following = np.full((len(examples), 2), -1, dtype=np.int64), 0.0
    for done in _passes(model, examples, collator, report, over_vocabulary=True):
        losses[done.chosen], tokens[done.chosen] = token_losses(done.logits, done.batch["labels"])
        if done.following is not None:
            order = torch.softmax(done.following.double(), dim=-1).cpu().numpy()
            truth = done.batch["next_sentence_label"].numpy()
            told[done.chosen] = np.stack([truth, order.argmax(axis=1)], axis=1)
            following += cross_entropy(truth, order) * len(truth)
    means = losses / np.maximum(tokens, 1)
    columns = {"loss": means, "tokens": tokens}
    metrics = language_model_scores(means, tokens, masked)
    if (told >= 0).any():
        columns |= {"nextSentence": told[:, 0], "predictedNextSentence": told[:, 1]}
        metrics |= next_sentence_scores(*told.T) | {"loss": metrics["loss"] + following / len(examples)}
    return Scored(_with_losses(tokenizer, examples, columns), metrics)


def _passes(
    model: PreTrainedModel, examples: Any, collator: Collator, report: Report, over_vocabulary: bool
) -> Iterator[Pass]:
    def fetched(chosen: list[int]) -> list[dict[str, Any]]:
        columns = examples[chosen]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    count = 0
    for done in passes(model, _column(examples, "length"), fetched, collator, over_vocabulary):
        yield done
        count += len(done.chosen)
        report(count / len(examples))


class _Glance:
    """What a model sees, gathered batch by batch. Each row counts once, however many windows it is read in."""

    def __init__(self, positions: Array) -> None:
        windows = np.bincount(positions)
        self.weights: Array = 1.0 / windows[positions]
        self._rows = int((windows > 0).sum())
        self._sum: Array | float = 0.0
        self._squares: Array | float = 0.0

    def add(self, done: Pass) -> None:
        weights, embeddings = self.weights[done.chosen, None], pooled(done.hidden, done.batch["attention_mask"])
        self._sum = self._sum + (embeddings * weights).sum(axis=0)
        self._squares = self._squares + (embeddings**2 * weights).sum(axis=0)

    def seen(self, tokenizer: PreTrainedTokenizerBase, examples: Any) -> drift.Seen:
        place = drift.embedding(self._rows, np.asarray(self._sum), np.asarray(self._squares))
        return drift.Seen(_column(examples, "length"), _unknown(tokenizer, examples), place)


def _positions(rows: pa.Table, examples: Any) -> Array:
    """For each example the position of its row."""
    ids = rows.column("row").to_numpy()
    order = np.argsort(ids)
    return order[np.searchsorted(ids, _column(examples, "row"), sorter=order)]


def _column(examples: Any, name: str) -> Array:
    return np.asarray(examples.select_columns([name]).with_format("numpy")[:][name])


def _unknown(tokenizer: PreTrainedTokenizerBase, examples: Any) -> int:
    """How many tokens stand for text that the vocabulary cannot write."""
    unknown = drift.unknown_token(tokenizer)
    if unknown is None:
        return 0
    tables = examples.select_columns(["input_ids"]).with_format("arrow").iter(1_000)
    return sum(
        int((chunk.flatten().to_numpy() == unknown).sum())
        for table in tables
        for chunk in table.column("input_ids").chunks
    )


def _with_classes(rows: pa.Table, names: list[str], told: Told) -> pa.Table:
    kept = [name for name in ("row", "text", "pair", "label") if _is_filled(rows, name)]
    table = rows.select(kept).append_column("prediction", pa.array([names[i] for i in told.predictions]))
    table = table.append_column("confidence", pa.array(told.probabilities.max(axis=1), type=pa.float32()))
    for i, name in enumerate(names):
        table = table.append_column(f"probability:{name}", pa.array(told.probabilities[:, i], type=pa.float32()))
    return table


def _is_filled(rows: pa.Table, name: str) -> bool:
    return name in rows.column_names and rows.column(name).null_count < max(1, rows.num_rows)


def _with_losses(tokenizer: PreTrainedTokenizerBase, examples: Any, figures: dict[str, Array]) -> pa.Table:
    """Blocks hold parts of texts or several of them, so the text is what the tokens say."""
    texts: list[str] = []
    for batch in examples.select_columns(["input_ids"]).iter(1_000):
        texts += tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    return pa.table({"row": _column(examples, "row"), "text": texts, **figures})
