"""`lmops local wait` returns when what is waited for has come, or says why it will not."""

from __future__ import annotations

from typing import Any

import pytest

from lmops.local.waiting import seconds


def test_a_job_is_waited_for_until_it_is_complete(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml", "--detach")

    assert laptop.lmops("wait", "tj/reviews") == (0, "trainingjob/reviews is Complete\n", "")


def test_a_job_that_fails_is_waited_for_no_longer(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml", TRAIN="fail")

    code, out, said = laptop.lmops("wait", "tj/reviews")

    assert (code, out) == (1, "")
    assert said == "trainingjob/reviews will not be Complete: LossNotFinite: The loss became NaN at step 1.\n"


def test_what_nobody_works_on_is_not_waited_for(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml")

    code, _, said = laptop.lmops("wait", "tj/reviews", "--for", "condition=Suspended")

    assert (code, said) == (
        1,
        "trainingjob/reviews is not Suspended, and no engine is at work on it: it is Succeeded\n",
    )


def test_patience_has_an_end(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=400", "--detach")

    code, _, said = laptop.lmops("wait", "tj/reviews", "--timeout", "0.5")
    laptop.lmops("delete", "tj/reviews")

    assert (code, said.startswith("trainingjob/reviews is not Complete after 0.5 s: it is ")) == (1, True)


@pytest.mark.parametrize(
    ("text", "length"),
    [("60", 60), ("0.5", 0.5), ("0", 0), ("60s", 60), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("500ms", 0.5)],
)
def test_a_duration_is_written_as_for_kubectl(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "5 minutes", "1d", "-1", "nan", "m", "1h30"])
def test_what_is_no_duration_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r" is no duration; write seconds, or as in 90s, 5m, 1h30m$"):
        seconds(text)


def test_a_timeout_is_a_duration(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=400", "--detach")

    late = laptop.lmops("wait", "tj/reviews", "--timeout", "300ms")[2]
    wrong = laptop.lmops("wait", "tj/reviews", "--timeout", "soon")
    laptop.lmops("delete", "tj/reviews")

    assert late.startswith("trainingjob/reviews is not Complete after 0.3 s: ")
    assert wrong == (1, "", "--timeout soon is no duration; write seconds, or as in 90s, 5m, 1h30m\n")
