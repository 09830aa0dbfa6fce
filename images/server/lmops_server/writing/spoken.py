"""Tokens become text as they come: no half characters, and nothing that a stop word would take back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEFORE = 6
"""Tokens of the prompt that are decoded with the first ones: a tokenizer joins some to what precedes them."""
BROKEN = "\ufffd"


class Spoken:
    """The text of one answer."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-BEFORE:])
        self._start, self._read = 0, len(self._ids)
        self._stop = [word for word in stop if word]
        self._held = ""
        self.stopped = False

    def say(self, token: int, last: bool = False) -> str:
        """What the token adds that is sure to stay; with the last one, all that was held back."""
        self._ids.append(token)
        return self._given(self._decoded(last), last)

    def end(self) -> str:
        """What was held back, where the text ends without another token."""
        return self._given(self._decoded(last=True), last=True)

    def _decoded(self, last: bool) -> str:
        """The characters that are whole by now."""
        before = self._text(self._ids[self._start : self._read])
        now = self._text(self._ids[self._start :])
        if not last and (now.endswith(BROKEN) or len(now) <= len(before)):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _given(self, added: str, last: bool) -> str:
        text = self._held + added
        found = [place for word in self._stop if (place := text.find(word)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if last else self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop word."""
        longest = 0
        for word in self._stop:
            for size in range(min(len(word) - 1, len(text)), longest, -1):
                if text.endswith(word[:size]):
                    longest = size
                    break
        return longest
