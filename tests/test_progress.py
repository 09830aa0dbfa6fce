"""What a posted progress changes in the status, and what the endpoint answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientSession, web

from lmops.api import TrainingJob, TrainingJobStatus
from lmops.progress import BODY_LIMIT, advance, application

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=10)
SPEC = {
    "model": {"from": {"uri": "pvc://m/x"}, "task": "SequenceClassification"},
    "dataset": {"train": {"uri": "pvc://d/x"}},
    "output": {"uri": "pvc://m/y"},
}


def status(**changes: Any) -> TrainingJobStatus:
    """A job in its second attempt at training."""
    runs = [
        {"name": "a-prepare-a0", "stage": "prepare", "state": "Succeeded"},
        {"name": "a-train-a0", "stage": "train", "state": "Failed"},
        {"name": "a-train-a1", "stage": "train", "attempt": 1, "state": "Running"},
    ]
    return TrainingJobStatus.model_validate({"runs": runs, "progress": {"stage": "train", "percent": 5}, **changes})


def post(percent: float = 50, **metrics: Any) -> dict[str, Any]:
    """A post as a pod sends it."""
    told = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return {"trainerStatus": {"progressPercentage": percent, "estimatedRemainingSeconds": 46, "metrics": told}}


def reported(step: int, at: datetime = NOON) -> dict[str, Any]:
    """The progress of a run that has reported a step."""
    run = {"attempt": 1, "percent": step, "step": step, "steps": 100, "updatedAt": at}
    return {"stage": "train", "percent": 5, "updatedAt": at, "runs": {"a-train-a1": run}}


def test_a_post_becomes_progress_metrics_and_two_words_to_show() -> None:
    told = post(
        current_step=192, total_steps=384, current_epoch=0.5, checkpoint_step=150, loss=0.41, rows_per_second=68
    )

    assert advance(status(), "a-train-a1", told, NOON) == {
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
    patch = advance(status(), "a-train-a1", post(**posted), NOON, metric=metric)

    assert patch is not None
    assert patch["display"]["metric"] == shown


@pytest.mark.parametrize(
    ("why", "run", "progress", "told"),
    [
        ("an older attempt", "a-train-a0", reported(10), post(current_step=50)),
        ("a run that has ended", "a-prepare-a0", reported(10), post()),
        ("a step backward", "a-train-a1", reported(10), post(percent=9, current_step=9)),
        ("percent backward at the same step", "a-train-a1", reported(10), post(percent=9, current_step=10)),
        ("too soon", "a-train-a1", reported(10, at=LATER - timedelta(seconds=9)), post(current_step=11)),
    ],
)
def test_nothing_is_written(why: str, run: str, progress: dict[str, Any], told: dict[str, Any]) -> None:
    assert advance(status(progress=progress), run, told, LATER) is None, why


def test_the_first_post_of_a_run_is_written_at_once() -> None:
    moment_ago = {**reported(10, at=NOON), "runs": {}}

    assert advance(status(progress=moment_ago), "a-train-a1", post(), NOON) is not None


def test_a_loss_that_is_no_number_is_taken_out() -> None:
    patch = advance(status(metrics={"loss": 0.4}), "a-train-a1", post(current_step=1, loss="nan"), NOON)

    assert patch is not None
    assert patch["metrics"] == {"step": 1, "loss": None}


def test_a_run_that_the_ledger_does_not_know_is_refused() -> None:
    with pytest.raises(LookupError):
        advance(status(), "b-train-a0", post(), NOON)


class Shelf:
    """Jobs in memory."""

    def __init__(self) -> None:
        metadata = {"name": "a"}
        self.job = TrainingJob.model_validate({"metadata": metadata, "spec": SPEC, "status": status().manifest()})
        self.patches: list[dict[str, Any]] = []

    async def read(self, namespace: str, job: str) -> tuple[TrainingJob, str]:
        return {"default/a": (self.job, "7")}[f"{namespace}/{job}"]

    async def write(self, namespace: str, job: str, status: dict[str, Any], version: str) -> None:
        self.patches.append(status)


async def answers(shelf: Shelf, *requests: tuple[str, Any]) -> list[int]:
    """The status codes of requests to a real server."""
    runner = web.AppRunner(application(shelf))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with ClientSession(f"http://{host}:{port}") as session:
        codes = [(await session.post(path, json=body)).status for path, body in requests]
    await runner.cleanup()
    return codes


def test_the_endpoint_answers_by_what_it_was_sent() -> None:
    run, shelf = "/namespaces/default/trainingjobs/a/runs/a-train-a1", Shelf()

    codes = asyncio.run(
        answers(
            shelf,
            (run, post()),
            (run.replace("a1", "a9"), post()),
            (run.replace("jobs/a", "jobs/b"), post()),
            (run, ["no", "post"]),
            (run, {"trainerStatus": {"metrics": "x" * BODY_LIMIT}}),
        )
    )

    assert codes == [200, 404, 404, 400, 413]
    assert [patch["display"]["progress"] for patch in shelf.patches] == ["50%"]


@pytest.mark.parametrize(("kept", "evaluation"), [(1, {"f1": 0.5}), (0, {})])
def test_an_evaluation_posted_too_soon_goes_with_the_next_post_while_there_is_room(
    kept: int, evaluation: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmops.progress.HELD", kept)
    run, shelf = "/namespaces/default/trainingjobs/a/runs/a-train-a1", Shelf()
    fresh = {**reported(10, at=datetime.now(UTC))}
    shelf.job = shelf.job.model_copy(update={"status": status(progress=fresh)})

    async def evaluate_then_step() -> None:
        runner = web.AppRunner(application(shelf))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with ClientSession("http://{}:{}".format(*runner.addresses[0][:2])) as session:
            await session.post(run, json=post(current_step=11, eval_f1=0.5))
            shelf.job = shelf.job.model_copy(update={"status": status(progress=reported(10))})
            await session.post(run, json=post(current_step=12))
        await runner.cleanup()

    asyncio.run(evaluate_then_step())

    assert [patch["metrics"].get("evaluation", {}) for patch in shelf.patches] == [evaluation]
