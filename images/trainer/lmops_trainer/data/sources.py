"""The sources of rows: which files they are, what they hold, and their rows, streamed one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from lmops.api.dataset import Columns, Rows, Source, TestRows, TrainRows
from lmops_trainer.data.formats import ENDINGS, Table, table
from lmops_trainer.data.hub import HubTable, hub_fingerprint
from lmops_trainer.data.labels import NumberClasses, spelled
from lmops_trainer.data.rows import Row
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import is_hub, mounted

LABEL = "label"


def sources(rows: TrainRows | TestRows | Source) -> list[Source]:
    """The single sources; what is set beside `sources` holds for each that does not set it itself."""
    beside = {name: getattr(rows, name) for name in Rows.model_fields}
    if isinstance(rows, TrainRows) and rows.sources is not None:
        return [source.model_copy(update=_inherited(source, beside)) for source in rows.sources]
    return [Source(uri=rows.uri, uris=rows.uris, **beside)]


def _inherited(source: Source, beside: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in beside.items() if getattr(source, name) is None}


def rows(
    sources: Sequence[Source], where: str, labelled: bool, documents: bool, by: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of the sources in order, numbered. `where` is the field of the spec, for messages; `by` names columns
    whose values a row carries as its keys."""
    number = count()
    for source in sources:
        for uri, file in _places(source, where):
            found = HubTable(uri, source) if file is None else table(file, source, documents)
            name = uri if file is None else file.name
            yield from _rows(found, name, source, where, labelled, by, number)


def _places(source: Source, where: str) -> Iterator[tuple[str, Path | None]]:
    for uri in source.uris or [source.uri or ""]:
        if is_hub(uri):
            yield uri, None
        else:
            for file in files(uri, source, where):
                yield uri, file


def fingerprint(source: Source, where: str) -> list[str]:
    """The content of the source: a sha256 for each file, the commit for a hub data set."""
    return [hub_fingerprint(uri) if file is None else f"sha256:{sha256(file)}" for uri, file in _places(source, where)]


def size(source: Source, where: str) -> int:
    """The bytes of the source's files."""
    return sum(file.stat().st_size for _, file in _places(source, where) if file is not None)


def sha256(file: Path) -> str:
    """The sha256 of the file's content."""
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def files(uri: str, settings: Rows, where: str) -> list[Path]:
    """The files of a `pvc://` URI: itself, those in the folder, or those that match the glob."""
    target = mounted(uri)
    if target.is_file():
        found = [target]
    elif target.is_dir():
        found = _readable((file for file in sorted(target.rglob("*")) if file.is_file()), settings, target)
    elif any(sign in uri for sign in "*?["):
        base = Path(*_before_glob(target))
        matches = base.glob(str(target.relative_to(base))) if base.is_dir() else iter(())
        found = [file for file in sorted(matches) if file.is_file() and not _hidden(file, base)]
    else:
        raise _missing(uri, target, where)
    if not found:
        raise Refusal(
            "Data",
            "NoFiles",
            f"{uri} matches no file of rows.",
            f"Check {where}.uri; a folder is read by the endings {', '.join(sorted(ENDINGS))} unless `format` is set.",
        )
    filled = [file for file in found if file.stat().st_size > 0]
    if not filled:
        raise Refusal("Data", "FileEmpty", f"{uri} is empty.", "Write the file again, or name another.")
    return filled


def _readable(candidates: Iterator[Path], settings: Rows, folder: Path) -> list[Path]:
    return [
        file for file in candidates if not _hidden(file, folder) and (settings.format or file.suffix.lower() in ENDINGS)
    ]


def _hidden(file: Path, folder: Path) -> bool:
    """Other programs leave `_SUCCESS`, `.crc` and the like beside their files."""
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _before_glob(target: Path) -> Iterator[str]:
    for part in target.parts:
        if any(sign in part for sign in "*?["):
            return
        yield part


def _missing(uri: str, target: Path, where: str) -> Refusal:
    beside = [entry.name for entry in target.parent.iterdir()] if target.parent.is_dir() else []
    near = get_close_matches(target.name, beside, n=1)
    there = f"Its folder holds {_listed(beside)}." if beside else "Its folder is not there or empty."
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return Refusal("Data", "FileMissing", f"{uri} is not there.", f"{hint}{there} Check {where}.uri.")


def _rows(
    found: Table, name: str, source: Source, where: str, labelled: bool, by: Sequence[str], number: Iterator[int]
) -> Iterator[Row]:
    columns = source.columns or Columns()
    column = partial(_column, found.names, name, where)
    text = column(columns.text, "text") if columns.text else _default_text(found.names, name, where)
    pair = column(columns.pair, "pair") if columns.pair else None
    label = _label_column(found.names, name, source, where, labelled)
    keys = [LABEL if key == LABEL and (label or source.label) else column(key, "stratifyBy") for key in by]
    word: Callable[[Any, str], str] = NumberClasses(columns.classes) if columns.classes else spelled
    wanted = [text, *([pair] if pair else []), *([label] if label else []), *(key for key in keys if key != LABEL)]
    first_key = 1 + bool(pair) + bool(label)
    for line, values in found.read(wanted):
        place = f"{name}, line {line}"
        label_word = source.label or (word(values[first_key - 1], place) if label else None)
        others = iter(values[first_key:])
        yield Row(
            number=next(number),
            text=_text(values[0], text, place),
            pair=_text(values[1], pair, place) if pair else None,
            label=label_word,
            file=name,
            line=line,
            keys=tuple((label_word or "") if key == LABEL else _key(next(others)) for key in keys),
        )


def _column(names: Sequence[str], name: str, where: str, wanted: str, role: str) -> str:
    if wanted in names:
        return wanted
    near = get_close_matches(wanted, names, n=1)
    raise Refusal(
        "Data",
        "ColumnUnknown",
        f"{name} has no column {wanted!r}; it has {_listed(names)}.",
        (f"Did you mean {near[0]!r}? " if near else "") + f"Set {where}: columns.{role}."
        if role != "stratifyBy"
        else f"Name one of them in stratifyBy or groupBy of {where}.",
    )


def _default_text(names: Sequence[str], name: str, where: str) -> str:
    if "text" in names:
        return "text"
    if len(names) == 1:
        return names[0]
    raise Refusal(
        "Data",
        "ColumnUnknown",
        f"{name} has no column 'text'; it has {_listed(names)}.",
        f"Set {where}.columns.text to the column that holds the text.",
    )


def _label_column(names: Sequence[str], name: str, source: Source, where: str, labelled: bool) -> str | None:
    """The label's column. Tasks that learn from the text alone read a label only where one is declared."""
    columns = source.columns or Columns()
    if source.label:
        return None
    if columns.label:
        return _column(names, name, where, columns.label, "label")
    if not labelled:
        return None
    if LABEL in names:
        return LABEL
    raise Refusal(
        "Data",
        "ColumnUnknown",
        f"{name} has no column 'label'; it has {_listed(names)}.",
        f"Set {where}.columns.label to the column of the classes, or {where}.label if all rows are of one class.",
    )


def _text(value: Any, column: str, place: str) -> str:
    if isinstance(value, str):
        return value if value.isascii() else _whole(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return str(value)
    if value is None or value != value:
        raise Refusal(
            "Data",
            "TextMissing",
            f"{place} has no value in column {column!r}.",
            "Give the row a text, or take it out of the file.",
        )
    raise Refusal(
        "Data",
        "TextMalformed",
        f"{place} holds {type(value).__name__} and no text in column {column!r}.",
        "Check columns.text and columns.pair.",
    )


def _whole(text: str) -> str:
    """JSON can hold half of a character beyond the 16 bits of JavaScript, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _key(value: Any) -> str:
    return "" if value is None else str(value)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "none"
