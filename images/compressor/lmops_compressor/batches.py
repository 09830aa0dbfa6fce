"""Batches on scratch: written once, and read by every process that answers them, so that all of them see the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
INDEX = "batches.json"


class Numbers(Protocol):
    """What can be an array: one already, or a tensor."""

    def __array__(self) -> Array: ...


@dataclass(frozen=True)
class Batches:
    """What was written to a folder, mapped into memory."""

    folder: Path
    columns: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    """Of each column, batch by batch."""

    @classmethod
    def open(cls, folder: Path) -> Batches:
        """The batches in this folder."""
        index = json.loads((folder / INDEX).read_text())
        shapes = tuple(tuple(tuple(shape) for shape in batch) for batch in index["shapes"])
        return cls(folder, tuple(index["columns"]), shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, number: int) -> dict[str, Array]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return {name: self._column(place, name, number) for place, name in enumerate(self.columns)}

    @cached_property
    def _starts(self) -> Array:
        """Where each column of each batch begins, in numbers; at the end, how many there are."""
        sizes = [[math.prod(shape) for shape in batch] for batch in self.shapes]
        return np.cumsum([[0] * len(self.columns), *sizes], axis=0)

    def _column(self, place: int, name: str, number: int) -> Array:
        shape, start = self.shapes[number][place], int(self._starts[number, place])
        return np.fromfile(_file(self.folder, name), np.int64, math.prod(shape), offset=8 * start).reshape(shape)


def written(batches: Iterable[Mapping[str, Numbers]], folder: Path) -> Batches:
    """Writes batches of int64 to an empty folder, one after the other: memory holds one of them."""
    shapes: list[list[tuple[int, ...]]] = []
    columns: list[str] = []
    for batch in batches:
        columns = columns or list(batch)
        arrays = [np.asarray(batch[name], dtype=np.int64) for name in columns]
        for name, array in zip(columns, arrays, strict=True):
            with _file(folder, name).open("ab") as file:
                array.tofile(file)
        shapes.append([array.shape for array in arrays])
    (folder / INDEX).write_text(json.dumps({"columns": columns, "shapes": shapes}))
    return Batches.open(folder)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.int64"
