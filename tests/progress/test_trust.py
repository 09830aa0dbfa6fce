"""A pod speaks for a run when its token, its owners and the URL all say the same; each link is broken once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from fakecluster import FakeCluster
from lmops.plan import Manifest
from lmops.progress.tokens import Holder
from lmops.progress.trust import Trust, owner_of

HOLDER = Holder("default", "reviews-train-a1-master-0", "p-1")
URL = {"namespace": "default", "job": "reviews", "run": "reviews-train-a1"}


def made(kind: str, name: str, uid: str, owner: Manifest | None = None) -> Manifest:
    """An object with its controller."""
    references = [{**owner, "controller": True}] if owner else []
    metadata = {"name": name, "namespace": "default", "uid": uid, "ownerReferences": references}
    return {"kind": kind, "metadata": metadata}


JOB = {"apiVersion": "lmops.dev/v1alpha1", "kind": "TrainingJob", "name": "reviews", "uid": "t-1"}
CHILD = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "reviews-train-a1", "uid": "c-1"}
POD = made("Pod", HOLDER.pod, "p-1", CHILD)
WORKLOAD = made("PyTorchJob", "reviews-train-a1", "c-1", JOB)


def cluster(*objects: Manifest) -> FakeCluster:
    server = FakeCluster()
    for manifest in objects:
        server.put(manifest)
    return server


def verdict(objects: tuple[Manifest, ...] = (POD, WORKLOAD), holder: Holder = HOLDER, **url: str) -> str:
    return asyncio.run(owner_of(cluster(*objects), holder, **{**URL, **url}))


def changed(manifest: Manifest, change: Callable[[Manifest], Any]) -> Manifest:
    """A copy with another controller reference, or none."""
    copied = copy.deepcopy(manifest)
    change(copied["metadata"]["ownerReferences"])
    return copied


def test_a_pod_of_the_run_speaks_for_its_job():
    assert verdict() == "t-1"


def test_a_pod_of_a_preparation_does_too():
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "reviews-prepare-a0", "uid": "c-0"}
    pod, job = made("Pod", "reviews-prepare-a0-x2x", "p-0", owner), made("Job", "reviews-prepare-a0", "c-0", JOB)

    assert verdict((pod, job), Holder("default", "reviews-prepare-a0-x2x", "p-0"), run="reviews-prepare-a0") == "t-1"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"holder": Holder("default")}, "the token was given to no pod"),
        (
            {"holder": HOLDER._replace(namespace="other")},
            "pod reviews-train-a1-master-0 is in namespace other, and not in default",
        ),
        ({"objects": (WORKLOAD,)}, "Pod reviews-train-a1-master-0 is gone"),
        ({"holder": HOLDER._replace(uid="p-0")}, "Pod reviews-train-a1-master-0 is another one of that name"),
        (
            {"objects": (changed(POD, list.clear), WORKLOAD)},
            "Pod reviews-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(controller=False)), WORKLOAD)},
            "Pod reviews-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(kind="ReplicaSet")), WORKLOAD)},
            "Pod reviews-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(apiVersion="evil.dev/v1")), WORKLOAD)},
            "Pod reviews-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        ({"objects": (POD,)}, "PyTorchJob reviews-train-a1 is gone"),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(uid="c-0")), WORKLOAD)},
            "PyTorchJob reviews-train-a1 is another one of that name",
        ),
        (
            {"objects": (POD, changed(WORKLOAD, list.clear))},
            "PyTorchJob reviews-train-a1 is controlled by no TrainingJob",
        ),
        (
            {"objects": (POD, changed(WORKLOAD, lambda refs: refs[0].update(apiVersion="evil.dev/v1")))},
            "PyTorchJob reviews-train-a1 is controlled by no TrainingJob",
        ),
        (
            {"job": "other"},
            "pod reviews-train-a1-master-0 belongs to TrainingJob reviews, and not to other",
        ),
        (
            {"run": "reviews-train-a2"},
            "pod reviews-train-a1-master-0 belongs to run reviews-train-a1, and not to reviews-train-a2",
        ),
    ],
)
def test_a_broken_link_is_named(case: dict[str, Any], said: str):
    with pytest.raises(Exception, match="^" + said + "$") as raised:
        verdict(**case)

    assert type(raised.value).__name__ == "ForeignError"


def test_labels_prove_nothing():
    stranger = made("Pod", "stranger", "p-9")
    stranger["metadata"]["labels"] = {"lmops.dev/job": "reviews", "lmops.dev/run": "reviews-train-a1"}

    with pytest.raises(Exception, match="Pod stranger is controlled by no Job or PyTorchJob"):
        verdict((stranger, WORKLOAD), Holder("default", "stranger", "p-9"))


async def verify(token: str) -> Holder | None:
    return {"good": HOLDER, "stranger": Holder("default")}.get(token)


def guarded(header: str | None, server: FakeCluster) -> tuple[int, str]:
    """What the guard says of a request: the UID, or the refusal."""
    request = make_mocked_request("POST", "/", headers={"Authorization": header} if header is not None else {})
    request._match_info = dict(URL)  # type: ignore[assignment]
    try:
        return 200, asyncio.run(Trust(server, verify, "lmops.dev")(request))
    except web.HTTPException as refusal:
        return refusal.status, str(refusal.text)


MISSING = "no token: send the pod's ServiceAccount token as Authorization: Bearer\n"
INVALID = "the token is not valid: it must be a pod's own, for the audience lmops.dev\n"


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("Bearer good", (200, "t-1")),
        ("bearer good", (200, "t-1")),
        (None, (401, MISSING)),
        ("", (401, MISSING)),
        ("Bearer ", (401, MISSING)),
        ("Basic good", (401, MISSING)),
        ("Bearer bad", (401, INVALID)),
        ("Bearer stranger", (403, "the token was given to no pod\n")),
    ],
)
def test_the_guard_answers(header: str | None, answer: tuple[int, str]):
    assert guarded(header, cluster(POD, WORKLOAD)) == answer


def test_who_brings_no_token_is_told_how_to():
    request = make_mocked_request("POST", "/")

    with pytest.raises(web.HTTPUnauthorized) as raised:
        asyncio.run(Trust(cluster(), verify, "lmops.dev")(request))
    assert raised.value.headers["WWW-Authenticate"] == "Bearer"


def test_the_chain_is_walked_once_for_many_posts():
    server = cluster(POD, WORKLOAD)
    request = make_mocked_request("POST", "/", headers={"Authorization": "Bearer good"})
    request._match_info = dict(URL)  # type: ignore[assignment]
    trust = Trust(server, verify, "lmops.dev")

    async def play() -> None:
        for _ in range(5):
            assert await trust(request) == "t-1"

    asyncio.run(play())
    assert server.requests == 2
