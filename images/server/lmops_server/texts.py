"""What an encoder answers to texts: a class, words for its masks, or an embedding, each as its training read them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerFast

from lmops.api.dataset import Dataset
from lmops.api.trainingjob import TrainingSettings
from lmops_compressor.runners import Array
from lmops_server.batcher import Batcher
from lmops_server.drift import Drift
from lmops_server.encoders import Encoder, Example
from lmops_server.faults import wrong
from lmops_server.opened import Opened
from lmops_server.probes import of_a_gate
from lmops_trainer.answers import with_mask
from lmops_trainer.data.clean import normalised
from lmops_trainer.data.examples import classification_examples
from lmops_trainer.data.rows import Row

T = TypeVar("T")
MASKS = 256
"""The most masks of a request: for each the scores of the whole vocabulary are held until it is answered."""
QUICK = 16_384
"""Characters that are tokenised at once; for more of them other requests would have to wait."""


class Asked(NamedTuple):
    """One input of a request."""

    text: str
    pair: str | None = None


@dataclass(frozen=True)
class Read:
    """Inputs as tokens: each is one example, or several where it is read in windows."""

    examples: list[Example]
    owners: list[int]
    """The input that each example is of."""
    tokens: int
    truncated: frozenset[int]
    """The inputs that were cut."""


@dataclass(frozen=True)
class Classified:
    """The probability of each class, for each input."""

    probabilities: Array
    read: Read


@dataclass(frozen=True)
class Filled:
    """For each input, the candidates of each of its masks, the likeliest first."""

    masks: list[list[list[tuple[str, float]]]]
    read: Read


@dataclass(frozen=True)
class Embedded:
    """A vector of length 1 for each input."""

    vectors: Array
    read: Read


class Texts:
    """An encoder that takes texts from many requests."""

    def __init__(
        self, opened: Opened, encoder: Encoder, longest: int | None, took: Callable[[int], None] = lambda rows: None
    ) -> None:
        self.opened = opened
        self.tokenizer = opened.tokenizer()
        # One of its own: a tokenizer has one length for all threads, and whoever makes examples sets it.
        self._long = opened.tokenizer(), ThreadPoolExecutor(1, "tokens")
        self.embeds = encoder.embeds
        self._encoder = encoder
        self._drift: Drift | None = None
        self._longest = longest
        self.batcher: Batcher[Example, Array] = Batcher(
            encoder, lambda example: len(example.ids), encoder.room, encoder.workers, took
        )

    def watch(self, drift: Drift) -> None:
        """From now on what is asked and answered is held against the held-out rows."""
        self._drift, self._encoder.placed = drift, drift.placed

    @property
    def longest(self) -> int:
        """The most tokens of one input that the model is given."""
        return min(self.opened.max_length, self._longest or self.opened.max_length)

    async def classify(self, asked: Sequence[Asked]) -> Classified:
        """The classes of texts; of one in windows, the mean over these."""
        read = await self._read(asked, self.opened.dataset)
        scores = np.stack(await self._answers(read.examples)).astype(np.float64)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        probabilities = np.zeros((len(asked), scores.shape[1]))
        np.add.at(probabilities, read.owners, scores)
        probabilities /= np.bincount(read.owners, minlength=len(asked))[:, None]
        self._seen(read.examples, probabilities)
        return Classified(probabilities, read)

    async def fill(self, asked: Sequence[Asked], candidates: int) -> Filled:
        """Words for the masks of texts."""
        mask = str(self.tokenizer.mask_token)
        spelled = [Asked(with_mask(text, mask), with_mask(pair, mask)) for text, pair in asked]
        read = await self._read(spelled, self._uncut)
        for place, example in enumerate(read.examples):
            if self.tokenizer.mask_token_id not in example.ids:
                raise wrong(f"Input {place} has no {mask}. Write {mask} where the model shall find a word.", "input")
        count = sum(example.ids.count(self.tokenizer.mask_token_id) for example in read.examples)
        if count > MASKS:
            raise wrong(f"The input has {count:,} masks; at most {MASKS} are filled at once. Send fewer.", "input")
        found = await self._answers(read.examples)
        self._seen(read.examples)
        tokenizer, thread = self._long
        words = await asyncio.get_running_loop().run_in_executor(thread, _words, tokenizer, found, candidates)
        return Filled(words, read)

    async def embed(self, asked: Sequence[Asked | list[int]]) -> Embedded:
        """The mean of the last hidden state over each text, as a vector of length 1."""
        if not self.embeds:
            raise wrong(
                f"The model is a graph of ONNX that tells {self.opened.task} alone, no embeddings. "
                "Compress it anew, or serve the model that it was made of, to get them.",
                code="unsupported",
            )
        read = await self._read([one for one in asked if isinstance(one, Asked)], self._uncut)
        texts = iter(read.examples)
        given = [next(texts) if isinstance(one, Asked) else self._given(one, i) for i, one in enumerate(asked)]
        found = np.stack(await self._answers([example._replace(embed=True) for example in given]))
        self._seen(given)
        vectors = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        tokens = sum(len(example.ids) for example in given)
        return Embedded(vectors, Read(given, [*range(len(given))], tokens, read.truncated))

    async def _answers(self, examples: Sequence[Example]) -> list[Array]:
        """What the model makes of them; its threads do not know who asks."""
        probes = of_a_gate.get()
        return await self.batcher.ask([example._replace(probes=probes) for example in examples])

    @property
    def _uncut(self) -> Dataset:
        """How texts are read whose end must not be left out unseen."""
        return self.opened.dataset.model_copy(update={"long_texts": "Refuse"})

    def _seen(self, examples: Sequence[Example], probabilities: Array | None = None) -> None:
        if self._drift is None:
            return
        self._drift.read([example.ids for example in examples])
        if probabilities is not None:
            self._drift.classified(probabilities)

    async def _read(self, asked: Sequence[Asked], dataset: Dataset) -> Read:
        if sum(len(text) + len(pair or "") for text, pair in asked) <= QUICK:
            return self._examples(self.tokenizer, asked, dataset)
        tokenizer, thread = self._long
        return await asyncio.get_running_loop().run_in_executor(thread, self._examples, tokenizer, asked, dataset)

    def _examples(self, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Asked], dataset: Dataset) -> Read:
        if not asked:
            return Read([], [], 0, frozenset())
        for place, (text, pair) in enumerate(asked):
            self._within(tokenizer, place, text, pair, dataset)
        rows = [
            normalised(Row(number=number, text=text, pair=pair, file="input", line=number), dataset.clean)
            for number, (text, pair) in enumerate(asked)
        ]
        examples: list[Example] = []
        owners: list[int] = []
        cut: set[int] = set()
        for group in _alike(rows):  # those with a pair have types, the others have none
            made = classification_examples(group, tokenizer, dataset, TrainingSettings(), self.opened.max_length, [])
            for batch in made:
                columns = {name: column.to_pylist() for name, column in batch.items()}
                types = columns.get("token_type_ids") or [None] * len(columns["row"])
                examples += [Example(ids, part) for ids, part in zip(columns["input_ids"], types, strict=True)]
                owners += columns["row"]
                cut.update(row for row, was in zip(columns["row"], columns["truncated"], strict=True) if was)
        order = sorted(range(len(owners)), key=owners.__getitem__)
        tokens = sum(len(example.ids) for example in examples)
        return Read([examples[i] for i in order], [owners[i] for i in order], tokens, frozenset(cut))

    def _within(
        self, tokenizer: PreTrainedTokenizerFast, place: int, text: str, pair: str | None, dataset: Dataset
    ) -> None:
        """Refuses what is longer than the service takes, or than the model reads where nothing may be cut."""
        most = self.longest if dataset.long_texts == "Refuse" else self._longest
        if most is None or 4 * (len(text) + len(pair or "")) + 4 < most:  # a character has four tokens at most
            return
        tokens = len(tokenizer.backend_tokenizer.encode(text, pair).ids)
        if tokens > most:
            raise too_long(place, tokens, most)

    def _given(self, ids: list[int], place: int) -> Example:
        """Tokens that the client has made itself."""
        most = min(self.opened.window, self._longest or self.opened.window)
        if len(ids) > most:
            raise too_long(place, len(ids), most)
        known = self.opened.vocabulary or len(self.tokenizer)
        if not ids or max(ids) >= known or min(ids) < 0:
            raise wrong(
                f"Input {place} is no list of this model's tokens: they are numbers from 0 to "
                f"{known - 1}. Send a text instead; see also /v1/tokenize.",
                "input",
            )
        return Example(ids, None)


def _words(
    tokenizer: PreTrainedTokenizerFast, found: Sequence[Array], count: int
) -> list[list[list[tuple[str, float]]]]:
    """The likeliest words for each mask of each text, and how probable they are."""

    def candidates(scores: Array) -> list[tuple[str, float]]:
        shifted = np.exp(scores.astype(np.float64) - scores.max())
        probabilities = shifted / shifted.sum()
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [(str(tokenizer.decode([int(i)])).strip(), float(probabilities[i])) for i in best]

    return [[candidates(scores) for scores in masks] for masks in found]


def too_long(place: int, tokens: int, most: int, param: str = "input") -> Exception:
    """An input that goes beyond what is taken."""
    return wrong(
        f"Input {place} has {tokens:,} tokens; at most {most:,} are taken. Shorten it.",
        param,
        "context_length_exceeded",
    )


def top(names: Sequence[str], probabilities: Array, count: int | None) -> dict[str, float]:
    """The likeliest classes by name, the first first; all of them where no count is given."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return {names[i]: round(float(probabilities[i]), 6) for i in order}


def classes(names: Sequence[str], classified: Classified, count: int | None) -> list[dict[str, Any]]:
    """What a person reads of classified texts, as `lmops local predict` writes it."""
    return [
        {"label": next(iter(best)), "confidence": next(iter(best.values())), "probabilities": best}
        | ({"truncated": True} if place in classified.read.truncated else {})
        for place, row in enumerate(classified.probabilities)
        for best in [top(names, row, count)]
    ]


def masks(filled: Filled) -> list[dict[str, Any]]:
    """What a person reads of filled masks."""
    return [
        {"masks": [[{"token": word, "probability": round(p, 6)} for word, p in mask] for mask in one]}
        for one in filled.masks
    ]


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Single texts and pairs, apart."""
    groups = [[row for row in rows if (row.pair is None) == single] for single in (True, False)]
    return [group for group in groups if group]
