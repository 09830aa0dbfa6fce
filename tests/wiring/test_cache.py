"""What the operator remembers: never less than there is, and nothing of what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from faults import NONE, Fault, Faults
from lives import KEY, Life, submit
from lmops.cluster import RefusedError
from lmops.plan import Key, Manifest
from lmops.trimming import trimmed


def test_nothing_is_remembered_of_a_resource_that_is_gone():
    life = Life().run()
    life.store.remove(life.job)
    for child in [*life.store.of("Pod"), *life.store.of("Job", "PyTorchJob")]:
        life.store.put({**child, "metadata": {**child["metadata"], "deletionTimestamp": "2026-11-23T13:00:00Z"}})
        life.store.remove(child)
    life.watch()
    asyncio.run(life.controller.reconcile(KEY))

    cache = life.controller.cache
    kept = (cache._parts, cache._settled, cache.doubtful, life.controller.refused)
    assert (len(cache), kept) == (0, ({}, {}, {}, {}))


def test_row_3_a_resource_that_is_younger_than_a_list_stays_known():
    life = Life()
    old = life.store.select("TrainingJob")

    async def play() -> list[Manifest]:
        young = submit(life.store, "young")
        life.watch()
        life.server.list = _stale(life.server.list, old)  # type: ignore[method-assign]
        await life.controller.resync()
        return [life.controller.cache.owner(young), life.controller.cache.owner(KEY)]  # type: ignore[list-item]

    assert all(asyncio.run(play()))


def test_row_3_a_child_that_is_younger_than_a_list_is_asked_for_before_it_counts_as_gone():
    life = Life()

    async def play() -> None:
        await life.controller.resync()
        await life.controller.reconcile(KEY)
        life.server.list = _stale(life.server.list, [])  # type: ignore[method-assign]
        await life.controller.resync()
        await life.controller.reconcile(KEY)

    asyncio.run(play())
    assert {ref.name: n for ref, n in life.store.made.items() if ref.kind == "Job"} == {"reviews-prepare-a0": 1}


def test_a_pod_that_is_born_while_pods_are_listed_is_not_forgotten():
    life = Life()

    async def play() -> None:
        await _begun(life)
        await _meanwhile(life, lambda: [life.nodes.step(life.now) for _ in range(2)])

    asyncio.run(play())
    assert [pod["status"]["phase"] for pod in life.controller.cache.observed(KEY).pods] == ["Running"]


def test_a_pod_that_goes_while_pods_are_listed_does_not_come_back_with_a_later_page():
    life = Life()

    async def play() -> None:
        await _begun(life)
        life.nodes.step(life.now)
        life.watch()
        await _meanwhile(life, lambda: life.store.remove(life.store.of("Pod")[0]))

    asyncio.run(play())
    assert life.controller.cache.observed(KEY).pods == ()


def test_a_pod_that_no_watch_calls_gone_is_missed_by_the_next_list():
    life = Life()

    async def play() -> None:
        await _begun(life)
        life.nodes.step(life.now)
        life.watch()
        life.store.remove(life.store.of("Pod")[0])
        await life.controller.resync()

    asyncio.run(play())
    assert life.controller.cache.observed(KEY).pods == ()


def test_what_one_list_has_told_is_not_forgotten_when_the_next_one_fails():
    life = Life()
    told: list[Key] = []

    async def play() -> None:
        await life.controller.resync()
        await life.controller.reconcile(KEY)
        life.nodes.step(life.now)  # a pod comes, and no watch tells of it
        life.server.faults = Faults(Fault("answer", 500, verbs=frozenset({"list"}), kinds=frozenset({"TrainingJob"})))
        with pytest.raises(RefusedError):
            await life.controller.resync(changed=told.append)

    asyncio.run(play())
    assert told == [KEY]


def test_nothing_is_decided_in_a_namespace_until_all_of_it_can_be_listed():
    life = Life()
    told: list[Key] = []
    life.server.faults = Faults(
        Fault("answer", 403, "Forbidden", kinds=frozenset({"QuantizeJob"}), namespaces=frozenset({KEY.namespace}))
    )

    async def play() -> None:
        for _ in range(2):
            await life.controller.resync((KEY.namespace, "other"), told.append)
            await life.controller.reconcile(KEY)
        assert (life.controller.forbidden, life.server.writes.total()) == ({"default": "the server is not well"}, 0)
        life.server.faults = NONE
        told.clear()
        await life.controller.resync((KEY.namespace, "other"), told.append)
        await life.controller.reconcile(KEY)

    asyncio.run(play())
    assert (told, life.server.writes["create"]) == ([KEY], 2)


def test_a_list_that_no_namespace_allows_has_failed():
    life = Life()
    life.server.faults = Faults(Fault("answer", 403, "Forbidden"))

    with pytest.raises(RefusedError):
        asyncio.run(life.controller.resync(("one", "two")))


def test_a_conflict_that_a_new_look_does_not_explain_is_left_to_the_back_off():
    life = Life()
    life.server.faults = Faults(Fault("answer", 409, "Conflict", verbs=frozenset({"patch"})))

    async def play() -> None:
        await life.controller.resync()
        await life.controller.reconcile(KEY)

    with pytest.raises(RefusedError):
        asyncio.run(play())


async def _begun(life: Life) -> None:
    """The first child is created."""
    await life.controller.resync()
    await life.controller.reconcile(KEY)
    life.watch()


async def _meanwhile(life: Life, act: Callable[[], object]) -> None:
    """Everything is listed; something happens, and a watch tells of it, before the one page of pods has come."""
    real = life.server.list

    async def listed(kind: str, namespace: str = "", selector: str = "") -> AsyncIterator[Manifest]:
        snapshot = life.store.select(kind, namespace, selector)
        if kind == "Pod":
            act()
            life.watch()
        for manifest in snapshot:
            yield manifest

    life.server.list = listed  # type: ignore[method-assign]
    await life.controller.resync()
    life.server.list = real  # type: ignore[method-assign]


def _stale(real: object, old: list[Manifest]) -> object:
    async def listed(kind: str, namespace: str = "", selector: str = "") -> AsyncIterator[Manifest]:
        for manifest in old:
            if manifest["kind"] == kind:
                yield manifest

    return listed


def a_pod(**status: object) -> Manifest:
    """A pod of the job, as a watch tells of it."""
    labels = {"lmops.dev/kind": KEY.kind, "lmops.dev/job": KEY.name}
    metadata = {"name": "p", "namespace": KEY.namespace, "uid": "u", "resourceVersion": "1", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "pytorch"}]}, "status": status}


def test_only_what_a_plan_reads_wakes_the_operator():
    cache = Life().controller.cache
    ready = {"type": "Ready", "status": "True"}
    lost = {"type": "DisruptionTarget", "status": "True", "reason": "Evicted"}
    versions = [
        a_pod(phase="Running", podIP="10.0.0.1"),
        a_pod(phase="Running", podIP="10.0.0.1", conditions=[ready]),
        a_pod(phase="Running", conditions=[ready, lost]),
        a_pod(phase="Failed", conditions=[ready, lost]),
    ]
    woken = []
    for number, pod in enumerate(versions, 1):
        pod["metadata"]["resourceVersion"] = str(number)
        woken.append(cache.take(pod) is not None)

    assert woken == [True, False, True, True]


def test_a_container_that_others_inject_is_not_taken_for_ours():
    injected = {"name": "istio-proxy", "state": {"running": {}}}
    ours = {"name": "pytorch", "state": {"terminated": {"exitCode": 1}}}

    kept = trimmed(a_pod(phase="Running", containerStatuses=[injected, ours]))

    assert kept["status"]["containerStatuses"] == [{"state": {"terminated": {"exitCode": 1}}}]


def test_the_pods_of_a_child_that_is_gone_are_there_until_they_have_gone_too():
    life = Life()

    async def play() -> None:
        await _begun(life)
        life.nodes.step(life.now)
        job, [pod] = life.store.of("Job")[0], life.store.of("Pod")
        left = {"name": "reviews-train-a0", "uid": "gone", "controller": True}
        labels = {**pod["metadata"]["labels"], "lmops.dev/run": "reviews-train-a0"}
        for name, owners in (
            ("left", [left]),
            ("bare", []),
            ("of-another", [{**left, "name": "debug-6d8f"}]),
        ):
            life.store.put_new({
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": labels, "ownerReferences": owners},
                "status": {"phase": "Running"},
            })  # fmt: skip
        forged = {"name": job["metadata"]["name"], "uid": "other", "controller": True}
        life.store.put_new({**pod, "metadata": {**pod["metadata"], "name": "forged", "ownerReferences": [forged]}})
        life.start_again()
        await life.controller.resync()

    asyncio.run(play())
    names = [pod["metadata"]["name"] for pod in life.controller.cache.observed(KEY).pods]
    assert sorted(names) == ["left", "reviews-prepare-a0-0"]


def test_a_list_wakes_no_job_that_has_ended():
    life = Life().run()
    asyncio.run(life.controller.reconcile(KEY))
    woken: list[Key] = []
    asyncio.run(life.controller.resync(changed=woken.append))

    assert (woken, len(life.controller.cache._settled[KEY])) == ([], 3)
    assert not [part for part in life.controller.cache._parts[KEY] if part.kind == "Pod"]


def test_the_child_of_a_failed_job_stays_when_its_controller_counts_its_pods_after_the_end():
    data = {"class": "Data", "reason": "UnknownColumn", "message": "No column", "remedy": "-"}
    life = Life(lambda stage, attempt: {"failure": data})

    async def play() -> None:
        await _begun(life)
        for _ in range(3):
            life.nodes.step(life.now)
        life.watch()
        for _ in range(2):
            await life.controller.reconcile(KEY)
        job = life.store.of("Job")[0]
        life.store.put({**job, "status": {"uncountedTerminatedPods": {"failed": ["u"]}}})
        life.watch()
        await life.controller.reconcile(KEY)

    asyncio.run(play())
    assert (life.status["phase"], life.server.writes["delete"]) == ("Failed", 0)


def test_a_pod_that_a_failed_job_still_makes_is_seen():
    cache = Life().controller.cache
    pod = a_pod(phase="Failed")
    cache.take(pod)
    cache.settle(KEY)
    late = {**pod, "metadata": {**pod["metadata"], "name": "late", "uid": "late"}, "status": {"phase": "Running"}}

    assert (cache.take(pod), cache.take(late)) == (None, KEY)
