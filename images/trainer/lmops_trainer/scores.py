"""The figures of a model: what it got right, by class and in all, and how well it foresaw each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef, precision_recall_fscore_support

from lmops.api.trainingstatus import ClassReport

Numbers = Sequence[Any] | np.ndarray[Any, Any]
LOWER_IS_BETTER = {"loss", "perplexity", "maskedPerplexity"}


def leading(task: str, metric: str | None) -> str:
    """The metric that decides: the one asked for, else macro F1 for classes and the loss for language models."""
    return metric or ("f1" if task == "SequenceClassification" else "loss")


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether one value of the metric is above another, or below it where less is better."""
    return value < than if metric in LOWER_IS_BETTER else value > than


def classification_scores(
    labels: Numbers, predictions: Numbers, probabilities: Numbers | None, names: Sequence[str]
) -> dict[str, float]:
    """Accuracy, macro precision, recall, F1, Matthews correlation, the F1 of each class; given probabilities, the loss.

    Macro averages are over the classes that occur, as true class or as predicted one.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0.0)
    figures = {
        "accuracy": float(accuracy_score(labels, predictions)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "mcc": float(matthews_corrcoef(labels, predictions)),
    }
    if probabilities is not None:
        figures = {"loss": cross_entropy(labels, probabilities)} | figures
    reports = class_reports(labels, predictions, names)
    return figures | {f"f1:{name}": report.f1 for name, report in reports.items()}


def averaged(probabilities: Numbers, positions: Numbers, rows: int) -> np.ndarray[Any, Any]:
    """The probabilities of each row: the mean over its windows, of each of which `positions` names the row."""
    table, places = np.asarray(probabilities, dtype=np.float64), np.asarray(positions)
    means = np.zeros((rows, table.shape[1]))
    np.add.at(means, places, table / np.bincount(places)[places, None])
    return means


def class_reports(labels: Numbers, predictions: Numbers, names: Sequence[str]) -> dict[str, ClassReport]:
    """Precision, recall and F1 of each class, by its name."""
    columns = precision_recall_fscore_support(labels, predictions, labels=range(len(names)), zero_division=0.0)
    return {
        name: ClassReport(precision=_short(precision), recall=_short(recall), f1=_short(f1), rows=int(rows))
        for name, precision, recall, f1, rows in zip(names, *columns, strict=True)
    }


def confusion(labels: Numbers, predictions: Numbers, names: Sequence[str]) -> list[list[int]]:
    """Rows by true class (outer) and predicted class (inner)."""
    counts: list[list[int]] = confusion_matrix(labels, predictions, labels=range(len(names))).tolist()
    return counts


def cross_entropy(labels: Numbers, probabilities: Numbers) -> float:
    """The mean loss: how improbable the true classes were."""
    table = np.asarray(probabilities, dtype=np.float64)
    chosen = table[np.arange(len(table)), np.asarray(labels, dtype=np.int64)]
    return float(-np.log(np.clip(chosen, 1e-12, None)).mean())


def language_model_scores(loss: Numbers | float, tokens: Numbers | int, masked: bool) -> dict[str, float]:
    """The loss of a token and the perplexity it makes, from the mean loss of each row (or of all) and its tokens."""
    weights = np.atleast_1d(np.asarray(tokens, dtype=np.float64))
    losses = np.atleast_1d(np.asarray(loss, dtype=np.float64))
    counted = weights > 0  # a row of one token foretells nothing, and its mean is not a number
    mean = float(np.average(losses[counted], weights=weights[counted])) if counted.any() else math.nan
    return {"loss": mean, "maskedPerplexity" if masked else "perplexity": perplexity(mean)}


def next_sentence_scores(labels: Numbers, predictions: Numbers) -> dict[str, float]:
    """The share of pairs whose order was told rightly."""
    return {"accuracy": float(accuracy_score(labels, predictions))}


def perplexity(loss: float) -> float:
    """The number of equally likely tokens that a loss stands for, kept finite so that JSON can hold it."""
    return math.exp(min(loss, 700.0))


def _short(value: Any) -> float:
    """Six digits are more than a test set can tell, and fit a small message."""
    return round(float(value), 6)
