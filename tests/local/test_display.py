"""What is shown of a job, on a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lmops.local.display import Screen, live_line
from lmops.local.stories.training import TRAINING

NAME = "trainingjob/reviews"


def training(percent: int, step: int) -> dict[str, Any]:
    """The status of a job in training."""
    run = {"percent": percent, "step": step, "steps": 282, "secondsRemaining": 46}
    return {
        "phase": "Running",
        "runs": [{"name": "reviews-train-a0", "stage": "train", "state": "Running"}],
        "progress": {"stage": "train", "runs": {"reviews-train-a0": run}},
        "metrics": {"loss": 0.412, "rowsPerSecond": 68.2},
        "display": {"metric": "f1=0.81"},
    }


def waiting(message: str) -> dict[str, Any]:
    """The status of a job whose pod does not start."""
    at = {"reason": "Pending", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    return {
        "phase": "Pending",
        "runs": [{"name": "reviews-train-a0", "stage": "train", "state": "Pending"}],
        "conditions": [{"type": "Progressing", "status": "True", "message": message, **at}],
    }


def plain(*shown: tuple[float, dict[str, Any]]) -> list[str]:
    """The lines that a file gets, for statuses seen at these seconds."""
    out, seconds = io.StringIO(), [0.0]
    with Screen(Console(file=out, highlight=False), clock=lambda: seconds[0]) as screen:
        for at, status in shown:
            seconds[0] = at
            screen.show(NAME, status, TRAINING)
    return out.getvalue().splitlines()


def text(percent: int, step: int) -> str:
    """The line of a moment."""
    return f"{NAME}   train     {percent} %  step {step}/282  loss 0.41  f1 0.81  68 rows/s  0:46 left"


def test_progress_is_told_every_ten_percent_or_ten_seconds() -> None:
    lines = plain(
        (0, training(0, 0)), (1, training(9, 25)), (2, training(10, 28)), (3, training(12, 34)), (13, training(13, 37))
    )

    assert lines == [f"{NAME}   train     started", text(10, 28), text(13, 37)]


def test_a_wait_is_told_once_and_only_when_it_lasts() -> None:
    lines = plain(
        (0, waiting("creating")),
        (0.5, waiting("no GPU")),
        (1, waiting("no GPU")),
        (3, waiting("no GPU")),
        (9, waiting("no GPU")),
    )

    assert lines == [f"{NAME}   train     no GPU"]


def test_a_stop_without_more_to_say_is_a_whole_sentence() -> None:
    stopped = {"name": "reviews-train-a0", "stage": "train", "state": "Stopped", "reason": "Suspended", "checkpoint": 5}

    [_, ended] = TRAINING.chapters({"runs": [stopped]})

    assert ended.sentence == "stopped: Suspended. The checkpoint of step 5 is kept."


def test_a_terminal_gets_one_line_with_a_bar() -> None:
    out = io.StringIO()
    Console(file=out, width=140).print(live_line(NAME, TRAINING.moment(training(68, 192))))

    assert out.getvalue().rstrip() == (
        f"{NAME}   train     ━━━━━━━━━━━━━━━━          68 %  step 192/282  loss 0.41  f1 0.81  68 rows/s  0:46 left"
    )


def test_a_terminal_keeps_a_line_of_each_finished_stage() -> None:
    out = io.StringIO()
    status = training(68, 192)
    status["runs"][0]["state"] = "Succeeded"
    status["best"] = {"step": 282, "metric": "f1", "value": 0.838}
    with Screen(Console(file=out, force_terminal=True, width=120, highlight=False)) as screen:
        screen.show(NAME, training(68, 192), TRAINING)
        screen.show(NAME, status, TRAINING)

    assert f"{NAME}   train     best f1 0.838 at step 282" in out.getvalue()
    assert "started" not in out.getvalue()
