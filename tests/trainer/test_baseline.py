"""The linear baseline, and the rows that another model is asked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lmops_trainer.baseline import is_unspaced, linear, sample
from lmops_trainer.scores import classification_scores
from volumes import raw

ENGLISH = [(f"film {n} was {'good' if n % 2 else 'bad'}", None) for n in range(40)]
CHINESE = [(f"这部电影{'很好看' if n % 2 else '太难看'}第{n}次", None) for n in range(40)]
CLASSES = np.arange(40) % 2


@pytest.mark.parametrize("rows", [ENGLISH, CHINESE], ids=["words", "characters"])
def test_the_linear_model_learns_what_a_word_tells(rows: list[tuple[str, None]]):
    probabilities = linear(rows[:30], CLASSES[:30], rows[30:], classes=2, seed=1)

    assert probabilities.argmax(axis=1).tolist() == CLASSES[30:].tolist()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(10))


def test_a_pair_of_texts_is_told_by_what_both_share():
    rows = [(f"about word{n} again", f"of word{n if n % 2 else n + 100} once") for n in range(60)]

    probabilities = linear(rows[:40], np.arange(40) % 2, rows[40:], classes=2, seed=1)

    assert probabilities.argmax(axis=1).tolist() == [0, 1] * 10


def test_a_class_that_training_never_saw_is_improbable_and_not_an_error():
    probabilities = linear(ENGLISH[:30], CLASSES[:30] * 2, ENGLISH[30:], classes=4, seed=1)

    assert probabilities.shape == (10, 4)
    assert probabilities[:, [1, 3]].tolist() == [[0, 0]] * 10


def test_with_one_class_in_training_it_is_always_that_one():
    assert linear(ENGLISH[:3], np.zeros(3, int), ENGLISH[3:4], classes=2, seed=1).tolist() == [[1, 0]]


def test_three_classes_are_told_apart():
    words = ["red", "green", "blue"]
    rows = [(f"it is {words[n % 3]} {n}", None) for n in range(60)]

    probabilities = linear(rows[:45], np.arange(45) % 3, rows[45:], classes=3, seed=1)

    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2] * 5


def test_scripts_without_spaces_are_known_by_their_letters():
    assert is_unspaced(text for text, _ in CHINESE)
    assert is_unspaced(["ภาพยนตร์เรื่องนี้ดีมาก"])
    assert not is_unspaced(["an English text with one 字 in it, which is not enough to tell"])
    assert not is_unspaced(["한국어 는 띄어쓰기 가 있다"])
    assert not is_unspaced([])


def test_the_sample_is_bounded_drawn_by_the_seed_and_leaves_out_what_is_not_there():
    rows = pa.table(
        {
            "row": range(200),
            "text": [f"text {n} " + "x" * 5000 for n in range(200)],
            "pair": pa.nulls(200, pa.string()),
            "label": ["good"] * 200,
        }
    )

    drawn = sample(rows, seed=1)

    assert len(drawn) == 64
    assert drawn == sample(rows, seed=1) != sample(rows, seed=2)
    assert {name: len(value) for name, value in drawn[0].items()} == {"text": 2000, "label": 4}


@pytest.mark.slow
def test_distinct_chinese_reviews_are_told_by_their_characters():
    labels: dict[str, set[int]] = {}
    for label, name in enumerate(("neg.txt", "pos.txt")):
        for line in raw(name).read_text("utf-8").splitlines():
            labels.setdefault(line.strip(), set()).add(label)
    rows = [(text, None) for text, found in labels.items() if text and len(found) == 1]
    classes = np.array([min(labels[text]) for text, _ in rows])
    order = np.random.default_rng(1).permutation(len(rows))
    test, train = order[: len(rows) // 10], order[len(rows) // 10 :]

    probabilities = linear([rows[i] for i in train], classes[train], [rows[i] for i in test], classes=2, seed=1)

    scores = classification_scores(classes[test], probabilities.argmax(axis=1), probabilities, ["negative", "positive"])
    assert scores["accuracy"] > 0.83
