"""Writes many texts at once, in a thread of its own: who comes joins at the next step, who is done makes room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from lmops_server.writing import Ask, Finish, Piece, Scored
from lmops_server.writing.decoders import Decoder
from lmops_server.writing.sampling import Dice, drawn
from lmops_server.writing.spoken import Spoken
from lmops_trainer.log import log

CHUNK = 256
"""Tokens of a long prompt that are read between two steps: the others go on meanwhile."""
TOGETHER = 512
"""Padded tokens of short prompts that are read in one go."""

Told = asyncio.Queue[tuple[int, Piece | BaseException]]
"""What is told of the texts of one request, each by its place."""


class Writing:
    """One text, from its question to its end."""

    def __init__(self, ask: Ask, place: int, tokenizer: Any, streamed: bool, told: Told) -> None:
        self.ask, self.place = ask, place
        self.asked_at = time.perf_counter()
        self.first_at: float | None = None
        """When the first token was written."""
        self.ended_at: float | None = None
        self.cancelled = False
        self.dice = Dice(ask)
        self.tokens = 0
        self.next = 0
        """The token that the model reads next."""
        self.read = 0
        """Tokens of the prompt that it has read."""
        self._spoken = Spoken(tokenizer, ask.prompt, ask.stop)
        self._streamed = streamed
        self._text: list[str] = []
        self._scored: list[Scored] = []
        self._loop = asyncio.get_running_loop()
        self._told = told

    def add(self, token: Scored, ends: Collection[int]) -> Piece | None:
        """Takes the next token; what there is to tell of it now."""
        self.next = token.id
        self.first_at = self.first_at or time.perf_counter()
        if token.id in ends and not self.ask.ignore_end:
            return self._piece(self._spoken.end(), "stop")
        self.tokens += 1
        if self.ask.logprobs is not None:
            self._scored.append(token)
        last = self.tokens >= self.ask.new
        text = self._spoken.say(token.id, last)
        return self._piece(text, "stop" if self._spoken.stopped else "length" if last else None)

    def deliver(self, told: Piece | BaseException) -> None:
        """Hands over to the one who asked, on the loop of that one, if it is still there."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._told.put_nowait, (self.place, told))

    def _piece(self, text: str, finish: Finish | None) -> Piece | None:
        self._text.append(text)
        if finish:
            self.ended_at = time.perf_counter()
        if not finish and not (self._streamed and (text or self._scored)):
            return None
        piece = Piece("".join(self._text), self.tokens, self._scored, finish)
        self._text, self._scored = [], []
        return piece


class Writer:
    """The thread, and the queue before it."""

    def __init__(
        self, decoder: Decoder, tokenizer: Any, ends: Collection[int], took: Callable[[int], None] = lambda rows: None
    ) -> None:
        self._decoder, self._tokenizer, self._took = decoder, tokenizer, took
        self._ends = frozenset(ends)
        self._waiting: deque[Writing] = deque()
        self._ready: list[Writing] = []
        """Rows that write: the first ones of the decoder."""
        self._part: Writing | None = None
        """The row behind them, whose long prompt is being read."""
        self._wake = threading.Condition()
        threading.Thread(target=self._run, name="writer", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Texts that are not begun."""
        return len(self._waiting)

    @property
    def writing(self) -> int:
        """Texts that are being written."""
        return len(self._ready) + (self._part is not None)

    def begin(self, asks: Sequence[Ask], streamed: bool) -> tuple[list[Writing], AsyncIterator[tuple[int, Piece]]]:
        """Queues the texts of a request, and tells them as they come; who stops listening makes room."""
        told: Told = asyncio.Queue()
        texts = [Writing(ask, place, self._tokenizer, streamed, told) for place, ask in enumerate(asks)]
        return texts, self._pieces(texts, told)

    async def _pieces(self, texts: Sequence[Writing], told: Told) -> AsyncIterator[tuple[int, Piece]]:
        with self._wake:
            self._waiting.extend(texts)
            self._wake.notify()
        left = len(texts)
        try:
            while left:
                place, piece = await told.get()
                if isinstance(piece, BaseException):
                    raise piece
                left -= piece.finish is not None
                yield place, piece
        finally:
            for writing in texts:
                writing.cancelled = True

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._ready or self._part):
                    self._wake.wait()
            try:
                self._leave([row for row, writing in enumerate(self._ready) if writing.cancelled])
                self._read()
                self._step()
            except Exception as error:
                log.error("the writer failed; %d texts are lost", self.writing, exc_info=error)
                self._lose(error)

    def _step(self) -> None:
        """Every row reads its last token and gets the next."""
        if not self._ready:
            return
        self._took(len(self._ready))
        scores = self._decoder.step([writing.next for writing in self._ready])
        self._add(0, drawn(scores, [writing.dice for writing in self._ready]))

    def _read(self) -> None:
        """New rows read their prompts: several short ones, or a part of a long one."""
        first = len(self._ready)
        group = [self._part] if self._part else self._group(self._decoder.rows - first)
        if not group:
            return
        chunks = [writing.ask.prompt[writing.read : writing.read + CHUNK] for writing in group]
        self._part = group[0] if group[0].read + CHUNK < len(group[0].ask.prompt) else None
        try:
            scores = self._decoder.read(first, chunks)
        except Exception as error:
            self._part = None
            for writing in group:
                writing.deliver(error)
            raise
        for writing, chunk in zip(group, chunks, strict=True):
            writing.read += len(chunk)
        if self._part is None:
            self._ready += group
            self._add(first, drawn(scores, [writing.dice for writing in group]))
        elif self._part.cancelled:
            self._part = None
            self._decoder.drop(first)

    def _group(self, room: int) -> list[Writing]:
        """The next ones that wait, as many as are read in one go."""
        group: list[Writing] = []
        longest = 0
        while self._waiting and len(group) < room:
            writing = self._waiting[0]
            length = len(writing.ask.prompt)
            longest = max(longest, length)
            if group and (length > CHUNK or not self._decoder.together or (len(group) + 1) * longest > TOGETHER):
                break
            self._waiting.popleft()
            if not writing.cancelled:
                group.append(writing)
                if length > CHUNK:
                    break
        return group

    def _add(self, first: int, tokens: Sequence[Scored]) -> None:
        """Gives the rows from `first` on a token each, and lets those go that are done."""
        done = []
        for row, token in enumerate(tokens, first):
            writing = self._ready[row]
            if piece := writing.add(token, self._ends):
                writing.deliver(piece)
                if piece.finish:
                    done.append(row)
        self._leave(done)

    def _leave(self, rows: Sequence[int]) -> None:
        """The last row takes the place of each that goes, and the part behind them that of the last."""
        for row in sorted(rows, reverse=True):
            last = len(self._ready) - 1
            if row != last:
                self._decoder.move(last, row)
                self._ready[row] = self._ready[last]
            self._ready.pop()
            if self._part:
                self._decoder.move(last + 1, last)
                self._decoder.drop(last + 1)
            else:
                self._decoder.drop(last)

    def _lose(self, error: Exception) -> None:
        rows = [*self._ready, *([self._part] if self._part else [])]
        for writing in rows:
            writing.deliver(error)
        for row in reversed(range(len(rows))):
            self._decoder.drop(row)
        self._ready, self._part = [], None
