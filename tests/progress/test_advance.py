"""What a posted progress changes in the status."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from lmops.api import TrainingJob
from lmops.progress.advance import Post, advance
from posts import LATER, NOON, body, job, post, reported, status, work


def test_a_post_becomes_progress_metrics_and_two_words_to_show() -> None:
    told = post(
        current_step=192, total_steps=384, current_epoch=0.5, checkpoint_step=150, loss=0.41, rows_per_second=68
    )

    assert advance(work(job(status())), "a-train-a1", told, NOON) == {
        "progress": {
            "percent": 50,
            "secondsRemaining": 46,
            "updatedAt": "2026-01-01T12:00:00Z",
            "runs": {
                "a-train-a1": {
                    "attempt": 1,
                    "percent": 50,
                    "step": 192,
                    "steps": 384,
                    "epoch": 0.5,
                    "secondsRemaining": 46,
                    "checkpoint": 150,
                    "updatedAt": "2026-01-01T12:00:00Z",
                }
            },
        },
        "metrics": {"step": 192, "loss": 0.41, "rowsPerSecond": 68.0},
        "display": {"progress": "50%", "metric": "loss=0.41"},
    }


@pytest.mark.parametrize(
    ("metric", "posted", "shown"),
    [
        (None, {"loss": 0.41}, "loss=0.41"),
        (None, {"loss": 0.41, "eval_f1": 0.812, "eval_accuracy": 0.9}, "f1=0.81"),
        ("accuracy", {"eval_f1": 0.812, "eval_accuracy": 0.9}, "accuracy=0.90"),
        (None, {"eval_loss": 3.2}, "loss=3.20"),
    ],
)
def test_the_leading_metric_is_shown(metric: str | None, posted: dict[str, float], shown: str) -> None:
    evaluated = job(status(), evaluation={"metric": metric})
    patch = advance(work(evaluated), "a-train-a1", post(**posted), NOON)

    assert patch is not None
    assert patch["display"]["metric"] == shown


@pytest.mark.parametrize(
    ("why", "run", "progress", "told"),
    [
        ("an older attempt", "a-train-a0", reported(10), post(current_step=50)),
        ("a run that has ended", "a-prepare-a0", reported(10), post()),
        ("too soon", "a-train-a1", reported(10, at=LATER - timedelta(seconds=9)), post(current_step=11)),
    ],
)
def test_nothing_is_written(why: str, run: str, progress: dict[str, Any], told: Post) -> None:
    assert advance(work(job(status(progress=progress))), run, told, LATER) is None, why


def test_the_first_post_of_a_run_is_written_at_once() -> None:
    moment_ago = {**reported(10, at=NOON), "runs": {}}

    assert advance(work(job(status(progress=moment_ago))), "a-train-a1", post(), NOON) is not None


def test_a_loss_that_is_no_number_is_taken_out() -> None:
    patch = advance(work(job(status(metrics={"loss": 0.4}))), "a-train-a1", post(current_step=1, loss="nan"), NOON)

    assert patch is not None
    assert patch["metrics"] == {"step": 1, "loss": None}


def test_a_run_that_the_ledger_does_not_know_is_refused() -> None:
    with pytest.raises(LookupError):
        advance(work(job(status())), "b-train-a0", post(), NOON)


@pytest.mark.parametrize("told", [post(percent=9, current_step=9), post(percent=9, current_step=10, loss=0.1)])
def test_a_run_that_goes_over_old_steps_again_shows_that_it_is_alive_and_no_more(told: Post) -> None:
    patch = advance(work(job(status(progress=reported(10)))), "a-train-a1", told, LATER)

    assert patch is not None
    alive = {"updatedAt": "2026-01-01T12:00:10Z"}
    assert patch["progress"]["runs"] == {"a-train-a1": alive}
    assert patch["metrics"] == {}


def test_the_zero_percent_that_transformers_posts_at_every_start_moves_nothing_back() -> None:
    resumed = reported(40)
    resumed["runs"]["a-train-a1"] |= {"step": None, "updatedAt": None}  # as the reconciler starts an attempt

    patch = advance(work(job(status(progress=resumed))), "a-train-a1", post(percent=0, total_steps=100), NOON)

    assert patch is not None
    assert "percent" not in patch["progress"]["runs"]["a-train-a1"]


def test_an_attempt_that_begins_anew_is_believed_once_it_steps() -> None:
    resumed = reported(40)
    resumed["runs"]["a-train-a1"] |= {"step": None, "updatedAt": None}

    patch = advance(work(job(status(progress=resumed))), "a-train-a1", post(percent=3, current_step=3), NOON)

    assert patch is not None
    assert patch["progress"]["runs"]["a-train-a1"]["percent"] == 3


def test_a_trainer_of_the_users_own_is_the_whole_job() -> None:
    own = {"image": "mine:1", "command": ["python", "train.py"]}
    whole = TrainingJob.model_validate(
        {
            "metadata": {"name": "a"},
            "spec": {"output": {"uri": "pvc://m/y"}, "trainer": own},
            "status": {"runs": [{"name": "a-train-a0", "stage": "train", "state": "Running"}]},
        }
    )

    patch = advance(work(whole), "a-train-a0", post(percent=50), NOON)

    assert patch is not None
    assert patch["display"]["progress"] == "50%"


@pytest.mark.parametrize("number", [1e300, "-1e300", "1e400", "nan", "many"])
def test_a_wild_number_makes_no_status_that_a_server_would_refuse(number: Any) -> None:
    wild = post(current_step=number, memory_bytes=number, eval_f1=number, **{"eval_" + "x" * 129: 1})
    patch = advance(work(job(status())), "a-train-a1", wild, NOON)

    assert patch is not None
    counts = [patch["progress"]["runs"]["a-train-a1"].get("step", 0), patch["metrics"].get("memoryBytes") or 0]
    assert all(0 <= count <= 2**53 for count in counts)
    assert len(patch["metrics"].get("evaluation", {})) <= 1


@pytest.mark.parametrize(
    "wrong", [{}, {"trainerStatus": 1}, body(percent=float("nan")), {"trainerStatus": {"metrics": [{"name": "x"}]}}]
)
def test_what_is_no_post_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Post.model_validate(wrong)
