"""The whole operator, with its watches and its client, against an API server that misbehaves: rows 6 to 9 and 16."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fakeapi import FakeApi
from faults import Fault, Faults
from lives import submit
from lmops import handlers, queue, service
from lmops.cache import Key
from lmops.service import Service
from operators import operator, until, world

ENDS = "Succeeded"
WATCHED = frozenset({"TrainingJob", "Job", "PyTorchJob", "Pod"})


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for seconds waits for tenths."""
    monkeypatch.setattr(handlers, "FIRST", 0.05)
    monkeypatch.setattr(handlers, "LONGEST", 1.0)
    monkeypatch.setattr(service, "LONGEST", 1.0)
    monkeypatch.setattr(service, "SETTLE", 0.05)
    monkeypatch.setattr(queue, "LONGEST", 1.0)
    patient = handlers.settings

    def hurried(children: list[str]) -> Any:
        chosen = patient(children)
        chosen.networking.error_backoffs = (0.05, 0.1, 0.2)
        chosen.watching.inactivity_timeout = 2.0
        return chosen

    monkeypatch.setattr(handlers, "settings", hurried)


def phase(api: FakeApi, key: Key) -> str:
    """The phase of a job, as the server has it."""
    found: str = api.store.objects[key].get("status", {}).get("phase", "")
    return found


def play(folder: Path, script: Callable[[FakeApi, Service], Awaitable[None]], **settings: Any) -> None:
    """Runs a script beside an operator that has done its first job."""

    async def act() -> None:
        async with world(folder) as api, operator(**settings) as one:
            first = submit(api.store, "first")
            await until(lambda: phase(api, first) == ENDS)
            await script(api, one)

    asyncio.run(act())


@pytest.mark.parametrize("what", ["error", "gone", "truncated", "silent", "closed"])
def test_row_6_a_watch_that_breaks_is_opened_again_and_nothing_is_missed(tmp_path: Path, what: Any):
    async def script(api: FakeApi, one: Service) -> None:
        api.faults = Faults(Fault("spoil", stream=what, verbs=frozenset({"watch"}), kinds=WATCHED, times=4))
        jobs = [submit(api.store, f"job-{n}") for n in range(3)]
        await until(lambda: all(phase(api, job) == ENDS for job in jobs))
        assert api.faults.struck.total() == 4
        assert one.problem() == ""
        assert set(api.store.made.values()) == {1}

    play(tmp_path, script)
