"""Examples in the order of training: drawn by seed and epoch, like lengths together, and shared out evenly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

Indices = np.ndarray[Any, np.dtype[np.int64]]
POOL = 50
"""Batches whose rows are sorted by length together: enough for like lengths, few enough to stay random."""


class Examples:
    """Prepared examples for torch: read by the batch from the mapped file, without a Python object a token."""

    def __init__(self, examples: Any) -> None:
        self.lengths: np.ndarray[Any, Any] = examples.data.column("length").to_numpy()
        wanted = [name for name in examples.column_names if name not in ("length", "truncated")]
        self._table = examples.select_columns(wanted).with_format("arrow")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        table = self._table[list(rows)]
        columns = {name: _values(table.column(name).combine_chunks()) for name in table.column_names}
        return [{name: values[place] for name, values in columns.items()} for place in range(len(rows))]


class Order(Sampler[list[int]]):
    """The micro-batches of one process for one epoch. All processes get equally many, and resuming only skips."""

    def __init__(
        self, lengths: np.ndarray[Any, Any], micro: int, accumulation: int, rank: int, processes: int, seed: int
    ) -> None:
        self.lengths = lengths
        self.micro, self.accumulation = micro, accumulation
        self.rank, self.processes = rank, processes
        self.seed = seed
        self.epoch = 0

    @property
    def batch(self) -> int:
        """Rows of one optimiser step, over all processes."""
        return self.micro * self.accumulation * self.processes

    @property
    def updates(self) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(len(self.lengths) / self.batch)

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch)
        return full * self.accumulation + (self._slices(rest) if rest else 0)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches():
            slices = self._slices(len(rows))
            # At one time all processes read slices that lie side by side, so that none waits for longer rows.
            parts = np.array_split(rows, slices * self.processes)
            for turn in range(slices):
                yield parts[turn * self.processes + self.rank].tolist()

    def batches(self) -> list[Indices]:
        """The rows of each optimiser step of this epoch."""
        random = np.random.default_rng([self.seed, self.epoch])
        rows = random.permutation(len(self.lengths))
        whole = len(rows) - len(rows) % self.batch
        pools = np.split(rows[:whole], range(self.batch * POOL, whole, self.batch * POOL)) if whole else []
        batches = [batch for pool in pools for batch in np.split(self._sorted(pool), len(pool) // self.batch)]
        batches = [batches[place] for place in random.permutation(len(batches))]
        if self.epoch == 0 and batches:
            # The longest rows come first: what does not fit into memory shows at once.
            longest = max(range(len(batches)), key=lambda place: int(self.lengths[batches[place]].max()))
            batches[0], batches[longest] = batches[longest], batches[0]
        if whole < len(rows):
            batches.append(self._sorted(self._enough(rows, whole)))
        return batches

    def _enough(self, rows: Indices, whole: int) -> Indices:
        """The last, smaller batch, with a row for each process at least."""
        rest = rows[whole:]
        missing = self.processes - len(rest)
        return np.concatenate([rest, np.resize(rows, missing)]) if missing > 0 else rest

    def _sorted(self, rows: Indices) -> Indices:
        return rows[np.argsort(-self.lengths[rows].astype(np.int64), kind="stable")]

    def _slices(self, rows: int) -> int:
        """Micro-batches of one process for so many rows."""
        return min(self.accumulation, max(1, math.ceil(rows / (self.micro * self.processes))))


def shares(lengths: np.ndarray[Any, Any], batch: int, rank: int, processes: int) -> Iterator[list[int]]:
    """The batches that one process evaluates: longest rows first, and each row with exactly one process."""
    rows = np.argsort(-lengths.astype(np.int64), kind="stable")
    for start in range(rank * batch, len(rows), processes * batch):
        yield rows[start : start + batch].tolist()


def _values(array: Any) -> Any:
    """The rows of a column: numbers, or one array of tokens a row."""
    if not hasattr(array, "offsets"):
        return array.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    return np.split(array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]], offsets[1:-1] - offsets[0])
