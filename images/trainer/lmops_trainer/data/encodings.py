"""Text in its declared encoding; bytes that are none are named with their place and the encoding they look like."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TextIO

from lmops.api.dataset import Rows
from lmops_trainer.failures import Refusal

CHUNK = 1 << 20
COMMON = ("utf_8", "utf_16", "cp1252", "gb18030", "big5", "cp932", "euc_jp", "euc_kr", "cp949", "cp1251", "koi8_r")
"""What files are mostly in; statistics alone take short Western texts for Baltic or Central European ones."""


def encoding(settings: Rows) -> str:
    """The codec of the declared encoding. A byte-order mark is no part of the text."""
    name = settings.encoding or "utf-8"
    try:
        codec = codecs.lookup(name).name
    except LookupError as error:
        from encodings.aliases import aliases

        near = get_close_matches(name.lower().replace("-", "_"), [*aliases, *aliases.values()], n=1)
        raise Refusal(
            "Settings",
            "EncodingUnknown",
            f"There is no encoding {name!r}.",
            f"Did you mean {near[0]!r}?" if near else "Use a name such as utf-8, latin-1, cp1252 or gb18030.",
        ) from error
    return "utf-8-sig" if codec == "utf-8" else codec


@contextmanager
def decoded(file: Path, codec: str, newline: str | None = None) -> Iterator[TextIO]:
    """The file as text; bytes that are none in its encoding are named with their position."""
    with file.open(encoding=codec, newline=newline) as text:
        try:
            yield text
        except UnicodeDecodeError as error:
            raise _undecodable(file, codec) from error


def _undecodable(file: Path, codec: str) -> Refusal:
    offset, line, sample = _first_undecodable(file, codec)
    likely = _likely_encoding(file, codec, offset)
    return Refusal(
        "Data",
        "Undecodable",
        f"{file.name} is not {codec.removesuffix('-sig')}: the byte 0x{sample[0]:02x} at offset {offset} (line {line}) "
        "does not belong there.",
        f"Set `encoding` of the source to {likely}, which fits the file." if likely else "Save the file as utf-8.",
        [f"bytes from there on: {sample.hex(' ')}"],
    )


def _first_undecodable(file: Path, codec: str) -> tuple[int, int, bytes]:
    """The offset and line of the first byte that does not decode, and the bytes there. Text files decode in chunks, so
    the error of the reader itself tells an offset in a chunk only."""
    decoder = codecs.getincrementaldecoder(codec)()
    read, lines = 0, 1
    with file.open("rb") as raw:
        while True:
            chunk = raw.read(CHUNK)
            read += len(chunk)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                start = read - len(error.object) + error.start
                pending = max(0, len(error.object) - len(chunk))
                lines += bytes(error.object[pending : error.start]).count(b"\n")
                return start, lines, bytes(error.object[error.start : error.start + 8])
            lines += chunk.count(b"\n")
            if not chunk:
                raise AssertionError(f"{file} decodes")


def _likely_encoding(file: Path, codec: str, offset: int) -> str | None:
    """What the bytes look like, said only where the whole file decodes so."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(_telling(file, offset)))
    likely = [name for match in matches for name in COMMON if name in match.could_be_from_charset]
    for name in [*likely, *(match.encoding for match in matches)]:
        spelled = name.replace("_", "-")
        if spelled not in (codec, codec.removesuffix("-sig"), "ascii") and _decodes(file, name):
            return spelled
    return None


def _telling(file: Path, offset: int) -> bytes:
    """The lines that tell encodings apart: those beyond ASCII. At the start of a file it is its mark that tells."""
    with file.open("rb") as raw:
        if offset < 4:
            return raw.read(CHUNK)
        lines = islice((line for line in raw if not line.isascii()), 1000)
        return b"".join(lines)[:CHUNK]


def _decodes(file: Path, codec: str) -> bool:
    try:
        with file.open(encoding=codec) as text:
            while text.read(CHUNK):
                pass
    except UnicodeError:
        return False
    return True
