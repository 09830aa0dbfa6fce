"""How far the inputs of late have moved from the rows that the model was evaluated on, once there are enough."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lmops_server.opened import Opened
from lmops_server.probes import of_a_gate
from lmops_trainer.drift import Array, Baseline, Classes, Embedding, psi, unknown_token

LAST = 2_000
"""The window: so many inputs. What was asked before is forgotten."""
LEAST = 200
"""Inputs below which nothing is told: the figures of few are far from 0 by chance."""
HELD_OUT = 100
"""The fewest held-out rows that traffic is compared with."""
PLACES, FEW_PLACES = 512, 50
"""The window of embeddings, of which a pass of the model gives a few, and how many of them are enough."""


class Figures(NamedTuple):
    """What is known of the inputs of late; `None` and absent where nothing can be said."""

    rows: int
    """How many inputs they are of."""
    psi: dict[str, float]
    """Population stability indices, by what they are of."""
    unknown_tokens: float | None = None
    """The share of unknown tokens, less that of the held-out rows."""
    embedding: float | None = None
    """From the middle of the held-out rows to that of the inputs, in spreads of the former."""

    def manifest(self) -> dict[str, Any]:
        """As JSON: what is not known is left out."""
        names = {"unknownTokens": self.unknown_tokens, "embedding": self.embedding}
        indices = {name: round(value, 4) for name, value in self.psi.items()}
        return {"rows": self.rows, "least": LEAST, "psi": indices} | {
            name: round(value, 4) for name, value in names.items() if value is not None
        }


class Drift:
    """The window. It is written by the loop that answers, but for embeddings, and read whenever somebody asks."""

    def __init__(self, picture: Baseline, opened: Opened, unknown: int | None) -> None:
        self.picture, self._unknown = picture, unknown
        self._length = "tokenLength" if picture.predictions else "promptLength"
        self._lengths = _Counts(picture.token_length.histogram.counts)
        self._tokens: deque[tuple[int, int]] = deque()
        self._read, self._strange = 0, 0
        is_told = opened.task == "SequenceClassification" and set(opened.labels) == set(picture.predictions or ())
        self._classes = _Classes(picture, opened.labels) if is_told else None
        self._places = _Places(picture.embedding) if picture.embedding else None

    @property
    def placed(self) -> Callable[[Array], None] | None:
        """Takes an embedding, where these can be compared."""
        return self._places.add if self._places else None

    def read(self, inputs: Sequence[Sequence[int]]) -> None:
        """The model was given these tokens."""
        if of_a_gate.get():
            return
        for ids in inputs:
            tokens = len(ids)
            strange = 0 if self._unknown is None else list(ids).count(self._unknown)
            self._lengths.add(self.picture.token_length.histogram.bin(tokens))
            self._tokens.append((tokens, strange))
            self._read, self._strange = self._read + tokens, self._strange + strange
            if len(self._tokens) > LAST:
                tokens, strange = self._tokens.popleft()
                self._read, self._strange = self._read - tokens, self._strange - strange

    def classified(self, probabilities: Array) -> None:
        """The model has answered this."""
        if self._classes and not of_a_gate.get():
            self._classes.add(probabilities)

    def figures(self) -> Figures:
        """The figures of now."""
        rows = len(self._tokens)
        if rows < LEAST:
            return Figures(rows, {})
        share = self._strange / max(1, self._read)
        indices = {self._length: self._lengths.psi}
        if self._classes and self._classes.labels.count >= LEAST:
            indices |= {"labels": self._classes.labels.psi, "confidence": self._classes.confidence.psi}
        return Figures(
            rows,
            indices,
            share - self.picture.unknown_token_share,
            self._places.distance if self._places and self._places.count >= FEW_PLACES else None,
        )


def drift(opened: Opened) -> tuple[Drift | None, str]:
    """The window of a model, or why there is none and what to do."""
    try:
        picture = Baseline.read(opened.folder)
    except ValueError as error:
        return None, f"{opened.uri}: {error}. Train or compress the model again."
    if picture is None:
        return None, (
            f"{opened.uri} has no baseline.json beside it, so there is nothing to hold its traffic against. "
            "Serve a model that a TrainingJob or a QuantizeJob of this version has published."
        )
    if picture.rows < HELD_OUT:
        return None, (
            f"The baseline.json of {opened.uri} is of {picture.rows} {picture.split} rows, too few to tell drift from "
            f"chance. Evaluate the model on {HELD_OUT} rows at the least."
        )
    return Drift(picture, opened, unknown_token(opened.tokenizer())), ""


class Exposed(Collector):
    """The figures for Prometheus: their names are always there, their values as soon as they are known."""

    def __init__(self, drift: Drift | None) -> None:
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        found = self._drift.figures() if self._drift else None
        there = GaugeMetricFamily("lmops_drift_baseline", "Whether there is a baseline to hold traffic against.")
        there.add_metric([], float(self._drift is not None))
        yield there
        yield _gauge("lmops_drift_rows", "Inputs of late that drift is measured on.", found and float(found.rows))
        indices = GaugeMetricFamily(
            "lmops_drift_psi", "Population stability index of the inputs of late.", labels=("of",)
        )
        for name, value in (found.psi if found else {}).items():
            indices.add_metric([name], value)
        yield indices
        share = found.unknown_tokens if found else None
        yield _gauge("lmops_drift_unknown_tokens", "Share of unknown tokens, less that at training.", share)
        distance = found.embedding if found else None
        yield _gauge(
            "lmops_drift_embedding_distance", "From the middle of the held-out rows, in their spreads.", distance
        )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    found = GaugeMetricFamily(name, text)
    if value is not None:
        found.add_metric([], value)
    return found


class _Counts:
    """How often the last values were in each bin."""

    def __init__(self, expected: Sequence[float]) -> None:
        self._expected = expected
        """Of the held-out rows."""
        self._counts = [0] * len(expected)
        self._last: deque[int] = deque()

    def add(self, place: int) -> None:
        """One more; the oldest goes."""
        self._last.append(place)
        self._counts[place] += 1
        if len(self._last) > LAST:
            self._counts[self._last.popleft()] -= 1

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self._last)

    @property
    def psi(self) -> float:
        """How far they are from the held-out ones."""
        return psi(self._expected, self._counts)


class _Classes:
    """What the model has taken inputs for, and how sure it was."""

    def __init__(self, picture: Baseline, names: Sequence[str]) -> None:
        assert picture.predictions
        assert picture.confidence
        classes = Classes.of(picture.predictions, picture.rows)
        self._bins = [classes.bins[name] for name in names]
        self._histogram = picture.confidence.histogram
        self.labels, self.confidence = _Counts(classes.counts), _Counts(self._histogram.counts)

    def add(self, probabilities: Array) -> None:
        """The probabilities of each class, for some inputs."""
        for best, confidence in zip(probabilities.argmax(-1).tolist(), probabilities.max(-1).tolist(), strict=True):
            self.labels.add(self._bins[best])
            self.confidence.add(self._histogram.bin(confidence))


class _Places:
    """The last embeddings, and their sum. The threads of the model add them."""

    def __init__(self, held_out: Embedding) -> None:
        self._held_out = held_out
        width = len(held_out.mean)
        self._last, self._sum = np.zeros((PLACES, width), np.float32), np.zeros(width)
        self._lock = threading.Lock()
        self._next = 0

    def add(self, vector: Array) -> None:
        """One more; the oldest goes."""
        with self._lock:
            place = self._next % PLACES
            self._sum += vector
            self._sum -= self._last[place]
            self._last[place] = vector
            self._next += 1

    @property
    def count(self) -> int:
        """How many there are."""
        return min(self._next, PLACES)

    @property
    def distance(self) -> float:
        """From the held-out rows, in their spreads."""
        with self._lock:
            return self._held_out.distance(self._sum / self.count)
