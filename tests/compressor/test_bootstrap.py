"""Thousands of draws at once give the figures that scikit-learn gives of one, and intervals that hold the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, matthews_corrcoef

from lmops.api.compression import Accept
from lmops_compressor import bootstrap
from lmops_compressor.comparison import Answers
from lmops_compressor.verdict import Figures, judged
from lmops_trainer.scores import classification_scores, language_model_scores

NAMES = ["one", "two", "three", "never"]


def classes(rows: int = 60, right: float = 0.7, seed: int = 1) -> Answers:
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(3, size=rows)
    told = np.where(drawn.random(rows) < right, labels, drawn.integers(3, size=rows)).astype(np.int32)
    probabilities = np.full((rows, 4), 0.1)
    probabilities[np.arange(rows), told] = 0.7
    losses = -np.log(probabilities[np.arange(rows), labels])
    return Answers(
        told, np.arange(rows), losses, np.ones(rows, np.int64), np.zeros(rows), labels, probabilities
    )  # fmt: skip


def tokens(rows: int = 50, loss: float = 3.0, seed: int = 2) -> Answers:
    drawn = np.random.default_rng(seed)
    targets = drawn.integers(1, 30, size=rows)
    told = drawn.integers(9, size=targets.sum()).astype(np.int32)
    losses = targets * (loss + drawn.normal(size=rows))
    return Answers(told, np.repeat(np.arange(rows), targets), losses, targets, np.zeros(rows))


def drawn(answers: Answers, rows: Any) -> Answers:
    """The rows of one draw, as answers of their own."""
    assert answers.labels is not None
    assert answers.probabilities is not None
    return Answers(
        answers.told[rows], np.arange(len(rows)), answers.losses[rows], answers.targets[rows],
        answers.divergence[rows], answers.labels[rows], answers.probabilities[rows],
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "precision", "recall", "f1", "mcc", "loss", "f1:two", "f1:never"])
def test_a_figure_of_many_draws_is_that_of_each(metric: str):
    answers, generator = classes(), np.random.default_rng(5)
    rows = [np.arange(60), generator.integers(60, size=60), np.repeat(7, 60), generator.integers(9, size=60)]
    draws = np.stack([np.bincount(each, minlength=60) for each in rows]).astype(np.float64)

    found = bootstrap.figure(metric, answers, NAMES)(draws)

    expected = [drawn(answers, each).figures("SequenceClassification", NAMES)[metric] for each in rows]
    assert found.tolist() == pytest.approx(expected, abs=2e-6)  # of single classes, scores.py tells six digits


def test_a_perplexity_of_many_draws_is_that_of_each():
    answers, rows = tokens(), np.random.default_rng(5).integers(50, size=50)

    found = bootstrap.figure("perplexity", answers, [])(np.bincount(rows, minlength=50)[None].astype(np.float64))

    means, targets = (answers.losses / answers.targets)[rows], answers.targets[rows]
    assert found.tolist() == pytest.approx([language_model_scores(means, targets, False)["perplexity"]])


def test_an_interval_is_narrower_for_pairs_than_for_the_models_alone():
    one = tokens(400)
    other = Answers(one.told, one.places, one.losses * 1.01, one.targets, one.divergence)
    values = tuple(answers.figures("CausalLM", [])["loss"] for answers in (one, other))

    found = bootstrap.difference("loss", one, other, (values[0], values[1]), [], 0.95)

    alone = bootstrap.drawn_figures(400, bootstrap.figure("loss", one, []))
    assert found.model_dump() == pytest.approx({"value": -0.01, "low": -0.01, "high": -0.01})
    assert np.quantile(alone, 0.975) - np.quantile(alone, 0.025) > 0.1


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Of a hundred samples of 200 rows, with a true difference of accuracy of -0.1."""
    held = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        labels = np.zeros(200, np.int64)
        both = [(generator.random(200) > right).astype(np.int32) for right in (0.9, 0.8)]
        one, other = (
            Answers(told, np.arange(200), np.zeros(200), np.ones(200, np.int64), np.zeros(200), labels) for told in both
        )
        values = tuple(float((told == labels).mean()) for told in both)
        found = bootstrap.difference("accuracy", one, other, (values[0], values[1]), ["a", "b"], 0.9)
        held += found.low <= -0.1 <= found.high
    assert 82 <= held <= 98


def test_a_draw_is_always_the_same_and_a_wider_confidence_is_a_wider_interval():
    one, other = classes(seed=1), classes(right=0.5, seed=1)

    found = [bootstrap.difference("f1", one, other, (0.7, 0.6), NAMES, level) for level in (0.95, 0.95, 0.8)]

    assert found[0] == found[1]
    assert found[0].low < found[2].low < found[2].high < found[0].high
    assert found[0].value == pytest.approx(-0.1)


def test_agreement_is_over_targets_and_not_over_rows():
    one, other = tokens(seed=2), tokens(seed=2)
    other.told[other.places == int(np.argmax(other.targets))] = 9

    found = bootstrap.agreement(one, other, 0.95)

    assert found.value == pytest.approx(1 - one.targets.max() / one.targets.sum(), abs=1e-6)
    assert found.low < found.value <= found.high <= 1


def same(answers: Answers, other: int = 0) -> Answers:
    """Answers that are the same but for the first rows, which are told another class."""
    told = answers.told.copy()
    told[:other] = (told[:other] + 1) % 3
    return replace(answers, told=told)


@pytest.mark.parametrize(
    ("rows", "confidence", "least"),
    [(10, 0.95, 0.691503), (60, 0.95, 0.940371), (1000, 0.95, 0.996318), (60, 0.5, 0.977160)],
)
def test_rows_that_all_agree_prove_no_more_than_so_many_rows_can(rows: int, confidence: float, least: float):
    one = classes(rows)

    agreed = bootstrap.agreement(one, same(one), confidence)
    better = bootstrap.difference("accuracy", one, same(one), (0.7, 0.7), NAMES, confidence)

    assert least == pytest.approx(((1 - confidence) / 2) ** (1 / rows), abs=1e-6)
    assert agreed.model_dump() == pytest.approx({"value": 1.0, "low": least, "high": 1.0}, abs=1e-6)
    assert better.model_dump() == pytest.approx({"value": 0.0, "low": least - 1, "high": 1 - least}, abs=1e-6)


def test_a_share_lies_where_clopper_and_pearson_have_it():
    found = [bootstrap.exact(hits, 60, 0.9) for hits in (0, 3, 57, 60)]

    by_scipy = [binomtest(hits, 60).proportion_ci(0.9, "exact") for hits in (0, 3, 57, 60)]
    assert found == [pytest.approx((each.low, each.high)) for each in by_scipy]


def test_no_row_that_differs_makes_nobody_less_sure_than_one_that_does():
    one = classes(200, right=1.0)
    agreed, lost = [], []
    for other in range(6):
        agreed.append(bootstrap.agreement(one, same(one, other), 0.95).low)
        lost.append(bootstrap.difference("accuracy", one, same(one, other), (1.0, 1 - other / 200), NAMES, 0.95).low)

    assert agreed == sorted(agreed, reverse=True)
    assert lost == sorted(lost, reverse=True)


def test_the_fewer_rows_there_are_of_a_class_the_less_is_known_of_it():
    one = classes(60)

    found = {
        metric: bootstrap.difference(metric, one, same(one), (0.5, 0.5), NAMES, 0.95).low
        for metric in ("f1", "mcc", "f1:two", "f1:never", "loss")
    }

    of_two = int(((one.labels == 1) | (one.told == 1)).sum())
    assert of_two < 40
    assert found == pytest.approx(
        {"f1": -0.059629, "mcc": -0.119259, "f1:two": 0.025 ** (1 / of_two) - 1, "f1:never": -1.0, "loss": 0.0},
        abs=1e-6,
    )


def test_a_limit_is_not_kept_by_rows_that_agree_and_are_few():
    accept = Accept(max_quality_drop=0.01, min_agreement=0.99, confidence=0.95)
    verdicts = {}
    for rows in (60, 600):
        one = classes(rows)
        figures = Figures(
            quality=bootstrap.difference("accuracy", one, same(one), (0.7, 0.7), NAMES, 0.95),
            agreement=bootstrap.agreement(one, same(one), 0.95),
        )
        verdicts[rows], found = judged([accept], figures, "accuracy")

    assert verdicts == {60: "NotPassed", 600: "Passed"}
    assert [check.sentence for check in found] == [
        "accuracy is 0.006129 worse by its bound at 0.95, and maxQualityDrop is 0.01",
        "a share of 0.994 of the predictions is the same by its bound at 0.95, and minAgreement is 0.99",
    ]


def test_more_rows_than_fit_at_once_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch):
    whole = bootstrap.drawn_figures(60, bootstrap.figure("f1", classes(), NAMES))
    monkeypatch.setattr(bootstrap, "AT_A_TIME", 60 * 7)

    assert bootstrap.drawn_figures(60, bootstrap.figure("f1", classes(), NAMES)).tolist() == whole.tolist()


def test_the_figures_are_scikit_learns():
    answers = classes()

    found = answers.figures("SequenceClassification", NAMES)

    assert answers.labels is not None
    assert found["f1"] == f1_score(answers.labels, answers.told, average="macro")
    assert found["mcc"] == matthews_corrcoef(answers.labels, answers.told)
    assert found == classification_scores(answers.labels, answers.told, answers.probabilities, NAMES)
