"""Examples, what a model reads: rows tokenised by the batch, cut or read in windows, packed into blocks, or paired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lmops.api.dataset import Dataset
from lmops.api.trainingjob import TrainingSettings
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sentences import Document, PairBuilder, sentences
from lmops_trainer.data.tokenizers import end_token
from lmops_trainer.failures import Refusal

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

Batch = dict[str, pa.Array]
"""Many examples, column by column: input_ids, length, row, and by task token_type_ids, label, truncated."""
Examples = Callable[
    [Iterable[Row], "PreTrainedTokenizerFast", Dataset, TrainingSettings, int, Sequence[str]], Iterator[Batch]
]

ROWS = 1000
TOKENS_AT_HAND = 1 << 22
"""Tokens of the documents that a random next sentence is drawn from at a time."""


def examples(task: str, training: TrainingSettings) -> Examples:
    """What makes the examples of a task."""
    if task in ("CausalLM", "MaskedLM"):
        return block_examples if training.packing else text_examples
    return sentence_pair_examples if task == "BertPreTraining" else classification_examples


def classification_examples(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerFast,
    dataset: Dataset,
    training: TrainingSettings,
    max_length: int,
    labels: Sequence[str],
) -> Iterator[Batch]:
    """One example a row, or one a window of it; with the number of the row's class where it has one."""
    ids = {name: i for i, name in enumerate(labels)}
    backend = _backend(tokenizer)
    types = "token_type_ids" in tokenizer.model_input_names
    for batch in _batches(rows):
        encoded = backend.encode_batch_fast([row.text if row.pair is None else (row.text, row.pair) for row in batch])
        read: list[tuple[Row, Encoding, bool]] = []
        for row, encoding in zip(batch, encoded, strict=True):
            if len(encoding) <= max_length:
                read.append((row, encoding, False))
            else:
                read.extend(_shortened(row, len(encoding), backend, dataset.long_texts, max_length))
        yield _classification_batch(read, ids, types and batch[0].pair is not None)


def _classification_batch(read: Sequence[tuple[Row, Encoding, bool]], ids: dict[str, int], types: bool) -> Batch:
    columns = _columns([encoding.ids for _, encoding, _ in read], [row.number for row, _, _ in read])
    if types:
        columns["token_type_ids"] = _lists([encoding.type_ids for _, encoding, _ in read], pa.int8())
    if read[0][0].label is not None and ids:
        columns["label"] = pa.array([ids[row.label or ""] for row, _, _ in read], pa.int64())
    columns["truncated"] = pa.array([cut for _, _, cut in read], pa.bool_())
    return columns


def _shortened(
    row: Row, length: int, backend: Tokenizer, long_texts: str, max_length: int
) -> Iterator[tuple[Row, Encoding, bool]]:
    """A row that is too long: cut, or in windows that overlap by an eighth, or refused."""
    if long_texts == "Refuse":
        raise _too_long(row, length, max_length)
    text = backend.encode(row.text, add_special_tokens=False)
    pair = None if row.pair is None else backend.encode(row.pair, add_special_tokens=False)
    room = max_length - backend.num_special_tokens_to_add(pair is not None)
    if pair is None:
        for window in _windows(text, room, long_texts):
            yield row, backend.post_process(window), long_texts == "Truncate"
        return
    # The longer of two texts gives way; the shorter one keeps what it needs, up to half of the room.
    shorter = min(len(text), len(pair), room // 2)
    if len(text) > len(pair):
        pair.truncate(shorter)
        for window in _windows(text, room - shorter, long_texts):
            yield row, backend.post_process(window, pair), long_texts == "Truncate"
    else:
        text.truncate(shorter)
        for window in _windows(pair, room - shorter, long_texts):
            yield row, backend.post_process(text, window), long_texts == "Truncate"


def _windows(text: Encoding, room: int, long_texts: str) -> list[Encoding]:
    text.truncate(room, stride=room // 8 if long_texts == "Windows" else 0)
    return [text, *text.overflowing] if long_texts == "Windows" else [text]


def text_examples(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerFast,
    dataset: Dataset,
    training: TrainingSettings,
    max_length: int,
    labels: Sequence[str],
) -> Iterator[Batch]:
    """Each text by itself, in chunks of the full length; for a causal model its last one ends with the end of text."""
    frame = _Frame(tokenizer, max_length)
    backend = _backend(tokenizer)
    for batch in _batches(rows):
        ids: list[list[int]] = []
        numbers: list[int] = []
        for row, text in zip(batch, _tokens(batch, backend, dataset, max_length), strict=True):
            body = text + frame.end
            for start in range(0, len(body), frame.room):
                ids.append(frame.around(body[start : start + frame.room]))
                numbers.append(row.number)
        yield from _worth_learning(ids, numbers, frame)


def block_examples(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerFast,
    dataset: Dataset,
    training: TrainingSettings,
    max_length: int,
    labels: Sequence[str],
) -> Iterator[Batch]:
    """Texts end to end, in blocks of the full length; only the last block is shorter. An example's row is that of its
    first token."""
    frame = _Frame(tokenizer, max_length)
    backend = _backend(tokenizer)
    left, left_rows = np.empty(0, np.int32), np.empty(0, np.int64)
    for batch in _batches(rows):
        texts = _tokens(batch, backend, dataset, max_length)
        flat = np.fromiter((token for text in texts for token in (*text, *frame.between)), np.int32)
        lengths = [len(text) + len(frame.between) for text in texts]
        owners = np.repeat(np.array([row.number for row in batch], np.int64), lengths)
        left, left_rows = np.concatenate((left, flat)), np.concatenate((left_rows, owners))
        full = len(left) // frame.room
        if full:
            end = full * frame.room
            yield _blocks(left[:end].reshape(full, frame.room), left_rows[: end : frame.room], frame)
            left, left_rows = left[end:].copy(), left_rows[end:].copy()
    if len(left):
        yield from _worth_learning([frame.around(left.tolist())], [int(left_rows[0])], frame)


def _blocks(body: NDArray[np.int32], numbers: NDArray[np.int64], frame: _Frame) -> Batch:
    rows = len(body)
    sides = [np.tile(np.array(side, np.int32), (rows, 1)) for side in (frame.before, frame.after)]
    whole = np.hstack([sides[0], body, sides[1]])
    width = whole.shape[1]
    return {
        "input_ids": pa.ListArray.from_arrays(
            pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32)), pa.array(whole.reshape(-1))
        ),
        "length": pa.array(np.full(rows, width, np.int32)),
        "row": pa.array(numbers),
        "truncated": pa.array(np.zeros(rows, bool)),
    }


class _Frame:
    """The tokens that stand around and between texts: [CLS] and [SEP] where the model reads in both directions, else
    the end of text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        framed = tokenizer.mask_token is not None and cls is not None and sep is not None
        self.before: list[int] = [cls] if framed else []
        self.after: list[int] = [sep] if framed else []
        end = end_token(tokenizer)
        self.end: list[int] = [] if framed or end is None else [end]
        self.between: list[int] = self.after if framed else self.end
        self.room = max_length - len(self.before) - len(self.after)

    def around(self, body: Sequence[int]) -> list[int]:
        return [*self.before, *body, *self.after]


def _worth_learning(ids: Sequence[list[int]], numbers: Sequence[int], frame: _Frame) -> Iterator[Batch]:
    """Leaves out what has nothing to predict: a causal model needs two tokens, a masked one a token in the frame."""
    least = max(2, len(frame.before) + len(frame.after) + 1)
    kept = [i for i, tokens in enumerate(ids) if len(tokens) >= least]
    if kept:
        columns = _columns([ids[i] for i in kept], [numbers[i] for i in kept])
        yield columns | {"truncated": pa.array([False] * len(kept), pa.bool_())}


def sentence_pair_examples(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerFast,
    dataset: Dataset,
    training: TrainingSettings,
    max_length: int,
    labels: Sequence[str],
) -> Iterator[Batch]:
    """[CLS] A [SEP] B [SEP], up to the full length; label 0 where B follows A, 1 where it is of another document."""
    cls, sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    builder = PairBuilder(max_length - 3, training.seed)
    before: list[Document] = []
    for numbers, documents in _documents(rows, tokenizer, dataset, max_length):
        others = documents if len(documents) > 1 else documents + before
        if len(others) < 2:
            raise Refusal(
                "Data",
                "TooFewDocuments",
                "BertPreTraining needs two documents in every split, to draw a sentence of another one; there is one.",
                "Bring more documents; in a text file a blank line ends a document. Or hold out a larger fraction.",
            )
        ids, types, owners, strange = [], [], [], []
        for position, (a, b, stranger) in builder.pairs(documents, others):
            ids.append(cls + a + sep + b + sep)
            types.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
            owners.append(numbers[position])
            strange.append(int(stranger))
        yield _columns(ids, owners) | {
            "token_type_ids": _lists(types, pa.int8()),
            "label": pa.array(strange, pa.int64()),
            "truncated": pa.array([False] * len(ids), pa.bool_()),
        }
        before = documents


def _documents(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerFast, dataset: Dataset, max_length: int
) -> Iterator[tuple[list[int], list[Document]]]:
    """Tokenised documents with their row numbers, as many at a time as memory should hold."""
    backend = _backend(tokenizer)
    numbers: list[int] = []
    documents: list[Document] = []
    tokens = 0
    for row in rows:
        encoded = backend.encode_batch_fast(sentences(row.text), add_special_tokens=False)
        document = [encoding.ids for encoding in encoded if len(encoding)]
        length = sum(len(sentence) for sentence in document)
        if dataset.long_texts == "Refuse" and length > max_length - 3:
            raise _too_long(row, length, max_length)
        if document:
            numbers.append(row.number)
            documents.append(document)
            tokens += length
        if tokens > TOKENS_AT_HAND and len(documents) > 1:
            yield numbers, documents
            numbers, documents, tokens = [], [], 0
    if documents:
        yield numbers, documents


def _tokens(batch: Sequence[Row], backend: Tokenizer, dataset: Dataset, max_length: int) -> list[list[int]]:
    texts = [row.text if row.pair is None else f"{row.text}\n{row.pair}" for row in batch]
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    ids: list[list[int]] = [encoding.ids for encoding in encoded]
    if dataset.long_texts == "Refuse":
        for row, text in zip(batch, ids, strict=True):
            if len(text) > max_length:
                raise _too_long(row, len(text), max_length)
    return ids


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust half, freed of the length that a call of the Python half may have left in it."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, ROWS)):
        yield batch


def _columns(ids: Sequence[list[int]], numbers: Sequence[int]) -> Batch:
    return {
        "input_ids": _lists(ids, pa.int32()),
        "length": pa.array([len(tokens) for tokens in ids], pa.int32()),
        "row": pa.array(numbers, pa.int64()),
    }


def _lists(values: Sequence[list[int]], item: Any) -> pa.Array:
    return pa.array(values, pa.list_(item))


def _too_long(row: Row, length: int, max_length: int) -> Refusal:
    return Refusal(
        "Data",
        "TextTooLong",
        f"The text of row {row.number} ({row.place}) has {length} tokens; the limit is {max_length}.",
        "Shorten it, raise dataset.maxLength, or set dataset.longTexts to Truncate or Windows.",
        [row.text[:200]],
    )
