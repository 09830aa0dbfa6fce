"""How figures are said, in a report as in a terminal: `3.92x smaller`, `123.5 M`."""

from __future__ import annotations

import math
from typing import Literal

OTHERWISE = {
    "smaller": ("larger", "as large"),
    "faster": ("slower", "as fast"),
    "less": ("more", "as much"),
    "fewer": ("more", "as many"),
}
"""Of each word, what is said of a ratio below one, and of one that two digits do not tell from it."""


def times(ratio: float | None, better: Literal["smaller", "faster", "less", "fewer"]) -> str:
    """`3.92x smaller`, `1.25x slower`, `as fast`; empty where there is no ratio."""
    if not ratio or not math.isfinite(ratio):
        return ""
    worse, same = OTHERWISE[better]
    factor = f"{max(ratio, 1 / ratio):.2f}"
    return same if factor == "1.00" else f"{factor}x {better if ratio > 1 else worse}"


def count(number: int) -> str:
    """A number of things: in full below a million, else in a unit: `22,700`, `123.5 M`, `7.6 B`."""
    if number < 1_000_000:
        return f"{number:,}"
    millions = f"{number / 1e6:.1f}"
    return f"{millions} M" if float(millions) < 1000 else f"{number / 1e9:.1f} B"
