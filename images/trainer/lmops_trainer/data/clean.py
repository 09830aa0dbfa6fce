"""Cleaning: one form for equal texts, then a decision on every row, with a count for every reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray

from lmops.api.dataset import Clean
from lmops_trainer.data.rows import Row

Keys = NDArray[np.uint64]
Ids = NDArray[np.int32]

_BREAKS = frozenset((
    "br", "p", "div", "li", "tr", "td", "th", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "blockquote",
    "pre", "ul", "ol", "table", "hr",
))  # fmt: skip
_UNSEEN = frozenset(("script", "style"))


def normalised(row: Row, clean: Clean) -> Row:
    """The row with its texts in one form."""
    text, pair = _normal(row.text, clean), None if row.pair is None else _normal(row.pair, clean)
    return row if text is row.text and pair is row.pair else row._replace(text=text, pair=pair)


def _normal(text: str, clean: Clean) -> str:
    if clean.markup == "Strip" and ("<" in text or "&" in text):
        text = without_markup(text)
    if clean.unicode != "Keep":
        text = unicodedata.normalize(clean.unicode, text)
    return text.strip().removeprefix("\ufeff")


def without_markup(text: str) -> str:
    """What a browser would show: tags and comments taken out, entities resolved, blocks kept apart by a space."""
    parser = _Shown()
    parser.feed(text)
    parser.close()
    return re.sub(r"[^\S\n]+", " ", "".join(parser.pieces)).strip()


class _Shown(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in _UNSEEN
        if tag in _BREAKS:
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in _UNSEEN))
        if tag in _BREAKS:
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)


def out_of_bounds(row: Row, clean: Clean) -> str | None:
    """Why the row's length rules it out: the shorter text of a pair may be too short, the longer too long."""
    lengths = [len(row.text)] if row.pair is None else [len(row.text), len(row.pair)]
    if min(lengths) < clean.length.min:
        return "tooShort"
    if clean.length.max is not None and max(lengths) > clean.length.max:
        return "tooLong"
    return None


@dataclass(frozen=True)
class Decision:
    """Which rows stay, and how many went for which reason."""

    keep: NDArray[np.bool_]
    dropped: dict[str, int]
    conflicts: int
    """Texts that carry more than one label."""


def decide(keys: Keys, labels: Ids, clean: Clean, test: Keys, validation: Keys, labelled: bool) -> Decision:
    """Decides on all rows at once, from 64 bits of each text and the number of its label.

    Rows that are in a test or validation source go first. Of the rest, a text that was read before is a `duplicate`,
    and a text whose labels leave no winner is a `conflict`: counted once, its copies being duplicates already."""
    in_test = np.isin(keys, test)
    in_validation = np.isin(keys, validation) & ~in_test
    keep = ~(in_test | in_validation)
    chosen, conflicts = np.flatnonzero(keep), 0
    unresolved = np.zeros(len(keys), bool)
    copies = np.zeros(len(keys), bool)
    if len(chosen):
        groups = _Groups(keys[chosen], labels[chosen])
        if labelled:
            conflicts = int(groups.mixed.sum())
            unresolved[chosen] = groups.losing(clean.conflicts)
        if clean.duplicates == "Drop":
            copies[chosen] = groups.copies(labelled and clean.conflicts == "Keep", unresolved[chosen])
    keep &= ~(unresolved | copies)
    counts = {
        "inTest": in_test,
        "inValidation": in_validation,
        "duplicate": copies,
        "conflict": unresolved & ~copies,
    }
    dropped = {reason: int(mask.sum()) for reason, mask in counts.items() if mask.any()}
    return Decision(keep, dropped, conflicts)


class _Groups:
    """Rows of equal text."""

    def __init__(self, keys: Keys, labels: Ids) -> None:
        self.labels = labels
        self.keys = keys
        self.first, self.of = np.unique(keys, return_index=True, return_inverse=True)[1:]
        lowest, highest = labels[self.first].copy(), labels[self.first].copy()
        np.minimum.at(lowest, self.of, labels)
        np.maximum.at(highest, self.of, labels)
        self.mixed = lowest != highest

    def losing(self, rule: str) -> NDArray[np.bool_]:
        """The rows whose label does not stand against another one of the same text."""
        if rule == "Keep":
            return np.zeros(len(self.of), bool)
        lost: NDArray[np.bool_] = self.mixed[self.of]
        if rule == "Majority":
            rows = np.flatnonzero(lost)
            votes: dict[int, Counter[int]] = {}
            for group, label in zip(self.of[rows].tolist(), self.labels[rows].tolist(), strict=True):
                votes.setdefault(group, Counter())[label] += 1
            winners = {group: _winner(counts) for group, counts in votes.items()}
            lost[rows] = [
                winners[group] != label
                for group, label in zip(self.of[rows].tolist(), self.labels[rows].tolist(), strict=True)
            ]
        return lost

    def copies(self, by_label: bool, lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """All but the first row of each text that stay in question; with `by_label`, of each text and label."""
        copy = np.ones(len(self.of), bool)
        if by_label:
            pairs = np.rec.fromarrays([self.keys, self.labels])
            copy[np.unique(pairs, return_index=True)[1]] = False
            return copy
        # The first row that has not lost stands for its text; where all have lost, the first of all.
        order = np.lexsort((np.arange(len(lost)), lost, self.of))
        heads = np.concatenate(([True], np.diff(self.of[order]) != 0))
        copy[order[heads]] = False
        return copy


def _winner(counts: Counter[int]) -> int:
    """The most frequent label, or -1 where two are equally frequent."""
    ranked = counts.most_common(2)
    return ranked[0][0] if len(ranked) == 1 or ranked[0][1] > ranked[1][1] else -1
