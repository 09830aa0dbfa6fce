"""The leader keeps the Secret, the others read it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from lmops.cluster import RefusedError
from lmops.progress.certificates import Keyring
from lmops.progress.secret import SECRET, Certificates
from lmops.settings import Settings
from posts import Objects

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(namespace="lmops")


def look(objects: Objects, leads: bool = True, now: datetime = NOON, settings: Settings = SETTINGS) -> Keyring | None:
    """What a replica finds, or makes."""
    return asyncio.run(Certificates(objects, settings, lambda: leads).current(now))


def test_the_leader_makes_what_is_not_there_and_the_others_wait():
    objects = Objects()

    assert look(objects, leads=False) is None
    made = look(objects)
    found = look(objects, leads=False)

    assert made is not None
    assert found is not None
    assert found.data() == made.data()
    assert objects.requests == ["get Secret", "get Secret", "create Secret", "get Secret"]
    secret = objects.objects["Secret", "lmops", SECRET]
    assert (secret["type"], sorted(secret["data"])) == (
        "kubernetes.io/tls",
        ["ca.crt", "ca.key", "tls.crt", "tls.key"],
    )
    assert found.server is not None
    assert found.server.names == (
        "lmops-progress.lmops.svc",
        "lmops-progress.lmops.svc.cluster.local",
        "lmops-progress.lmops",
        "lmops-progress",
    )


@pytest.mark.parametrize(
    ("days", "leads", "requests"),
    [
        (59, True, ["get Secret"]),
        (61, True, ["get Secret", "replace Secret"]),
        (61, False, ["get Secret"]),
    ],
)
def test_only_the_leader_renews_and_only_what_is_due(days: int, leads: bool, requests: list[str]):
    objects = Objects()
    look(objects)
    objects.requests.clear()
    look(objects, leads, NOON + timedelta(days=days))

    assert objects.requests == requests


def test_a_service_of_another_name_gets_a_certificate_of_its_own():
    objects = Objects()
    before = look(objects)
    after = look(objects, settings=SETTINGS.model_copy(update={"progress_service": "other"}))

    assert before is not None
    assert after is not None
    assert after.bundle == before.bundle
    assert after.server is not None
    assert after.server.names[0] == "other.lmops.svc"


def test_a_secret_that_is_not_in_order_is_made_anew(caplog: pytest.LogCaptureFixture):
    metadata = {"name": SECRET, "namespace": "lmops", "uid": "s-1", "labels": {"app": "x"}}
    objects = Objects({"kind": "Secret", "metadata": metadata, "data": {"tls.crt": "bm8="}})

    with caplog.at_level(logging.WARNING):
        assert look(objects, leads=False) is None
        assert look(objects) is not None

    assert f"Secret {SECRET} is not in order and will be made anew" in caplog.text
    assert "PRIVATE" not in caplog.text
    assert objects.objects["Secret", "lmops", SECRET]["metadata"]["labels"] == {"app": "x"}


def test_who_writes_second_takes_what_the_first_has_written():
    objects = Objects()
    first = look(objects)
    objects.troubles = [RefusedError(404, "NotFound", "not yet"), RefusedError(409, "AlreadyExists", "there already")]

    with pytest.raises(RefusedError):  # it looks again in a moment
        look(objects)
    second = look(objects)

    assert first is not None
    assert second is not None
    assert second.data() == first.data()
