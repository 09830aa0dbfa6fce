"""Cleaning: equal texts take one form, and every row that goes is counted under one reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops.api.dataset import Clean
from lmops_trainer.data.clean import Decision, decide, normalised, out_of_bounds, without_markup
from lmops_trainer.data.rows import Row
from volumes import raw


def clean(**settings: Any) -> Clean:
    return Clean.model_validate(settings)


def decided(rows: Sequence[tuple[str, int]], test: str = "", validation: str = "", **settings: Any) -> Decision:
    """Decides on rows named by a letter for the text and a number for the label."""
    keys = np.array([ord(text) for text, _ in rows], np.uint64)
    labels = np.array([label for _, label in rows], np.int32)
    held = [np.array([ord(text) for text in texts], np.uint64) for texts in (test, validation)]
    return decide(keys, labels, clean(**settings), *held, labelled=True)


def kept(decision: Decision, rows: Sequence[tuple[str, int]]) -> list[tuple[int, str, int]]:
    return [(i, *rows[i]) for i in np.flatnonzero(decision.keep)]


def test_unicode_takes_one_normal_form_and_outer_space_goes():
    row = Row(0, "  cafe\u0301 ｆｕｌｌ ﬁ\n", "e\u0301")

    assert normalised(row, clean())[1:3] == ("café ｆｕｌｌ ﬁ", "é")
    assert normalised(row, clean(unicode="NFKC"))[1:3] == ("café full fi", "é")
    assert normalised(row, clean(unicode="Keep"))[1:3] == ("cafe\u0301 ｆｕｌｌ ﬁ", "e\u0301")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>good</b> film", "a good film"),
        ("one<br/>two<p>three</p>four", "one two three four"),
        ("AT&amp;T &lt;3 caf&eacute; &#8212; ok", "AT&T <3 café — ok"),
        ("1 < 2 and 3 > 2 <3", "1 < 2 and 3 > 2 <3"),
        ("a<script>var x = '<b>';</script>b<style>p {}</style>c<!-- no -->", "abc"),
        ("lines\nstay<br>apart", "lines\nstay apart"),
    ],
)
def test_markup_is_stripped_to_what_a_browser_shows(text, shown):
    assert without_markup(text) == shown
    assert normalised(Row(0, text), clean(markup="Keep")).text == text


def test_lengths_are_bounded_by_the_shorter_and_the_longer_text_of_a_pair():
    bounds = clean(length={"min": 2, "max": 4})

    assert [
        out_of_bounds(row, bounds)
        for row in (
            Row(0, "a"),
            Row(0, "ab"),
            Row(0, "abcd"),
            Row(0, "abcde"),
            Row(0, "abc", "a"),
            Row(0, "ab", "abcde"),
        )
    ] == ["tooShort", None, None, "tooLong", "tooShort", "tooLong"]


def test_the_first_of_equal_texts_stays():
    rows = [("a", 0), ("b", 1), ("a", 0), ("a", 0)]

    decision = decided(rows)

    assert kept(decision, rows) == [(0, "a", 0), (1, "b", 1)]
    assert (decision.dropped, decision.conflicts) == ({"duplicate": 2}, 0)


CONFLICT = [("a", 1), ("a", 0), ("a", 0), ("b", 0), ("c", 0), ("c", 1)]


@pytest.mark.parametrize(
    ("settings", "stays", "dropped"),
    [
        ({"conflicts": "Drop"}, [3], {"duplicate": 3, "conflict": 2}),
        ({"conflicts": "Majority"}, [1, 3], {"duplicate": 3, "conflict": 1}),
        ({"conflicts": "Keep"}, [0, 1, 3, 4, 5], {"duplicate": 1}),
        ({"conflicts": "Drop", "duplicates": "Keep"}, [3], {"conflict": 5}),
        ({"conflicts": "Majority", "duplicates": "Keep"}, [1, 2, 3], {"conflict": 3}),
        ({"conflicts": "Keep", "duplicates": "Keep"}, [0, 1, 2, 3, 4, 5], {}),
    ],
)
def test_conflicting_labels_are_dropped_outvoted_or_kept(settings, stays, dropped):
    decision = decided(CONFLICT, **settings)

    assert np.flatnonzero(decision.keep).tolist() == stays
    assert (decision.dropped, decision.conflicts) == (dropped, 2)


def test_rows_of_test_and_validation_leave_training():
    rows = [("a", 0), ("a", 0), ("b", 1), ("c", 0), ("d", 1)]

    decision = decided(rows, test="a", validation="ab")

    assert kept(decision, rows) == [(3, "c", 0), (4, "d", 1)]
    assert decision.dropped == {"inTest": 2, "inValidation": 1}


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1, max_size=40),
    st.sampled_from(["Drop", "Keep"]),
    st.sampled_from(["Drop", "Majority", "Keep"]),
    st.text("abc", max_size=2),
)
def test_every_row_is_kept_or_counted_once_and_no_kept_text_repeats(rows, duplicates, conflicts, test):
    decision = decided(rows, test=test, duplicates=duplicates, conflicts=conflicts)

    assert decision.keep.sum() + sum(decision.dropped.values()) == len(rows)
    texts = [row if conflicts == "Keep" else row[0] for row in (rows[i] for i in np.flatnonzero(decision.keep))]
    assert not {text[0] for text in texts} & set(test)
    if duplicates == "Drop":
        assert len(texts) == len(set(texts))


def test_the_real_chinese_reviews_repeat_half_of_themselves():
    texts: dict[str, int] = {}
    numbers, labels, short = [], [], 0
    for label, name in enumerate(("neg.txt", "pos.txt")):
        for line in raw(name).read_text("utf-8").splitlines():
            row = normalised(Row(0, line), clean())
            if out_of_bounds(row, clean(length={"min": 4})):
                short += bool(row.text)
                continue
            numbers.append(texts.setdefault(row.text, row.key))
            labels.append(label)

    empty = np.empty(0, np.uint64)
    decision = decide(np.array(numbers, np.uint64), np.array(labels, np.int32), clean(), empty, empty, labelled=True)

    assert (len(numbers), len(texts), short) == (35014, 17364, 109)
    assert decision.dropped == {"duplicate": 17650, "conflict": 45}
    assert decision.conflicts == 45
    assert decision.keep.sum() == 17319
