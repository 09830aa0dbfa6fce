"""What a model says of a batch, in little: probabilities of classes, or of each target its loss and likeliest token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
IGNORED = -100
"""The label of a position that is no target."""
SCORES = 2**22
"""The most scores over a vocabulary that are worked on at a time: 32 MiB of them."""


def classes(logits: Array) -> dict[str, Array]:
    """`probabilities`, float64 [rows, classes], of logits of that shape."""
    return {"probabilities": np.exp(log_softmax(logits)), "finite": np.asarray(np.isfinite(logits).all())}


def tokens(logits: Array, labels: Array, keep: Path | None = None, beside: Path | None = None) -> dict[str, Array]:
    """What a language model says of the targets, of logits [rows, length, vocabulary] and labels [rows, length].

    `losses` float64 [rows]: summed over the targets of a row. `counts` int64 [rows]: how many. `told` int32 [targets]:
    the likeliest token of each, row by row. `divergence` float64 [rows]: summed Kullback-Leibler divergence from the
    model whose log-probabilities lie in `beside`. In `keep` it leaves its own there, float32 [targets, vocabulary].
    """
    rows, positions = np.nonzero(labels != IGNORED)
    size = logits.shape[-1]
    losses, divergence = np.zeros(len(labels)), np.zeros(len(labels))
    told, finite = np.zeros(len(rows), np.int32), True
    kept = _opened(keep, (len(rows), size)) if keep else None
    others = np.load(beside, mmap_mode="r") if beside and len(rows) else None
    for start in range(0, len(rows), step := max(1, SCORES // size)):
        part = slice(start, start + step)
        row, scores = rows[part], logits[rows[part], positions[part]]
        finite = finite and bool(np.isfinite(scores).all())
        logs = log_softmax(scores)
        told[part] = scores.argmax(axis=1)
        np.add.at(losses, row, -logs[np.arange(len(row)), labels[row, positions[part]]])
        if kept is not None:
            kept[part] = logs
        if others is not None:
            theirs = np.asarray(others[part], dtype=np.float64)
            np.add.at(divergence, row, (np.exp(theirs) * (theirs - logs.astype(np.float32))).sum(axis=1))
    counts = np.bincount(rows, minlength=len(labels))
    found: dict[str, Array] = {"losses": losses, "counts": counts, "told": told, "finite": np.asarray(finite)}
    return found | ({"divergence": divergence} if beside else {})


def log_softmax(logits: Array) -> Array:
    """The logarithm of the probabilities over the last axis, float64."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _opened(file: Path, shape: tuple[int, int]) -> Array:
    if not shape[0]:  # nothing can be mapped that has no bytes
        return np.zeros(shape, np.float32)
    return np.lib.format.open_memmap(file, "w+", np.float32, shape)
