"""Answers to a file of any size: `python -m lmops_trainer predict MODEL FILE [-o OUT]`, as JSON lines or parquet.

On a laptop the same is `lmops local predict MODEL FILE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pydantic import ValidationError

from lmops.api.dataset import Columns, Rows
from lmops_trainer import uris
from lmops_trainer.data.formats import Table, table
from lmops_trainer.data.rows import Row
from lmops_trainer.failures import Refusal, failure_of

if TYPE_CHECKING:
    from lmops_trainer.answers import Answer, Settings

BUFFER = 1_024
"""Rows at hand: enough to put those of like length together, few enough for any file."""
CHARACTERS = 1 << 22
"""The most characters at hand, whatever the number of rows."""


class Sink(Protocol):
    """Where answers go."""

    def write(self, answers: Sequence[Answer]) -> None:
        """Takes the answers of one buffer."""


def predict(model: str, file: str, out: str | None, rows: Rows, settings: Settings) -> int:
    """Answers every row of the file in its order; returns how many there were."""
    from lmops_trainer.answers import Answerer, Published
    from lmops_trainer.log import quiet_libraries

    source = _place(file)
    if source.is_dir():
        raise Refusal("Data", "NotAFile", f"{file} is a folder.", "Name one file to predict.")
    if not source.is_file():
        raise Refusal("Data", "FileMissing", f"{file} is not there.", "Check the path of the file to predict.")
    if out is not None and _place(out).resolve() == source.resolve():
        raise Refusal("Settings", "OutputIsInput", f"{out} is the input itself.", "Name another file with -o.")
    quiet_libraries()
    found = _column_values(table(source, rows, documents=False), source.name, rows)
    answerer = Answerer(Published.open(_place(model)), settings)
    done = 0
    with _sink(out) as sink:
        for buffer in _buffers(found):
            sink.write(answerer.answer(buffer))
            done += len(buffer)
    return done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `predict`."""
    parser.add_argument("model", metavar="MODEL", help="the model's folder, or its pvc:// URI")
    parser.add_argument("file", metavar="FILE", help="jsonl, csv, parquet or text (a row a line), of any size")
    parser.add_argument("-o", "--out", help="where answers go: .parquet, else JSON lines (default: standard output)")
    read = parser.add_argument_group("how the file is read")
    read.add_argument("--format", choices=["jsonl", "csv", "parquet", "text"], help="default: by its ending")
    read.add_argument("--delimiter", help="what separates columns in csv")
    read.add_argument("--quote", help="what encloses a csv value that holds a delimiter; empty for none")
    read.add_argument(
        "--header", action=argparse.BooleanOptionalAction, default=None, help="whether csv names its columns"
    )
    read.add_argument("--encoding", help="default: utf-8")
    read.add_argument("--text", help="the column of the text; without a header its position, from 0")
    read.add_argument("--pair", help="the column of the second text of a pair")
    told = parser.add_argument_group("how the model answers")
    told.add_argument("--candidates", type=int, default=5, help="words for each mask (default: 5)")
    told.add_argument("--max-new-tokens", type=int, default=256, help="tokens to write (default: 256)")
    told.add_argument("--top-p", type=float, default=0.95, help="sample from this share of probability (default: 0.95)")
    told.add_argument("--top-k", type=int, default=60, help="and from as many tokens (default: 60)")
    told.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: 1.0)")
    told.add_argument("--seed", type=int, default=42, help="the seed of sampling (default: 42)")


def main(arguments: argparse.Namespace) -> int:
    """The exit code; what is wrong with the input is one sentence on standard error."""
    from lmops_trainer.answers import Settings

    names = ("candidates", "max_new_tokens", "top_p", "top_k", "temperature", "seed")
    try:
        settings = Settings(**{name: getattr(arguments, name) for name in names})
        predict(arguments.model, arguments.file, arguments.out, _rows(arguments), settings)
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        failed = failure_of(error)
        evidence = failed.evidence if failed.class_ == "Code" else []
        print(*evidence, f"{failed.message} {failed.remedy}".strip(), sep="\n", file=sys.stderr)
        return 1
    return 0


def _rows(arguments: argparse.Namespace) -> Rows:
    columns = {"text": arguments.text, "pair": arguments.pair} if arguments.text or arguments.pair else None
    names = ("format", "delimiter", "quote", "header", "encoding")
    try:
        settings = {name: getattr(arguments, name) for name in names}
        return Rows(columns=Columns(**columns) if columns else None, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = "--" + str(first["loc"][-1])
        raise Refusal("Settings", "ArgumentInvalid", f"{where}: {first['msg']}.", "Correct the argument.") from error


def _place(place: str) -> Path:
    return uris.mounted(place) if place.startswith("pvc://") else Path(place)


def _column_values(found: Table, file: str, settings: Rows) -> Iterator[Row]:
    columns = settings.columns or Columns()
    text = _column(columns.text or ("text" if len(found.names) != 1 else found.names[0]), found.names, file, "--text")
    pair = _column(columns.pair, found.names, file, "--pair") if columns.pair else None
    for number, (line, values) in enumerate(found.read([text, pair] if pair else [text])):
        if not all(isinstance(value, str) for value in values):
            raise Refusal(
                "Data",
                "TextMissing",
                f"{file}, line {line} has no text in column {pair if isinstance(values[0], str) else text!r}.",
                "Give the row a text, or take it out of the file.",
            )
        yield Row(number=number, text=values[0], pair=values[1] if pair else None, file=file, line=line)


def _column(wanted: str, names: Sequence[str], file: str, argument: str) -> str:
    if wanted in names:
        return wanted
    raise Refusal(
        "Data",
        "ColumnUnknown",
        f"{file} has no column {wanted!r}; it has {', '.join(names)[:200] or 'none'}.",
        f"Name the column with {argument}; where csv has no header line, say --no-header and count from 0.",
    )


def _buffers(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while buffer := list(islice(_within(rows, CHARACTERS), BUFFER)):
        yield buffer


def _within(rows: Iterator[Row], characters: int) -> Iterator[Row]:
    for row in rows:
        yield row
        characters -= len(row.text) + len(row.pair or "")
        if characters <= 0:
            return


@contextmanager
def _sink(out: str | None) -> Iterator[Sink]:
    if out is None:
        yield _JsonLines(sys.stdout)
        sys.stdout.flush()
        return
    with _opened(out) as file:
        yield file if isinstance(file, _Parquet) else _JsonLines(file)


def _opened(out: str) -> AbstractContextManager[Any]:
    place = _place(out)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return _Parquet(place) if place.suffix == ".parquet" else place.open("w", encoding="utf-8")
    except OSError as error:
        message = f"{out} cannot be written: {error.strerror}."
        raise Refusal("Settings", "OutputNotWritable", message, "Name another file with -o.") from error


class _JsonLines:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self._file.write(json.dumps(answer, ensure_ascii=False) + "\n")


class _Parquet:
    """The schema is that of the first buffer."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._writer: Any = None

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, answers: Sequence[Answer]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        made = pa.Table.from_pylist(list(answers), schema=self._writer.schema if self._writer else None)
        self._writer = self._writer or pq.ParquetWriter(self._place, made.schema, compression="zstd")
        self._writer.write_table(made)
