"""Takes out of a text what tells who somebody is: mail addresses, card and phone numbers, and what a service names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import regex

from lmops_trainer.failures import Refusal

SECONDS = 0.2
"""How long a pattern may look at one text: some that people write take forever on the wrong one."""
MAIL = regex.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
CARD = regex.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
PHONE = regex.compile(r"(?<![\d.])(?:\+ ?|\()?\d(?:[ ().\-/]{0,2}\d){6,14}(?![ ().\-/]{0,2}\d)")
NAMED = "[redacted]"


class Redaction:
    """The patterns of a service, read once."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def __call__(self, text: str) -> str:
        """The text without them. Raises `TimeoutError` where a pattern takes too long: nothing may be kept then."""
        for pattern in self._patterns:
            text = _replaced(pattern, NAMED, text)
        text = _replaced(MAIL, "[mail]", text)
        text = _replaced(CARD, "[card]", text)
        return _replaced(PHONE, _phone, text)


def _replaced(pattern: Any, by: Any, text: str) -> str:
    """`concurrent`: other threads go on meanwhile."""
    return str(pattern.sub(by, text, timeout=SECONDS, concurrent=True))


def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise Refusal(
            "Settings",
            "PatternUnreadable",
            f"requestLog.redact: {pattern!r} is no regular expression: {error}.",
            "Correct it, or leave it out.",
        ) from error


def _phone(found: Any) -> str:
    """A number that begins as phone numbers do, or is as long, in groups of two digits at the least."""
    text = found[0].strip()
    groups = regex.findall(r"\d+", text)
    is_long = sum(map(len, groups)) >= 9 and min(map(len, groups)) >= 2
    return "[phone]" if text[0] in "+(0" or is_long else str(found[0])
