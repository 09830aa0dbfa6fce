"""Every limit becomes a sentence that says what was measured; what could not be measured keeps no limit."""

from __future__ import annotations

import math

import pytest

from lmops.api.compression import Accept, Limits
from lmops.api.compressionreport import Check, Interval
from lmops_compressor.verdict import Figures, checks, judged, sentence

FIGURES = Figures(
    size_ratio=3.92,
    latency_ratio=0.433,
    memory_ratio=0.58,
    quality=Interval(value=-0.003, low=-0.012, high=0.004),
    agreement=Interval(value=0.991, low=0.984, high=0.996),
)


def told(limits: Limits | None, figures: Figures, metric: str = "quality") -> tuple[str, list[str]]:
    """The verdict, and each limit in a line."""
    verdict, found = judged([limits] if limits else [], figures, metric)
    return verdict, [f"{'ok' if check.kept else 'not kept'}: {check.sentence}" for check in found]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_quality_drop": 0.01}, "ok: f1 is 0.003 worse, and maxQualityDrop is 0.01"),
        ({"max_quality_drop": 0.003}, "ok: f1 is 0.003 worse, and maxQualityDrop is 0.003"),
        ({"max_quality_drop": 0.0}, "not kept: f1 is 0.003 worse, and maxQualityDrop is 0"),
        (
            {"max_quality_drop": 0.01, "confidence": 0.95},
            "not kept: f1 is 0.012 worse by its bound at 0.95, and maxQualityDrop is 0.01",
        ),
        ({"min_size_ratio": 3.5}, "ok: the files are 3.92 times smaller, and minSizeRatio is 3.5"),
        ({"min_size_ratio": 4}, "not kept: the files are 3.92 times smaller, and minSizeRatio is 4"),
        ({"max_latency_ratio": 0.5}, "ok: latency is 0.43 of the original's, and maxLatencyRatio is 0.5"),
        ({"max_latency_ratio": 0.43}, "not kept: latency is 0.433 of the original's, and maxLatencyRatio is 0.43"),
        ({"max_memory_ratio": 0.5}, "not kept: memory is 0.58 of the original's, and maxMemoryRatio is 0.5"),
        ({"min_agreement": 0.99}, "ok: a share of 0.991 of the predictions is the same, and minAgreement is 0.99"),
        (
            {"min_agreement": 0.99, "confidence": 0.9},
            "not kept: a share of 0.98 of the predictions is the same by its bound at 0.9, and minAgreement is 0.99",
        ),
    ],
)
def test_a_limit_is_a_sentence(limits: dict[str, float], said: str):
    verdict, sentences = told(Accept.model_validate(limits), FIGURES, "f1")

    assert sentences == [said]
    assert verdict == ("Passed" if said.startswith("ok: ") else "NotPassed")


def test_the_limits_of_a_search_and_those_of_the_job_hold_together():
    search, accept = Limits(max_quality_drop=0.001), Accept(min_size_ratio=3.5)

    verdict, found = judged([accept, search], FIGURES, "f1")

    assert (verdict, [(check.limit, check.kept) for check in found]) == (
        "NotPassed",
        [("minSizeRatio", True), ("maxQualityDrop", False)],
    )


EVERY = Accept(
    max_quality_drop=1, min_size_ratio=0.1, max_latency_ratio=9, max_memory_ratio=9, min_agreement=0, confidence=0.95
)
NAN = Interval(value=math.nan, low=math.nan, high=math.nan)


@pytest.mark.parametrize("figures", [Figures(), Figures(math.nan, math.nan, math.nan, NAN, NAN)])
def test_what_could_not_be_measured_keeps_no_limit(figures: Figures):
    assert told(EVERY, figures, "f1") == (
        "NotPassed",
        [
            "not kept: f1 could not be measured, and maxQualityDrop is 1",
            "not kept: the size could not be measured, and minSizeRatio is 0.1",
            "not kept: latency could not be measured, and maxLatencyRatio is 9",
            "not kept: memory could not be measured, and maxMemoryRatio is 9",
            "not kept: agreement could not be measured, and minAgreement is 0",
        ],
    )


def test_a_bound_that_too_few_rows_leave_unknown_keeps_no_limit():
    few = Figures(quality=Interval(value=0.1), agreement=Interval(value=1))
    limits = {"max_quality_drop": 0.01, "min_agreement": 0.9}

    assert told(Accept.model_validate(limits), few, "f1")[0] == "Passed"
    assert told(Accept.model_validate(limits | {"confidence": 0.95}), few, "f1") == (
        "NotPassed",
        [
            "not kept: too few rows were scored to be sure of f1, and maxQualityDrop is 0.01",
            "not kept: too few rows were scored to be sure of agreement, and minAgreement is 0.9",
        ],
    )


def test_one_broken_limit_is_enough_to_fail_and_no_limit_at_all_passes():
    assert told(Limits(min_size_ratio=3, max_latency_ratio=0.1), FIGURES)[0] == "NotPassed"
    assert told(None, Figures()) == ("Passed", [])


def test_what_got_better_has_not_dropped():
    better = Figures(quality=Interval(value=0.004, low=-0.001, high=0.01))

    assert told(Limits(max_quality_drop=0), better, "perplexity") == (
        "Passed",
        ["ok: perplexity is 0.004 better as a share, and maxQualityDrop is 0"],
    )


def test_how_far_a_limit_is_missed_is_told_as_a_share_of_it():
    found = checks(Limits(min_size_ratio=4, max_latency_ratio=0.4), FIGURES)

    assert [check.excess for check in found] == pytest.approx([0.02, 0.0825])


@pytest.mark.parametrize(
    ("figures", "metric", "values", "said"),
    [
        (FIGURES, "f1", (0.843, 0.84), "3.92x smaller, 2.31x faster, f1 -0.003 (0.843 to 0.840) on 1,061 test rows"),
        (Figures(size_ratio=2), "f1", (0.8432, 0.8429), "2.00x smaller, f1 +0.000 (0.843 to 0.843) on 1,061 test rows"),
        (
            Figures(size_ratio=0.8, latency_ratio=1.25),
            "perplexity",
            (122.38, 122.43),
            "1.25x larger, 1.25x slower, perplexity 0.04% worse (122.38 to 122.43) on 1,061 test rows",
        ),
        (
            Figures(size_ratio=2),
            "loss",
            (2.0, 1.9),
            "2.00x smaller, loss 5.00% better (2.000 to 1.900) on 1,061 test rows",
        ),
    ],
)
def test_all_of_it_is_one_sentence(figures: Figures, metric: str, values: tuple[float, float], said: str):
    assert sentence(figures, metric, values, "1,061 test rows") == said
    assert sentence(figures, metric, values, "1,061 test rows", "Passed") == f"{said}: passed"
    broken = [
        Check(limit="minSizeRatio", kept=True, sentence="this"),
        Check(
            limit="maxLatencyRatio",
            kept=False,
            sentence="latency is 0.62 of the original's, and maxLatencyRatio is 0.5",
        ),
    ]
    assert sentence(figures, metric, values, "1,061 test rows", "NotPassed", broken) == (
        f"{said}: not passed: latency is 0.62 of the original's, and maxLatencyRatio is 0.5"
    )
