"""The fake server keeps the rules of a real one: it would prove nothing otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from lmops.cluster import RefusedError
from store import Store

NAME = ("Job", "default", "a")


def job(**spec: Any) -> dict[str, Any]:
    return {"kind": "Job", "metadata": {"name": "a", "namespace": "default"}, "spec": spec}


def test_an_apply_drops_what_it_no_longer_says_and_leaves_what_others_say():
    store = Store()
    store.apply(NAME, job(mine=1, old=2), "lmops")
    store.patch(NAME, {"spec": {"theirs": 3}}, manager="kueue")
    store.apply(NAME, job(mine=4), "lmops")

    assert store.objects[NAME]["spec"] == {"mine": 4, "theirs": 3}
    assert store.objects[NAME]["metadata"]["generation"] == 3


def test_an_apply_of_anothers_field_is_a_conflict_unless_it_is_forced():
    store = Store()
    store.apply(NAME, job(size=1), "lmops")
    store.patch(NAME, {"spec": {"size": 2}}, manager="kubectl-edit")
    with pytest.raises(RefusedError, match='conflict with "kubectl-edit"'):
        store.apply(NAME, job(size=3), "lmops")

    assert store.apply(NAME, job(size=3), "lmops", force=True)["spec"] == {"size": 3}


def test_an_apply_of_the_same_changes_no_version():
    store = Store()
    before = store.apply(NAME, job(size=1), "lmops")["metadata"]["resourceVersion"]

    assert store.apply(NAME, job(size=1), "lmops")["metadata"]["resourceVersion"] == before


def test_a_status_is_written_alone_and_never_with_the_rest():
    store = Store()
    store.create({**job(size=1), "status": {"x": 0}})
    store.patch(NAME, {"spec": {"size": 2}, "status": {"x": 1}})
    store.patch(NAME, {"spec": {"size": 3}, "status": {"x": 2}}, "status")

    assert (store.objects[NAME]["spec"], store.objects[NAME]["status"]) == ({"size": 2}, {"x": 2})


@pytest.mark.parametrize("asked", [{"uid": "other"}, {"version": "0"}])
def test_a_precondition_or_a_version_that_does_not_hold_is_a_conflict(asked: dict[str, str]):
    store = Store()
    store.create(job())
    with pytest.raises(RefusedError, match="precondition"):
        store.delete(NAME, **asked)
    with pytest.raises(RefusedError, match="modified"):
        store.replace({**job(), "metadata": {**job()["metadata"], "resourceVersion": "0"}})


def test_a_foreground_deletion_leaves_the_object_until_its_finalizers_are_gone():
    store = Store()
    store.create(job())
    store.delete(NAME, foreground=True)
    assert "deletionTimestamp" in store.objects[NAME]["metadata"]
    store.patch(NAME, {"metadata": {"finalizers": []}})

    assert NAME not in store.objects


def test_who_watches_from_a_forgotten_version_is_told_so():
    store = Store()
    store.create(job())
    assert [change.type for change in store.since(0)] == ["ADDED"]
    store.forget()
    with pytest.raises(RefusedError, match="too old"):
        store.since(0)
