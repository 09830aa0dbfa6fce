"""The classes of rows: read from a column, made of numbers, or given by the source."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from lmops_trainer.failures import Refusal

MOST = 256
"""The most classes a status can list."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")


def spelled(value: Any, place: str) -> str:
    """A label as the word that names its class; 1.0 is 1, however the file stores it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    word = "" if value is None or value != value else str(value).strip()
    if not word:
        raise Refusal(
            "Data", "LabelMissing", f"{place} has no label.", "Give the row a label, or take it out of the file."
        )
    if len(word) > 128:
        raise Refusal(
            "Data",
            "LabelTooLong",
            f"{place} has a label of {len(word)} characters; a class is named with 128 at the most.",
            "Check that columns.label names the label and not the text.",
            [word[:200]],
        )
    return word


class NumberClasses:
    """Makes classes of a numeric label, as `{negative: "<=0", positive: ">0"}`."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = {name: [_bound(part) for part in bounds.split(",")] for name, bounds in classes.items()}
        self._written = ", ".join(f"{name}: {bounds}" for name, bounds in classes.items())

    def __call__(self, value: Any, place: str) -> str:
        word = spelled(value, place)
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise Refusal(
                "Data",
                "LabelNotNumber",
                f"{place} has the label {word!r}, which is no number, so columns.classes cannot be applied.",
                "Correct the row, or check that columns.label names the column of numbers.",
            )
        for name, bounds in self._classes.items():
            if all(holds(number, limit) for holds, limit in bounds):
                return name
        raise Refusal(
            "Data",
            "OutsideClasses",
            f"{place} has the label {word}, which lies in none of the classes ({self._written}).",
            "Widen a class of columns.classes so that every number falls into one.",
        )


def _bound(written: str) -> tuple[Callable[[float, float], bool], float]:
    sign = next(sign for sign in _OPERATORS if written.startswith(sign))
    return _OPERATORS[sign], float(written[len(sign) :])


class Labels:
    """The classes met so far, numbered in the order of their appearance."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._ids: dict[str, int] = {}
        self._first: dict[bool, tuple[str, str]] = {}

    def id(self, label: str, place: str) -> int:
        """The number of the class; a new one is checked against those before it."""
        known = self._ids.get(label)
        if known is None:
            self._check(label, place)
            known = self._ids[label] = len(self.names)
            self.names.append(label)
        return known

    def _check(self, label: str, place: str) -> None:
        numeric = bool(_NUMBER.match(label))
        self._first.setdefault(numeric, (label, place))
        if len(self._first) == 2:
            (number, there), (word, here) = self._first[True], self._first[False]
            raise Refusal(
                "Data",
                "LabelsMixed",
                f"Some labels are numbers and some are words: {there} has {number}, {here} has {word!r}.",
                "Write all labels in one way; a header read as a row (`header: false`) looks like this too.",
            )
        if len(self.names) == MOST:
            raise Refusal(
                "Data",
                "TooManyClasses",
                f"There are more than {MOST} classes; {place} has yet another, {label!r}.",
                "Make classes of the numbers with columns.classes." if numeric else "Check columns.label.",
            )
