"""Scores: the figures that decide which weights are best and what a model is worth."""

from __future__ import annotations

import math

import pytest

from lmops.api.trainingstatus import ClassReport
from lmops_trainer.scores import (
    class_reports,
    classification_scores,
    confusion,
    is_better,
    language_model_scores,
    leading,
    next_sentence_scores,
    perplexity,
)

TRUE, TOLD = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
SURE = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5]]


def test_macro_figures_are_the_mean_over_classes_and_each_class_has_its_f1():
    scores = classification_scores(TRUE, TOLD, SURE, ["bad", "good"])

    assert scores == pytest.approx(
        {
            "loss": -sum(math.log(p) for p in (0.9, 0.4, 0.8, 0.7, 0.5)) / 5,
            "accuracy": 3 / 5,
            "precision": (1 / 2 + 2 / 3) / 2,
            "recall": (1 / 2 + 2 / 3) / 2,
            "f1": (1 / 2 + 2 / 3) / 2,
            "mcc": 1 / 6,
            "f1:bad": 1 / 2,
            "f1:good": 2 / 3,
        },
        abs=1e-6,
    )


def test_without_probabilities_there_is_no_loss():
    assert "loss" not in classification_scores(TRUE, TOLD, None, ["bad", "good"])


def test_a_class_that_never_occurs_does_not_lower_the_macro_average():
    with_it = classification_scores(TRUE, TOLD, None, ["bad", "good", "odd"])

    assert with_it["f1"] == pytest.approx(classification_scores(TRUE, TOLD, None, ["bad", "good"])["f1"])
    assert with_it["f1:odd"] == 0


def test_confusion_counts_true_classes_down_and_predicted_ones_across():
    assert confusion(TRUE, TOLD, ["bad", "good", "odd"]) == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_each_class_is_reported_by_its_name():
    assert class_reports(TRUE, TOLD, ["bad", "good"])["good"] == ClassReport(
        precision=0.666667, recall=0.666667, f1=0.666667, rows=3
    )


def test_the_loss_of_a_language_model_weighs_each_row_by_its_tokens():
    assert language_model_scores([2.0, 4.0, math.nan], [1, 3, 0], masked=False) == {
        "loss": 3.5,
        "perplexity": math.exp(3.5),
    }


def test_the_perplexity_of_hidden_tokens_has_a_name_of_its_own():
    assert language_model_scores(1.0, 7, masked=True) == {"loss": 1.0, "maskedPerplexity": math.e}


def test_perplexity_stays_finite_for_json():
    assert math.isfinite(perplexity(1e6))


def test_next_sentences_are_scored_by_the_share_told_rightly():
    assert next_sentence_scores([0, 1, 1, 0], [0, 1, 0, 0]) == {"accuracy": 0.75}


def test_less_is_better_for_losses_and_more_for_the_rest():
    assert is_better("loss", 1.0, 2.0)
    assert is_better("maskedPerplexity", 1.0, 2.0)
    assert is_better("f1:good", 2.0, 1.0)
    assert not is_better("f1", 1.0, 1.0)


def test_macro_f1_decides_for_classes_and_the_loss_for_language_models():
    assert leading("SequenceClassification", None) == "f1"
    assert leading("MaskedLM", None) == "loss"
    assert leading("SequenceClassification", "mcc") == "mcc"
