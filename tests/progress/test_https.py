"""The endpoint over HTTPS, with the certificates and the names that it has on a cluster."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lmops.cluster import UnreachableError
from lmops.progress import server as module
from lmops.progress.secret import Certificates
from lmops.progress.server import Server
from posts import body
from replicas import HOST, KEY, SETTINGS, Pod, cluster, on_a_replica, serving


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        ("good", (200, '{"written": true}')),
        ("bad", (401, "the token is not valid: it must be a pod's own, for the audience lmops.dev\n")),
        ("other", (403, "Pod b-train-a0-master-0 is gone\n")),
    ],
)
def test_a_token_is_asked_for(token: str, answer: tuple[int, str], tmp_path: Path):
    async def act(replica: Server, pod: Pod) -> Any:
        return await pod.post(body())

    assert on_a_replica(act, cluster(), tmp_path, token) == [answer]


def test_many_posts_cost_one_review_and_one_look_at_the_owners(tmp_path: Path):
    objects = cluster()

    async def act(replica: Server, pod: Pod) -> Any:
        replica.endpoint.throttle = timedelta(seconds=10)
        return await pod.post(*[body(current_step=step) for step in range(10)])

    assert [text for _, text in on_a_replica(act, objects, tmp_path)] == ['{"written": true}'] + [
        '{"written": false}'
    ] * 9
    assert objects.requests == [
        "get Secret",
        "create Secret",
        "create TokenReview",
        "get Pod",
        "get PyTorchJob",
        "get TrainingJob",
        "patch TrainingJob",
    ]


def test_an_api_server_in_trouble_is_said_to_be(tmp_path: Path):
    objects = cluster()

    async def act(replica: Server, pod: Pod) -> Any:
        objects.troubles = [UnreachableError("connection reset")]
        return await pod.post(body(), body())

    assert on_a_replica(act, objects, tmp_path) == [
        (503, "the API server does not take it now; post again later\n"),
        (200, '{"written": true}'),
    ]


def test_a_replica_that_does_not_lead_shows_what_the_leader_made(tmp_path: Path):
    objects = cluster()

    async def play() -> Any:
        follower = Server(SETTINGS, objects, Certificates(objects, SETTINGS, lambda: False))
        async with follower.serving():
            await asyncio.sleep(0.1)
            assert not follower.ready.is_set()
            async with serving(objects) as (_, published):
                await asyncio.wait_for(follower.ready.wait(), 10)
                return await Pod(tmp_path, follower.port, published[-1]).post(body())

    assert asyncio.run(play()) == [(200, '{"written": true}')]
    assert [request for request in objects.requests if request.startswith("create S")] == ["create Secret"]


def test_a_new_certificate_is_shown_without_closing_what_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RELOAD", 0.05)
    objects = cluster()

    async def play() -> tuple[bytes, Any]:
        async with serving(objects) as (replica, published):
            first = Pod(tmp_path, replica.port, published[-1])
            reader, writer = await asyncio.open_connection(HOST, replica.port, ssl=first.context, server_hostname=HOST)
            del objects.objects[KEY]  # the leader makes another one, by another authority
            async with asyncio.timeout(10):
                while published[-1] == published[0]:
                    await asyncio.sleep(0.01)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.readline(), 10)
            writer.close()
            return answer, await Pod(tmp_path, replica.port, published[-1]).post(body())

    assert asyncio.run(play()) == (b"HTTP/1.1 404 Not Found\r\n", [(200, '{"written": true}')])


def test_a_client_with_another_authority_does_not_speak_to_it(tmp_path: Path):
    async def act(replica: Server, pod: Pod) -> Any:
        async with serving(cluster()) as (_, foreign):
            pod.ca.write_text(foreign[-1])
        return await pod.post(body())

    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        on_a_replica(act, cluster(), tmp_path)
