"""Replicas as processes against an API server over HTTP: who leads writes, and nobody else does (row 10)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fakeapi import FakeApi
from lives import submit
from lmops.plan import Key
from operators import LEASE, Replica, replica, until, world

NAME = ("Lease", "default", LEASE)


def holder(api: FakeApi) -> str:
    """Who holds the Lease."""
    lease = api.store.objects.get(NAME)
    return str(lease["spec"]["holderIdentity"]) if lease else ""


def is_done(api: FakeApi, key: Key) -> bool:
    """Whether a job has succeeded."""
    return bool(api.store.objects[key].get("status", {}).get("phase") == "Succeeded")


@pytest.mark.slow
def test_row_10_a_leader_that_is_frozen_past_its_lease_writes_nothing_more(tmp_path: Path):
    async def play() -> None:
        async with world(tmp_path) as api, replica(api, tmp_path, "one") as one:
            await until(lambda: holder(api))
            async with replica(api, tmp_path, "two") as two:
                await until(lambda: any(asked.who == "two" for asked in api.asked))
                one.signal(signal.SIGSTOP)
                jobs, first = [submit(api.store, f"job-{n}") for n in range(3)], holder(api)
                took = await until(lambda: holder(api) != first, 25)
                await until(lambda: all(is_done(api, job) for job in jobs))
                one.signal(signal.SIGCONT)
                more = submit(api.store, "more")
                assert await one.ended() == 1
                await until(lambda: is_done(api, more))
                assert (api.writes("one"), took < 20, two.process.returncode) == ([], True, None)
                print(f"taken over {took:.1f} s after the leader was frozen")

    asyncio.run(play())


@pytest.mark.slow
def test_row_10_a_leader_that_is_killed_is_followed_by_one_that_finishes_its_work(tmp_path: Path):
    async def play() -> None:
        async with world(tmp_path, seconds=2) as api, replica(api, tmp_path, "one") as one:
            await until(lambda: holder(api))
            async with replica(api, tmp_path, "two"):
                await until(lambda: any(asked.who == "two" for asked in api.asked))
                job, first = submit(api.store), holder(api)
                await until(lambda: api.writes("one"))
                one.signal(signal.SIGKILL)
                took = await until(lambda: holder(api) != first, 30)
                await until(lambda: is_done(api, job))
                assert took < 20
                assert {n for ref, n in api.store.made.items() if ref.kind in ("Job", "PyTorchJob")} == {1}
                print(f"taken over {took:.1f} s after the leader was killed")

    asyncio.run(play())


def test_row_10_a_leader_that_is_told_to_end_hands_over_at_once_and_keeps_a_deleted_lease(tmp_path: Path):
    async def play() -> None:
        async with world(tmp_path) as api, replica(api, tmp_path, "one") as one, replica(api, tmp_path, "two") as two:
            await until(lambda: holder(api))
            job = submit(api.store, "first")
            await until(lambda: is_done(api, job))
            leader, other = (one, two) if api.writes("one") else (two, one)
            await asyncio.sleep(2.5)  # the other one has seen the lease
            first = holder(api)
            api.store.remove(api.store.objects[NAME])
            await until(lambda: holder(api))
            assert holder(api) == first
            leader.signal(signal.SIGTERM)
            assert await leader.ended() == 0
            took = await until(lambda: holder(api) not in ("", first), 15)
            more = submit(api.store, "more")
            await until(lambda: is_done(api, more))
            assert other.process.returncode is None
            print(f"taken over {took:.1f} s after the leader was told to end")

    asyncio.run(play())


@pytest.mark.parametrize("when", ["while it leads", "while it waits"])
def test_one_that_is_told_to_end_ends_well_in_any_weather(tmp_path: Path, when: str):
    async def ended(one: Replica) -> int:
        one.signal(signal.SIGTERM)
        return await one.ended()

    async def play() -> None:
        async with world(tmp_path) as api, replica(api, tmp_path, "one") as one:
            if when == "while it leads":
                await until(lambda: holder(api))
                job = submit(api.store)
                await until(lambda: is_done(api, job))
                await api.stop()
                await asyncio.sleep(1)
            else:
                await api.stop()
                await until(lambda: "waits for Lease" in one.log.read_text())
                await asyncio.sleep(1)
            assert await ended(one) == 0
            assert "Traceback" not in one.log.read_text()

    asyncio.run(play())


@pytest.mark.slow
def test_row_7_a_server_that_was_away_for_long_is_followed_within_25_seconds_of_its_return(tmp_path: Path):
    """LMOPS_TEST_AWAY says for how many seconds; 70 and more end the process, which is started again as in a pod."""
    away = float(os.environ.get("LMOPS_TEST_AWAY", "5"))

    async def kubelet(api: FakeApi) -> None:
        for start in range(100):
            async with replica(api, tmp_path, f"start-{start}") as one:
                await one.process.wait()
            await asyncio.sleep(10)

    async def play() -> None:
        async with world(tmp_path) as api:
            pod = asyncio.create_task(kubelet(api))
            first = submit(api.store, "first")
            await until(lambda: is_done(api, first))
            await api.stop()
            jobs = [submit(api.store, f"job-{n}") for n in range(5)]
            await asyncio.sleep(away)
            await api.start()
            took = await until(lambda: all(api.store.objects[job].get("status", {}).get("phase") for job in jobs), 25)
            await until(lambda: all(is_done(api, job) for job in jobs))
            print(f"away {away:.0f} s, followed {took:.1f} s after its return")
            pod.cancel()
            await asyncio.wait({pod})

    asyncio.run(play())
