"""The whole operator, with its watches and its client, against an API server that misbehaves: rows 6 to 9 and 16."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fakeapi import FakeApi
from faults import NONE, Fault, Faults
from lives import submit
from lmops import discovery, handlers, queue, service
from lmops.plan import Key
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
    monkeypatch.setattr(discovery, "LOOK", 0.2)
    patient = handlers.settings

    def hurried(*known: Any, **more: Any) -> Any:
        chosen = patient(*known, **more)
        chosen.networking.error_backoffs = (0.05, 0.1, 0.2)
        chosen.watching.inactivity_timeout = 2.0
        return chosen

    monkeypatch.setattr(handlers, "settings", hurried)


def phase(api: FakeApi, key: Key) -> str:
    """The phase of a job, as the server has it."""
    found: str = api.store.objects[key].get("status", {}).get("phase", "")
    return found


def reason(api: FakeApi, key: Key) -> str:
    """What `kubectl get` shows as its reason."""
    found: str = api.store.objects[key].get("status", {}).get("display", {}).get("reason", "")
    return found


def play(folder: Path, script: Callable[[FakeApi, Service], Awaitable[None]], seconds: float = 0) -> None:
    """Runs a script beside an operator that has done its first job. Pods run for so many seconds."""

    async def act() -> None:
        async with world(folder, seconds=seconds) as api, operator() as one:
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


def test_row_4_a_child_that_is_deleted_while_the_watch_is_blind_is_noticed_without_waiting_for_the_next_list(
    tmp_path: Path,
):
    async def script(api: FakeApi, one: Service) -> None:
        job = submit(api.store, "blind")
        await until(lambda: phase(api, job) == "Running")
        await api.stop()
        child = api.store.objects["PyTorchJob", "default", "blind-train-a0"]
        for gone in [*(pod for pod in api.store.of("Pod") if pod["metadata"]["name"] == "blind-train-a0-0"), child]:
            api.store.remove(gone)
        api.store.forget()
        await api.start()
        await until(lambda: phase(api, job) == ENDS, 20)
        runs = api.store.objects[job]["status"]["runs"]
        assert [(run["name"], run["reason"]) for run in runs][1:3] == [
            ("blind-train-a0", "Deleted"),
            ("blind-train-a1", "Completed"),
        ]

    play(tmp_path, script, seconds=1)


@pytest.mark.parametrize("history", ["kept", "lost"])
def test_row_7_a_server_that_was_away_is_followed_by_all_that_was_created_meanwhile(tmp_path: Path, history: str):
    async def script(api: FakeApi, one: Service) -> None:
        under_way = submit(api.store, "under-way")
        await until(lambda: phase(api, under_way))
        await api.stop()
        new = [submit(api.store, f"new-{n}") for n in range(5)]
        await asyncio.sleep(2)
        if history == "lost":
            api.store.forget()
        await api.start()
        assert await until(lambda: all(phase(api, job) for job in new), 25) < 25
        await until(lambda: all(phase(api, job) == ENDS for job in [under_way, *new]))
        assert {n for ref, n in api.store.made.items() if ref.kind != "Event"} == {1}
        assert one.problem() == ""

    play(tmp_path, script)


def test_row_8_a_kind_that_is_not_installed_is_told_and_nothing_is_lost_when_it_comes(tmp_path: Path):
    async def script(api: FakeApi, one: Service) -> None:
        api.uninstall("PyTorchJob")
        jobs = [submit(api.store, f"job-{n}") for n in range(10)]
        await until(lambda: all("PyTorchJobs are unknown here" in reason(api, job) for job in jobs))
        api.install("PyTorchJob")
        await until(lambda: all(phase(api, job) == ENDS for job in jobs))
        assert one.problem() == ""

    play(tmp_path, script)


def test_row_8_a_kind_that_is_served_only_some_time_after_its_crd_has_come_is_watched_all_the_same(tmp_path: Path):
    async def script(api: FakeApi, one: Service) -> None:
        api.uninstall("PyTorchJob")
        job = submit(api.store, "job")
        await until(lambda: "PyTorchJobs are unknown here" in reason(api, job))
        api.lagging.add("PyTorchJob")
        api.install("PyTorchJob")
        await asyncio.sleep(1)  # who looks when the CRD comes finds nothing
        api.lagging.clear()
        api.asked.clear()
        await until(lambda: ("list", "PyTorchJob", 200) in {(each.verb, each.kind, each.status) for each in api.asked})
        await until(lambda: phase(api, job) == ENDS)
        assert one.problem() == ""

    play(tmp_path, script)


def test_row_8_an_operator_of_some_namespaces_sees_a_kind_that_comes_and_reads_nothing_of_the_whole_cluster(
    tmp_path: Path,
):
    async def act() -> None:
        whole = frozenset({"CustomResourceDefinition", "Namespace"})
        async with world(tmp_path) as api:
            api.uninstall("PyTorchJob")
            api.faults = Faults(Fault("answer", 403, "Forbidden", kinds=whole))
            job = submit(api.store, "job")
            async with operator(namespaces=(job.namespace,)) as one:
                await until(lambda: "PyTorchJobs are unknown here" in reason(api, job))
                api.install("PyTorchJob")
                await until(lambda: phase(api, job) == ENDS)
                assert one.watch.starts == 2
            assert not [asked for asked in api.asked if asked.kind in whole]

    asyncio.run(act())


def test_row_8_a_webhook_that_is_down_is_told_and_nothing_is_lost_when_it_is_up_again(tmp_path: Path):
    async def script(api: FakeApi, one: Service) -> None:
        down = Fault("answer", 500, verbs=frozenset({"create"}), kinds=frozenset({"PyTorchJob"}))
        api.faults = Faults(down)
        jobs = [submit(api.store, f"job-{n}") for n in range(10)]
        await until(lambda: all("Kubernetes refused PyTorchJob" in reason(api, job) for job in jobs))
        api.faults = NONE
        await until(lambda: all(phase(api, job) == ENDS for job in jobs))

    play(tmp_path, script)


def test_row_9_rights_that_are_taken_and_given_back_end_nothing(tmp_path: Path):
    async def script(api: FakeApi, one: Service) -> None:
        kinds = WATCHED | {"Event", "CustomResourceDefinition"}
        api.faults = Faults(Fault("answer", 403, "Forbidden", kinds=kinds))
        await api.stop()
        await api.start()  # the watches have to be opened anew, and may not
        jobs = [submit(api.store, f"job-{n}") for n in range(3)]
        await until(lambda: "could not be listed" in one.trouble)
        await asyncio.sleep(2)
        assert (one.problem(), one.leader.leads) == ("", True)
        api.faults = NONE
        await until(lambda: all(phase(api, job) == ENDS for job in jobs))
        await until(lambda: one.trouble == "")

    play(tmp_path, script)


def test_row_9_a_namespace_that_may_not_be_read_does_not_stop_the_others(tmp_path: Path):
    forbidden = Faults(Fault("answer", 403, "Forbidden", namespaces=frozenset({"left"})))

    async def act() -> None:
        async with world(tmp_path) as api:
            api.faults = forbidden
            left = submit(api.store, "left", "left")
            jobs = [submit(api.store, f"job-{n}", where) for n, where in enumerate(("one", "two"))]
            async with operator(namespaces=("one", "left", "two"), resync=1) as one:
                await until(lambda: all(phase(api, job) == ENDS for job in jobs))
                assert (one.watch.starts, one.watch.namespaces) == (1, ("one", "two"))
                assert (one.waits(), one.lacks()) == ("", "namespaces that may not be read: left")
                assert 'lmops_namespace_readable{namespace="left"} 0.0' in one.exposed().decode()
                api.faults = NONE
                await until(lambda: phase(api, left) == ENDS)
                assert (one.watch.starts, one.lacks()) == (2, "")
                api.faults = forbidden  # as where somebody deletes the namespace, and its rights with it
                await until(one.lacks)
                again = submit(api.store, "again", "two")
                await until(lambda: phase(api, again) == ENDS)
                await asyncio.sleep(1)
                assert (one.watch.starts, one.problem()) == (3, "")

    asyncio.run(act())


def test_row_9_a_right_that_is_missing_is_told_on_the_resource(tmp_path: Path):
    async def script(api: FakeApi, one: Service) -> None:
        api.faults = Faults(Fault("answer", 403, "Forbidden", verbs=frozenset({"create"}), kinds=WATCHED | {"Event"}))
        job = submit(api.store)
        await until(lambda: reason(api, job).startswith("Forbidden: Kubernetes refused Job"))
        api.faults = NONE
        await until(lambda: phase(api, job) == ENDS)

    play(tmp_path, script)


def test_row_15_nothing_holds_back_what_is_deleted_when_the_operator_is_gone(tmp_path: Path):
    async def act() -> None:
        async with world(tmp_path) as api:
            async with operator():
                jobs = [submit(api.store, f"job-{n}") for n in range(2)]
                await until(lambda: phase(api, jobs[0]) == ENDS)
            assert [m["metadata"]["name"] for m in api.store.objects.values() if m["metadata"].get("finalizers")] == []
            for job in jobs:
                api.store.delete(job)
            api.uninstall("TrainingJob")
            await until(lambda: not api.store.of("TrainingJob", "Job", "PyTorchJob", "Pod"))

    asyncio.run(act())


def test_what_there_is_at_the_start_is_read_once(tmp_path: Path):
    async def act() -> None:
        async with world(tmp_path) as api:
            jobs = [submit(api.store, f"job-{n}") for n in range(150)]
            for job in jobs:
                api.store.put({**api.store.objects[job], "status": {"phase": ENDS, "observedGeneration": 1}})
            async with operator() as one:
                await until(lambda: one.works)
                new = submit(api.store, "new")
                await until(lambda: phase(api, new) == ENDS)
                assert len(one.controller.cache) == 151
            lists = [asked for asked in api.asked if (asked.verb, asked.kind) == ("list", "TrainingJob")]
            assert len(lists) == 1 + 2  # the version that a watch begins with, and two pages

    asyncio.run(act())


def test_a_watch_that_has_died_is_unwell_and_an_idle_cluster_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(handlers, "RECONNECT", 1)
    monkeypatch.setattr(service, "DEAF", 4.0)

    async def script(api: FakeApi, one: Service) -> None:
        await asyncio.sleep(5)  # nothing happens, but the watches are opened every second
        assert (one.problem(), one.watch.starts) == ("", 1)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("watcher for pods"):
                task.cancel()
        await until(lambda: one.problem().startswith("a watch was not opened for"))

    play(tmp_path, script)


def test_a_user_whom_nobody_knows_watches_as_well_as_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A restricted pod runs with any user id, and Kopf would ask for its name."""

    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", getuser)

    async def play() -> None:
        async with world(tmp_path) as api, operator() as one:
            job = submit(api.store)
            await until(lambda: phase(api, job) == ENDS)
            assert one.watch.starts == 1

    asyncio.run(play())


def test_a_watch_that_cannot_even_start_is_unwell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def broken(**known: Any) -> Any:
        raise RuntimeError("no way")

    monkeypatch.setattr("kopf.spawn_tasks", broken)
    monkeypatch.setattr(service, "DEAF", 0.5)
    monkeypatch.setattr(service, "BLIND", 0.2)

    async def play() -> None:
        async with world(tmp_path), operator() as one:
            await until(lambda: one.watch.starts > 3)
            await until(lambda: one.problem().startswith("a watch was not opened for"))
            assert one.waits().startswith("no watch is open for")

    asyncio.run(play())
