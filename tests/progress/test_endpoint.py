"""What the endpoint answers, and how seldom it writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientSession, web

from lmops.progress.endpoint import BODY_LIMIT, TRIES, Endpoint
from posts import Shelf, body, reported, status

RUN = "/namespaces/default/trainingjobs/a/runs/a-train-a1"


def answers(endpoint: Endpoint, *requests: tuple[str, Any]) -> list[tuple[int, str]]:
    """The answers of a real server to paths and bodies, one after the other."""

    async def ask() -> list[tuple[int, str]]:
        runner = web.AppRunner(endpoint.application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told = []
        async with ClientSession("http://{}:{}".format(*runner.addresses[0][:2])) as session:
            for path, sent in requests:
                if callable(sent):  # something that happens in between
                    sent()
                    continue
                data = sent if isinstance(sent, bytes) else None
                async with session.post(path, data=data, json=None if data is not None else sent) as answer:
                    told.append((answer.status, await answer.text()))
        await runner.cleanup()
        return told

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "sent", "answer"),
    [
        (RUN, body(), (200, '{"written": true}')),
        (RUN.replace("a1", "a9"), body(), (404, "default/a/a-train-a9: no such run\n")),
        (RUN.replace("jobs/a", "jobs/b"), body(), (404, "default/b/a-train-a1: no such run\n")),
        (RUN, ["no", "post"], (400, "the body is no trainer status\n")),
        (RUN, {"trainerStatus": {"metrics": None}}, (400, "the body is no trainer status\n")),
        (RUN, b"\xff", (400, "the body is no trainer status\n")),
        (RUN, b"[" * BODY_LIMIT, (400, "the body is no trainer status\n")),
    ],
)
def test_the_endpoint_answers_by_what_it_was_sent(path: str, sent: Any, answer: tuple[int, str]) -> None:
    shelf = Shelf(status())

    assert answers(Endpoint(shelf), (path, sent)) == [answer]
    assert [patch["display"]["progress"] for patch in shelf.patches] == (["50%"] if answer[0] == 200 else [])


@pytest.mark.parametrize(("extra", "code"), [(0, 200), (1, 413)])
def test_a_body_may_have_64_kibibytes(extra: int, code: int) -> None:
    sent = b'{"trainerStatus": {"progressPercentage": 50}}'
    sent += b" " * (64 * 1024 - len(sent) + extra)

    assert [status for status, _ in answers(Endpoint(Shelf(status())), (RUN, sent))] == [code]


def test_a_job_is_written_once_in_ten_seconds_and_not_even_read_in_between() -> None:
    shelf = Shelf(status())

    told = answers(Endpoint(shelf), *[(RUN, body(current_step=step)) for step in range(5)])

    assert [text for _, text in told] == ['{"written": true}'] + ['{"written": false}'] * 4
    assert (shelf.reads, len(shelf.patches)) == (1, 1)


def test_what_another_replica_has_just_written_is_read_once() -> None:
    shelf = Shelf(status(progress=reported(10, at=datetime.now(UTC))))

    answers(Endpoint(shelf), *[(RUN, body(current_step=step)) for step in range(11, 16)])

    assert (shelf.reads, len(shelf.patches)) == (1, 0)


def test_an_evaluation_posted_too_soon_goes_with_the_next_post() -> None:
    endpoint = Endpoint(shelf := Shelf(status()))

    def later() -> None:
        endpoint.throttle = timedelta()

    answers(
        endpoint,
        (RUN, body(current_step=10)),
        (RUN, body(current_step=11, eval_f1=0.4)),
        (RUN, body(current_step=11, eval_f1=0.5)),
        (RUN, later),
        (RUN, body(current_step=12)),
    )

    assert [patch["metrics"].get("evaluation") for patch in shelf.patches] == [None, {"f1": 0.5}]


def test_an_evaluation_is_written_before_the_throttle_is_over_and_not_with_the_next_breath() -> None:
    def seen(**metrics: float) -> int:
        shelf = Shelf(status(progress=reported(10, at=datetime.now(UTC) - timedelta(seconds=5))))
        answers(Endpoint(shelf), *[(RUN, body(current_step=step, **metrics)) for step in (11, 12)])
        return len(shelf.patches)

    assert (seen(), seen(eval_f1=0.5)) == (0, 1)


def test_of_a_run_that_is_over_nothing_is_kept() -> None:
    ended = status().model_copy(update={"runs": [r.model_copy(update={"state": "Stopped"}) for r in status().runs]})
    endpoint = Endpoint(Shelf(ended))

    assert answers(endpoint, (RUN, body(eval_f1=0.5))) == [(200, '{"written": false}')]
    assert len(endpoint._heard) == 0


@pytest.mark.parametrize(
    ("conflicts", "answer"),
    [
        (TRIES - 1, (200, '{"written": true}')),
        (TRIES, (409, "default/a/a-train-a1: its job changes all the time; post again\n")),
    ],
)
def test_a_job_that_has_changed_is_read_again(conflicts: int, answer: tuple[int, str]) -> None:
    shelf = Shelf(status(), conflicts)

    assert answers(Endpoint(shelf), (RUN, body())) == [answer]
    assert shelf.reads == TRIES


@pytest.mark.parametrize(
    ("owner", "answer"),
    [
        ("u-1", (200, '{"written": true}')),
        ("u-0", (403, "this pod belongs to an earlier TrainingJob a\n")),
    ],
)
def test_a_pod_speaks_for_its_own_job_and_not_for_the_next_of_that_name(owner: str, answer: tuple[int, str]) -> None:
    async def guard(request: web.Request) -> str:
        return owner

    assert answers(Endpoint(Shelf(status()), guard=guard), (RUN, body())) == [answer]
