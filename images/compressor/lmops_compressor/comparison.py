"""Two models on the same rows: what each says of them, its figures, and how often both say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmops.api import Compression
from lmops_compressor.batches import Batches, written
from lmops_compressor.process import ModelProcess
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal
from lmops_trainer.scores import averaged, classification_scores, language_model_scores
from lmops_trainer.tasks import metrics

Array = np.ndarray[Any, Any]
DEFAULTS = {"SequenceClassification": "f1", "CausalLM": "perplexity", "MaskedLM": "maskedPerplexity"}


@dataclass(frozen=True)
class Answers:
    """What a model says of rows. A row of classes has one target; that of a language model is a window, and has one a
    token."""

    told: Array
    """Of each target: the likeliest class, or token; int32 [targets]."""
    places: Array
    """The row of each target, from 0; [targets]."""
    losses: Array
    """Summed over the targets of each row, in nats; float64 [rows]."""
    targets: Array
    """How many each row has; [rows]."""
    divergence: Array
    """From the original, summed likewise; zeros where it was not asked for; float64 [rows]."""
    labels: Array | None = None
    """The true classes; [rows]."""
    probabilities: Array | None = None
    """Of each class; float64 [rows, classes]."""

    def figures(self, task: str, names: list[str]) -> dict[str, float]:
        """All figures of a task, by the functions that a TrainingJob's evaluation uses."""
        if self.labels is not None:
            return classification_scores(self.labels, self.told, self.probabilities, names)
        return language_model_scores(self.losses / np.maximum(self.targets, 1), self.targets, task == "MaskedLM")

    @property
    def mean_divergence(self) -> float:
        """The mean Kullback-Leibler divergence of a target, in nats."""
        return float(self.divergence.sum() / max(1, self.targets.sum()))


@dataclass(frozen=True)
class Scored:
    """Rows that lie on scratch, to be scored by one process after another, or by two in turn."""

    rows: Rows
    batches: Batches
    chosen: tuple[list[int], ...]
    """The examples of each batch."""
    places: Array
    """The row of each example, from 0."""

    @classmethod
    def written(cls, rows: Rows, folder: Path) -> Scored:
        """Writes the batches of rows into a new folder."""
        folder.mkdir(parents=True)
        chosen: list[list[int]] = []

        def batches() -> Any:
            for positions, batch in rows.batches():
                chosen.append(positions)
                yield batch

        found = written(batches(), folder)
        return cls(rows, found, tuple(chosen), np.unique(rows.rows, return_inverse=True)[1])

    @property
    def count(self) -> int:
        """How many rows, however many windows they are read in."""
        return int(self.places.max()) + 1

    def by(self, process: ModelProcess, tell: Callable[[float], None] = lambda _: None) -> Answers:
        """What one model says."""
        return self._gathered([process], tell)[0]

    def by_both(
        self, original: ModelProcess, compressed: ModelProcess, tell: Callable[[float], None] = lambda _: None
    ) -> tuple[Answers, Answers]:
        """What two models say, batch by batch, so that the divergence of whole distributions takes one batch's room."""
        first, second = self._gathered([original, compressed], tell)
        return first, second

    def _gathered(self, processes: list[ModelProcess], tell: Callable[[float], None]) -> list[Answers]:
        parts: list[list[dict[str, Array]]] = [[] for _ in processes]
        into, logs = self.batches.folder / "answers.npz", self.batches.folder / "logs.npy"
        for number in range(len(self.batches)):
            for i, process in enumerate(processes):
                together = ({"keep": str(logs)} if i == 0 else {"beside": str(logs)}) if len(processes) > 1 else {}
                process.ask("score", batch=number, into=str(into), **together)
                parts[i].append(_read(into, process.name))
            tell((number + 1) / len(self.batches))
        logs.unlink(missing_ok=True)
        made = self._classes if self.rows.task == "SequenceClassification" else self._tokens
        found = [made(part) for part in parts]
        if len(found) > 1 and found[0].probabilities is not None and found[1].probabilities is not None:
            found[1].divergence[:] = _divergence(found[0].probabilities, found[1].probabilities)
        return found

    def _classes(self, parts: list[dict[str, Array]]) -> Answers:
        """The windows of a row are averaged to one answer."""
        windows = np.zeros((len(self.rows), parts[0]["probabilities"].shape[1]))
        for chosen, part in zip(self.chosen, parts, strict=True):
            windows[chosen] = part["probabilities"]
        probabilities = averaged(windows, self.places, self.count)
        labels = np.zeros(self.count, np.int64)
        labels[self.places] = [example["label"] for example in self.rows.examples]
        chosen_classes = np.clip(probabilities[np.arange(self.count), labels], 1e-12, None)
        return Answers(
            told=probabilities.argmax(axis=1).astype(np.int32),
            places=np.arange(self.count),
            losses=-np.log(chosen_classes),
            targets=np.ones(self.count, np.int64),
            divergence=np.zeros(self.count),
            labels=labels,
            probabilities=probabilities,
        )

    def _tokens(self, parts: list[dict[str, Array]]) -> Answers:
        windows = np.concatenate([np.asarray(chosen) for chosen in self.chosen])
        counts = np.concatenate([part["counts"] for part in parts])

        def summed(name: str) -> Array:
            values = [part.get(name, np.zeros(len(part["counts"]))) for part in parts]
            return np.bincount(windows, np.concatenate(values), len(self.rows))

        return Answers(
            told=np.concatenate([part["told"] for part in parts]),
            places=np.repeat(windows, counts),
            losses=summed("losses"),
            targets=np.bincount(windows, counts, len(self.rows)).astype(np.int64),
            divergence=summed("divergence"),
        )


def agreements(one: Answers, other: Answers) -> Array:
    """How many targets of each row both models say the same of."""
    return np.bincount(one.places, one.told == other.told, len(one.targets))


def metric_of(run: Compression, source: Source) -> str:
    """The metric that is quality: the one asked for, else that of the model's own job, else that of the task."""
    wanted, usual, known = run.spec.evaluation.metric, source.metric, metrics(source.task, source.labels)
    if wanted and wanted not in known:
        raise Refusal(
            "Settings",
            "MetricUnknown",
            f"evaluation.metric: {wanted} is no figure of a model for {source.task}; there are {_listed(known)}.",
            "Name one of these, or leave it out.",
        )
    return wanted or (usual if usual in known else None) or DEFAULTS[source.task]


def _listed(names: list[str], most: int = 20) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _read(file: Path, name: str) -> dict[str, Array]:
    with np.load(file) as found:
        part = {key: found[key] for key in found.files}
    if not part.pop("finite"):
        raise Refusal(
            "Verdict" if name == "compressed" else "Model",
            "NotFinite",
            f"The {name} model answers with numbers that are not finite.",
            "Compress less, or by another method." if name == "compressed" else "Train it again: its weights are lost.",
        )
    return part


def _divergence(original: Array, compressed: Array) -> Array:
    """The Kullback-Leibler divergence of each row's classes."""
    one, other = np.clip(original, 1e-12, None), np.clip(compressed, 1e-12, None)
    return (one * np.log(one / other)).sum(axis=1)  # type: ignore[no-any-return]
