"""Sentences, and the pairs of them that BERT learns from: half true neighbours, half from another document."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

_END = re.compile(r"(?:[.!?]+[\"'”’)\]]*(?=\s)|[。！？；…]+[”’」』）】]*)\s*")
_INITIAL = re.compile(r"\b[A-Z]\.\s*$|\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e|No)\.\s*$")
SHORT = 0.1
"""How often a pair is built short of the window, as BERT does, so that short inputs are learned too."""

Sentence = list[int]
Document = list[Sentence]
Pair = tuple[Sentence, Sentence, bool]
"""Two stretches of tokens, and whether the second comes from another document."""


def sentences(text: str) -> list[str]:
    """The sentences of a document: its lines; or, in a document of one line, what ends in `.!?` before a space, or in
    `。！？；…` anywhere, closing quotes included. No sentence ends before a small letter, unless all letters are small,
    nor in a full stop after an initial or a title."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else [part for line in lines for part in _split(line)]


def _split(line: str) -> Iterator[str]:
    start, cased = 0, line != line.lower()
    for found in _END.finditer(line):
        piece = line[start : found.end()]
        if (cased and line[found.end() : found.end() + 1].islower()) or _INITIAL.search(piece):
            continue
        yield piece.strip()
        start = found.end()
    if rest := line[start:].strip():
        yield rest


class PairBuilder:
    """Builds pairs up to a number of tokens, drawing by a seed."""

    def __init__(self, room: int, seed: int) -> None:
        self._room = room
        self._random = random.Random(seed)
        self._following, self._strange = 0, 0

    def pairs(self, documents: Sequence[Document], others: Sequence[Document]) -> Iterator[tuple[int, Pair]]:
        """The pairs of the documents, each with its document's position; strangers are drawn from `others`, which
        begin with the documents themselves."""
        for position, document in enumerate(documents):
            for pair in self._of(document, others, position):
                yield position, pair

    def _of(self, document: Document, others: Sequence[Document], itself: int) -> Iterator[Pair]:
        at = 0
        while at < len(document):
            target = self._target()
            end, tokens = at, 0
            while end < len(document) and (end == at or tokens < target):
                tokens += len(document[end])
                end += 1
            chunk = document[at:end]
            split = self._random.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            first = _joined(chunk[:split])
            strange = len(chunk) == 1 or self._draws_stranger()
            if strange:
                second = self._stranger(others, itself, target - len(first))
                at += split  # what was not used is read again
            else:
                second = _joined(chunk[split:])
                at = end
            self._strange += strange
            self._following += not strange
            yield (*self._cut(first, second), strange)

    def _target(self) -> int:
        return self._random.randint(2, self._room) if self._random.random() < SHORT else self._room

    def _draws_stranger(self) -> bool:
        """A lone sentence always gets a stranger; the others make up for it, so that half of all pairs are true."""
        if self._strange != self._following:
            return self._strange < self._following
        return self._random.random() < 0.5

    def _stranger(self, others: Sequence[Document], itself: int, tokens: int) -> Sentence:
        other = self._random.randrange(len(others) - 1)
        document = others[other + (itself <= other)]
        start = self._random.randrange(len(document))
        taken: Sentence = []
        for sentence in document[start:]:
            taken += sentence
            if len(taken) >= tokens:
                break
        return taken

    def _cut(self, first: Sentence, second: Sentence) -> tuple[Sentence, Sentence]:
        """Shortens the longer of the two, at either end by chance, until both fit."""
        first, second = list(first), list(second)
        while len(first) + len(second) > self._room:
            longer = first if len(first) > len(second) else second
            del longer[0 if self._random.random() < 0.5 else -1]
        return first, second


def _joined(parts: Sequence[Sentence]) -> Sentence:
    return [token for part in parts for token in part]
