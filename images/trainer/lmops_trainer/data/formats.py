"""The file formats: each reads one file as a table, record by record, taking only the columns that are asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lmops.api.dataset import Rows
from lmops_trainer.data.encodings import decoded, encoding
from lmops_trainer.failures import Refusal

Record = tuple[int, tuple[Any, ...]]
"""The line of a record, counted from 1, and its values."""

ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
}  # fmt: skip

csv.field_size_limit(1 << 30)  # the module's own limit of 128 KiB is shorter than many documents


class Table(Protocol):
    """A file as a table."""

    names: list[str]
    """Its columns."""

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        """The records, with the values of these columns; None where a record has no value."""


def table(file: Path, settings: Rows, documents: bool) -> Table:
    """The file as a table; with `documents`, text is read up to a blank line instead of line by line."""
    match settings.format or ENDINGS.get(file.suffix.lower()):
        case "csv":
            return Csv(file, settings)
        case "jsonl":
            return JsonLines(file, settings)
        case "parquet":
            return Parquet(file)
        case "text":
            return Text(file, settings, documents)
    raise Refusal(
        "Settings",
        "FormatUnknown",
        f"The ending of {file.name} does not tell its format.",
        "Set `format` of the source to jsonl, csv, parquet or text.",
    )


class Csv:
    """Values between delimiters. All records are of one width; a broken one is an error, never half a text."""

    def __init__(self, file: Path, settings: Rows) -> None:
        self.file = file
        self._encoding = encoding(settings)
        self._delimiter = settings.delimiter or ("\t" if file.suffix.lower() == ".tsv" else ",")
        self._quote = settings.quote if settings.quote is not None else ("" if self._delimiter == "\t" else '"')
        self._header = settings.header is not False
        first = next(self._records(), (1, []))[1]
        self._width = len(first)
        self.names = [name.strip() for name in first] if self._header else [str(i) for i in range(len(first))]

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        wanted = [self.names.index(column) for column in columns]
        records = self._records()
        if self._header:
            next(records, None)
        for line, values in records:
            if len(values) != self._width:
                raise self._ragged(line, values)
            yield line, tuple(values[i] for i in wanted)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        with decoded(self.file, self._encoding, newline="") as text:
            reader = csv.reader(
                text,
                delimiter=self._delimiter,
                quotechar=self._quote or None,
                quoting=csv.QUOTE_MINIMAL if self._quote else csv.QUOTE_NONE,
                strict=True,
            )
            before, preamble = 0, not self._header
            try:
                for values in reader:
                    line, before = before + 1, reader.line_num
                    # Without a header, a comment at the top can stand only before the first record.
                    preamble = preamble and bool(values) and values[0].startswith("# ")
                    if values and not preamble:
                        yield line, values
            except csv.Error as error:
                raise self._malformed(before + 1, error) from error

    def _ragged(self, line: int, values: list[str]) -> Refusal:
        return Refusal(
            "Data",
            "ColumnsDiffer",
            f"{self.file.name}, line {line} has {len(values)} columns where the first line has {self._width}.",
            f"Correct the line, or set `delimiter` ({self._delimiter!r} now) or `quote` ({self._quote!r} now) "
            "to what the file uses.",
            [self._delimiter.join(values)[:200]],
        )

    def _malformed(self, line: int, error: csv.Error) -> Refusal:
        return Refusal(
            "Data",
            "CsvMalformed",
            f"{self.file.name}, line {line} is not valid csv: {error}.",
            f"Close the quotes in that line, or set `quote` ({self._quote!r} now) to what the file uses, "
            "or to an empty string where it uses none.",
        )


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: Path, settings: Rows) -> None:
        self.file = file
        self._encoding = encoding(settings)
        self.names = list(next(self._objects(), (1, {}))[1])

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        for line, values in self._objects():
            yield line, tuple(values.get(column) for column in columns)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with decoded(self.file, self._encoding) as text:
            for line, content in enumerate(text, start=1):
                if not content.strip():
                    continue
                try:
                    values = json.loads(content.rstrip())
                except json.JSONDecodeError as error:
                    raise self._malformed(line, f"{error.msg} at character {error.pos + 1}", content) from error
                if not isinstance(values, dict):
                    raise self._malformed(line, "it holds no object", content)
                yield line, values

    def _malformed(self, line: int, why: str, content: str) -> Refusal:
        return Refusal(
            "Data",
            "JsonMalformed",
            f"{self.file.name}, line {line} is not a JSON object: {why}.",
            "Write one object with braces on each line.",
            [content.strip()[:200]],
        )


class Parquet:
    """A columnar file."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(file, memory_map=True)
        except pa.ArrowInvalid as error:
            raise Refusal(
                "Data",
                "ParquetMalformed",
                f"{file.name} is not a parquet file: {str(error).splitlines()[0]}",
                "Set `format` to what the file is, or write it again.",
            ) from error
        self.names = list(self._file.schema_arrow.names)

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        number = 0
        for batch in self._file.iter_batches(batch_size=4096, columns=sorted(set(columns))):
            values = [batch.column(column).to_pylist() for column in columns]
            for record in zip(*values, strict=True):
                number += 1
                yield number, record


class Text:
    """One sentence a line; a blank line ends a document."""

    def __init__(self, file: Path, settings: Rows, documents: bool) -> None:
        self.file = file
        self.names = ["text"]
        self._encoding = encoding(settings)
        self._documents = documents

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        for line, text in self._paragraphs() if self._documents else self._lines():
            yield line, tuple(text for _ in columns)

    def _lines(self) -> Iterator[tuple[int, str]]:
        with decoded(self.file, self._encoding) as text:
            for line, content in enumerate(text, start=1):
                if content := content.strip():
                    yield line, content

    def _paragraphs(self) -> Iterator[tuple[int, str]]:
        first, lines, last = 0, list[str](), 0
        for line, content in self._lines():
            if lines and line > last + 1:
                yield first, "\n".join(lines)
                lines = []
            first = first if lines else line
            lines.append(content)
            last = line
        if lines:
            yield first, "\n".join(lines)
