"""What a model is held against: a linear model of the same rows, and the rows that another model is asked."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, hstack
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

Array = np.ndarray[Any, Any]
Texts = Sequence[tuple[str, str | None]]

ROWS = 100_000
"""The most rows the linear model learns from: it has learned what it can by then, and memory stays bounded."""
CHARACTERS = 10_000
"""How much of a text the linear model reads."""
FEATURES = 2**20
SAMPLE = 64
SAMPLE_CHARACTERS = 2_000
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Letters of scripts that write words without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def linear(train: Texts, labels: Array, rows: Texts, classes: int, seed: int) -> Array:
    """The probability of each class for each row, by TF-IDF and logistic regression learned from the training rows.

    Words and pairs of words are counted; where words are not spaced, characters up to three in a row, so that no
    segmenter is needed. Of a pair, it also knows how much of the second text is in the first.
    """
    chosen = _drawn(len(train), ROWS, seed)
    train, labels = [train[i] for i in chosen], np.asarray(labels)[chosen]
    features = _Features(_vectorizer(text for text, _ in train), pairs=any(pair for _, pair in train))
    classifier = _classifier(labels).fit(features.learned(train), labels)
    probabilities = np.zeros((len(rows), classes))
    probabilities[:, classifier.classes_.astype(int)] = classifier.predict_proba(features.of(rows))
    return probabilities


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether a good part of the letters belong to scripts that write words without spaces."""
    text = "".join(part[:200] for part, _ in zip(texts, range(2_000), strict=False))
    letters = sum(character.isalpha() for character in text)
    return len(UNSPACED.findall(text)) > 0.1 * letters


def _drawn(count: int, most: int, seed: int) -> list[int]:
    """All rows in their order, or as many as are allowed, drawn by the seed."""
    return list(range(count)) if count <= most else sorted(random.Random(seed).sample(range(count), most))


def _vectorizer(texts: Iterable[str]) -> HashingVectorizer:
    counted: dict[str, Any] = {"n_features": FEATURES, "alternate_sign": False, "norm": None}
    if is_unspaced(texts):
        return HashingVectorizer(analyzer="char", ngram_range=(1, 3), **counted)
    return HashingVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **counted)


def _classifier(labels: Array) -> Any:
    present = len(set(labels.tolist()))
    if present < 2:
        return DummyClassifier(strategy="prior")
    # C = 10 beats the default of 1 on English and on Chinese reviews: a weak baseline would flatter the model.
    regression = LogisticRegression(C=10, solver="liblinear")
    return regression if present == 2 else OneVsRestClassifier(regression)


class _Features:
    """TF-IDF over hashed counts, without what occurs in one row only; of a pair also how much of the second text is in
    the first."""

    def __init__(self, vectorizer: HashingVectorizer, pairs: bool) -> None:
        self._vectorizer = vectorizer
        self._pairs = pairs
        self._weights = TfidfTransformer(sublinear_tf=True)
        self._kept: Array = np.empty(0, dtype=np.int64)

    def learned(self, rows: Texts) -> csr_matrix:
        counts, shared = self._counts(rows)
        seen = np.bincount(counts.indices, minlength=counts.shape[1])
        self._kept = np.flatnonzero(seen >= min(2, seen.max()))
        return csr_matrix(hstack([self._weights.fit_transform(counts[:, self._kept]), shared]))

    def of(self, rows: Texts) -> csr_matrix:
        counts, shared = self._counts(rows)
        return csr_matrix(hstack([self._weights.transform(counts[:, self._kept]), shared]))

    def _counts(self, rows: Texts) -> tuple[csr_matrix, Array]:
        first = self._vectorizer.transform(text[:CHARACTERS] for text, _ in rows)
        if not self._pairs:
            return first, np.empty((len(rows), 0))
        second = self._vectorizer.transform((pair or "")[:CHARACTERS] for _, pair in rows)
        shared = np.asarray(first.minimum(second).sum(axis=1)) / np.maximum(1, np.asarray(second.sum(axis=1)))
        return csr_matrix(hstack([first, second])), shared.reshape(-1, 1)


def sample(rows: pa.Table, seed: int) -> list[dict[str, Any]]:
    """Up to 64 rows drawn by the seed: what a gate asks a candidate and the running model."""
    chosen = rows.take(_drawn(rows.num_rows, SAMPLE, seed)).select(["text", "pair", "label"]).to_pylist()
    return [{name: value[:SAMPLE_CHARACTERS] for name, value in row.items() if value is not None} for row in chosen]
