"""Splits: proportions, groups and the seed are kept, and what cannot be split is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops_trainer.data.split import Values, hold_out, share
from lmops_trainer.failures import Refusal
from volumes import told

WHERE = "dataset.validation.holdOut"


def values(ids: list[int]) -> Values:
    return Values(np.array(ids, np.int32), [f"class {i}" for i in range(max(ids) + 1)])


def test_a_fraction_is_rounded_up_and_never_by_an_error_of_arithmetic():
    assert [share(*case) for case in ((0.1, 10603), (0.1, 30), (0.07, 100), (0.9, 5))] == [1061, 3, 7, 5]


def test_a_hold_out_keeps_the_proportions_of_the_classes():
    strata = values([0] * 60 + [1] * 30 + [2] * 10)

    rest, held = hold_out(np.arange(100), 20, 42, strata, None, WHERE)

    assert np.bincount(strata.ids[held]).tolist() == [12, 6, 2]
    assert sorted([*rest, *held]) == list(range(100))


def test_only_the_rows_that_were_given_are_split():
    rows = np.arange(5, 50, 5)

    rest, held = hold_out(rows, 3, 42, values([0, 1] * 25), None, WHERE)

    assert sorted([*rest, *held]) == rows.tolist()
    assert len(held) == 3


@pytest.mark.parametrize("strata", [None, values([0, 1, 1] * 20)])
def test_groups_stay_whole(strata):
    groups = values([i // 3 for i in range(60)])

    rest, held = hold_out(np.arange(60), 12, 42, strata, groups, WHERE)

    assert not set(groups.ids[rest]) & set(groups.ids[held])
    assert len(held) == 12


def test_the_seed_draws_the_rows():
    draw = [hold_out(np.arange(100), 10, seed, None, None, WHERE)[1].tolist() for seed in (1, 1, 2)]

    assert draw[0] == draw[1] != draw[2]


@given(st.integers(4, 60), st.integers(1, 40), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 9))
def test_a_split_is_a_partition_or_a_refusal(rows, held_rows, classes, stratify, grouped, seed):
    strata = values([i % classes for i in range(rows)]) if stratify else None
    groups = values([i // 2 for i in range(rows)]) if grouped else None
    try:
        rest, held = hold_out(np.arange(rows), held_rows, seed, strata, groups, WHERE)
    except Refusal:
        return
    assert len(rest) > 0
    assert len(held) > 0
    assert sorted([*rest, *held]) == list(range(rows))


def test_a_class_of_one_row_is_refused():
    with pytest.raises(Refusal) as refusal:
        hold_out(np.arange(10), 2, 42, values([0] * 9 + [1]), None, WHERE)

    assert told(refusal) == (
        "Data",
        "ClassTooSmall",
        f"{WHERE} cannot keep the proportions of 'class 1': it has one row, and both parts need one.",
        "Add rows of 'class 1' or take it out, or stratify by another column.",
    )


@pytest.mark.parametrize(
    ("rows", "held", "strata", "message"),
    [
        (1, 1, None, f"{WHERE} leaves a split empty: it would take 1 of 1 rows."),
        (6, 1, values([0, 1] * 3), f"{WHERE} cannot hold a row of each of 2 classes: it would take 1 of 6 rows."),
        (6, 5, values([0, 1] * 3), f"{WHERE} cannot hold a row of each of 2 classes: it would take 5 of 6 rows."),
    ],
)
def test_a_fraction_that_is_impossible_is_refused(rows, held, strata, message):
    with pytest.raises(Refusal) as refusal:
        hold_out(np.arange(rows), held, 42, strata, None, WHERE)

    assert told(refusal)[:3] == ("Data", "FractionImpossible", message)


def test_a_single_group_is_refused():
    with pytest.raises(Refusal, match="all rows have the same value") as refusal:
        hold_out(np.arange(6), 2, 42, None, values([0] * 6), WHERE)

    assert refusal.value.reason == "GroupsTooFew"
