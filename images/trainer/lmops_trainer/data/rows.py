"""A row: one text, or a pair of texts, its class, and the place it was read from."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple


class Row(NamedTuple):
    """One row of the data set."""

    number: int
    """Its position in reading order, which stays its name in every split."""
    text: str
    """The text, or the first text of a pair."""
    pair: str | None = None
    """The second text of a pair."""
    label: str | None = None
    """Its class."""
    file: str = ""
    """The file it was read from."""
    line: int = 0
    """The line in that file, or the record where there are no lines; counted from 1."""
    keys: tuple[str, ...] = ()
    """The values of the columns that splits are stratified and grouped by."""

    @property
    def place(self) -> str:
        """Where the row is to be found, for a message."""
        return f"{self.file}, line {self.line}" if self.file else f"row {self.number}"

    @property
    def key(self) -> int:
        """64 bits that rows of equal texts share. Of a million different rows, two collide once in 40 million tries."""
        joined = self.text if self.pair is None else f"{self.text}\x1f{self.pair}"
        return int.from_bytes(blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
