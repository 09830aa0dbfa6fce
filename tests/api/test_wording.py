"""Figures are said in words that fit them: what is slower is not so many times faster."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lmops.api.wording import count, times


@pytest.mark.parametrize(
    ("ratio", "better", "said"),
    [
        (3.917, "smaller", "3.92x smaller"),
        (0.26, "faster", "3.85x slower"),
        (0.5, "fewer", "2.00x more"),
        (0.8, "less", "1.25x more"),
        (0.8, "smaller", "1.25x larger"),
        (1.004, "faster", "as fast"),
        (0.996, "smaller", "as large"),
        (1, "less", "as much"),
        (1, "fewer", "as many"),
        (None, "faster", ""),
        (0, "faster", ""),
        (math.nan, "faster", ""),
        (math.inf, "faster", ""),
    ],
)
def test_a_ratio_is_said_by_its_greater_side(ratio: float | None, better: Any, said: str):
    assert times(ratio, better) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (999_999, "999,999"),
        (1_000_000, "1.0 M"),
        (123_456_789, "123.5 M"),
        (999_940_000, "999.9 M"),
        (999_960_000, "1.0 B"),
        (7_615_616_512, "7.6 B"),
    ],
)
def test_a_number_above_a_million_has_a_unit(number: int, said: str):
    assert count(number) == said
