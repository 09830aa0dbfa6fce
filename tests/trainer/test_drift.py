"""The picture of held-out rows: its bins, its form, and the distance of other rows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from lmops_trainer.drift import Baseline, Classes, Embedding, Histogram, Seen, baseline, embedding, psi, texts
from volumes import raw

LABELS = np.array([0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])


def picture(lengths: list[int], unknown: int = 1) -> Baseline:
    """Of three rows with two classes."""
    place = Embedding(mean=[0.5, -1.0], spread=0.5)
    return baseline(Seen(np.array(lengths), unknown, place), "test", 3, ["bad", "good"], LABELS, PROBABILITIES)


def test_it_tells_lengths_unknown_tokens_classes_confidence_and_where_rows_lie():
    found = picture([3, 5, 9])

    assert found.unknown_token_share == pytest.approx(1 / 17, abs=1e-6)
    assert found.labels == {"bad": pytest.approx(1 / 3, abs=1e-6), "good": pytest.approx(2 / 3, abs=1e-6)}
    assert found.predictions == {"bad": pytest.approx(2 / 3, abs=1e-6), "good": pytest.approx(1 / 3, abs=1e-6)}
    assert found.token_length.mean == pytest.approx(17 / 3, abs=1e-6)
    assert found.confidence is not None
    assert found.confidence.mean == pytest.approx((0.9 + 0.6 + 0.8) / 3, abs=1e-6)


def test_it_is_read_as_it_was_written_and_small(tmp_path: Path):
    width = np.random.default_rng(1).normal(size=(2000, 768))
    place = embedding(2000, width.sum(0), (width**2).sum(0))
    lengths = np.random.default_rng(2).integers(3, 200, 2000)
    found = baseline(Seen(lengths, 5, place), "test", 2000)
    (tmp_path / "baseline.json").write_text(found.written(), "utf-8")

    assert Baseline.read(tmp_path) == found
    assert len(found.written()) < 16_384
    assert Baseline.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "the whole: Invalid JSON"),
        ('{"split": "test", "rows": 3}', "tokenLength: Field required"),
        (
            '{"split": "test", "rows": 3, "unknownTokenShare": 0, '
            '"tokenLength": {"mean": 1, "histogram": {"edges": [2, 1], "counts": [1, 1, 1]}}}',
            "tokenLength.histogram: Value error, a histogram has ascending edges",
        ),
    ],
)
def test_what_is_not_of_its_form_is_told_in_a_sentence(content: str, why: str, tmp_path: Path):
    (tmp_path / "baseline.json").write_text(content)

    with pytest.raises(ValueError, match=f"^baseline.json is not of the form that is read here: {why}"):
        Baseline.read(tmp_path)


@pytest.mark.parametrize(
    "values",
    [np.random.default_rng(1).integers(1, 60, 900), np.random.default_rng(1).beta(9, 1, 900), np.full(9, 4)],
    ids=["lengths", "confidences", "all alike"],
)
def test_a_value_is_counted_live_in_the_bin_in_which_it_was_counted_before(values: np.ndarray):
    found = Histogram.of(values)

    counted = np.bincount([found.bin(value) for value in values], minlength=len(found.counts))

    assert counted.tolist() == found.counts
    assert psi(found.counts, counted.tolist()) == 0
    assert found.bin(-1) == 0
    assert found.bin(1e9) == len(found.counts) - 1


def test_bins_hold_about_as_many_rows_each():
    found = Histogram.of(np.random.default_rng(1).lognormal(3, 1, 10_000))

    assert len(found.counts) == 10
    assert all(950 <= count <= 1050 for count in found.counts)


def test_lengths_that_were_all_the_same_still_tell_longer_ones():
    found = Histogram.of(np.full(300, 7))

    assert psi(found.counts, [0, 300]) > 1


def test_the_index_is_that_of_the_textbook_but_for_half_a_row():
    expected, actual = [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]
    textbook = sum((b - a) * np.log(b / a) for a, b in zip(expected, actual, strict=True))

    assert psi([share * 1e6 for share in expected], [share * 1e6 for share in actual]) == pytest.approx(
        textbook, abs=1e-5
    )
    assert psi([10, 0], [0, 10]) < 6


def test_as_many_rows_of_the_same_kind_are_near_and_those_of_another_far():
    draw = np.random.default_rng(1)
    before = Histogram.of(draw.lognormal(3, 0.5, 1000))

    def counted(values: np.ndarray) -> list[int]:
        return np.bincount([before.bin(value) for value in values], minlength=len(before.counts)).tolist()

    near = [psi(before.counts, counted(draw.lognormal(3, 0.5, 200))) for _ in range(200)]
    assert max(near) < 0.2
    assert psi(before.counts, counted(draw.lognormal(3.5, 0.5, 200))) > 0.5


def test_rare_classes_share_a_bin():
    found = Classes.of({"a": 0.9, "b": 0.06, "c": 0.03, "d": 0.01}, 1000)

    assert found.bins == {"a": 0, "b": 1, "c": 2, "d": 2}
    assert found.counts == [900, 60, pytest.approx(40)]


def test_the_distance_is_in_spreads_of_the_held_out_rows():
    rows = np.random.default_rng(1).normal(size=(500, 16))
    found = embedding(500, rows.sum(0), (rows**2).sum(0))

    assert found is not None
    assert found.spread == pytest.approx(4, rel=0.05)  # the root of 16 dimensions of variance 1
    assert found.distance(rows.mean(0)) == pytest.approx(0, abs=1e-5)
    assert found.distance(rows.mean(0) + 2) == pytest.approx(8 / found.spread, rel=1e-4)
    assert embedding(2, np.ones(3) * 2, np.ones(3) * 2) is None


def test_the_texts_of_a_language_model_are_counted_one_by_one():
    tokenizer = AutoTokenizer.from_pretrained(raw("minilm"))

    found = texts(tokenizer, ["a film", "a \U00013000 film", "a film " * 100], longest=16)

    assert found.lengths.tolist() == [4, 5, 16]
    assert found.unknown == 1
