"""Rows that are read once and decided on later: kept in an Arrow file, so that memory holds 64 bits a row."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lmops_trainer.data.clean import Ids, Keys
from lmops_trainer.data.labels import Labels
from lmops_trainer.data.rows import Row

ROWS = 4096
CHARACTERS = 1 << 23
UNLABELLED = -1


class Spool:
    """An append-only file of rows, then read as often as needed."""

    def __init__(self, path: Path, labels: Labels, keys: int = 0) -> None:
        self.labels = labels
        self._path = path
        self._by = keys
        self._schema = pa.schema(
            [
                ("number", pa.int64()),
                ("text", pa.string()),
                ("pair", pa.string()),
                ("label", pa.string()),
                ("file", pa.string()),
                ("line", pa.int64()),
                *((f"key{i}", pa.string()) for i in range(keys)),
            ]
        )
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._keys, self._ids = array("Q"), array("i")
        self._pending: list[Row] = []
        self._characters = 0

    def __len__(self) -> int:
        return len(self._keys)

    def append(self, row: Row) -> None:
        """Adds a row; its label is checked against those before it."""
        self._keys.append(row.key)
        self._ids.append(UNLABELLED if row.label is None else self.labels.id(row.label, row.place))
        self._pending.append(row)
        self._characters += len(row.text) + len(row.pair or "")
        if len(self._pending) >= ROWS or self._characters >= CHARACTERS:
            self._flush()

    def close(self) -> Spool:
        """Ends writing."""
        self._flush()
        self._writer.close()
        self._sink.close()
        return self

    @property
    def keys(self) -> Keys:
        """64 bits of each row's text."""
        return np.frombuffer(self._keys, np.uint64)

    @property
    def ids(self) -> Ids:
        """The number of each row's label."""
        return np.frombuffer(self._ids, np.int32)

    def values(self, key: int) -> tuple[Ids, list[str]]:
        """The values of one of the rows' keys, as numbers, with the names these stand for."""
        column = self._table().column(f"key{key}").combine_chunks().dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        return column.indices.to_numpy(zero_copy_only=False), column.dictionary.to_pylist()

    def tables(self, chosen: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """The chosen rows, a batch at a time."""
        start = 0
        for batch in self._table().to_batches():
            mask = chosen[start : start + len(batch)]
            start += len(batch)
            if mask.any():
                yield pa.Table.from_batches([batch.filter(pa.array(mask))])

    def rows(self, chosen: NDArray[np.bool_]) -> Iterator[Row]:
        """The chosen rows, one by one."""
        for table in self.tables(chosen):
            columns: list[list[Any]] = [table.column(name).to_pylist() for name in self._schema.names[:6]]
            yield from map(Row._make, ((*values, ()) for values in zip(*columns, strict=True)))

    def _table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()

    def _flush(self) -> None:
        if not self._pending:
            return
        *columns, keys = map(list, zip(*self._pending, strict=True))
        by = [[values[i] for values in keys] for i in range(self._by)]
        self._writer.write_batch(pa.record_batch([*columns, *by], schema=self._schema))
        self._pending, self._characters = [], 0
