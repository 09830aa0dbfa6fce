"""A pod speaks for a run when its token, its owners and the URL all say the same; each link is broken once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from lmops.plan import Key, Manifest
from lmops.progress.tokens import Holder
from lmops.progress.trust import Trust, owner_of
from posts import HOLDER, OWNERS, Objects, chain, made

JOB = Key("TrainingJob", "default", "a")
URL = {"namespace": "default", "jobs": "trainingjobs", "job": "a", "run": "a-train-a1"}
POD, WORKLOAD, _ = chain()


def verdict(
    objects: tuple[Manifest, ...] = (POD, WORKLOAD), holder: Holder = HOLDER, job: Key = JOB, run: str = "a-train-a1"
) -> str:
    return asyncio.run(owner_of(Objects(*objects), holder, job, run))


def changed(manifest: Manifest, change: Callable[[Manifest], Any]) -> Manifest:
    """A copy with another controller reference, or none."""
    copied = copy.deepcopy(manifest)
    change(copied["metadata"]["ownerReferences"])
    return copied


def test_a_pod_of_the_run_speaks_for_its_job():
    assert verdict() == "u-1"


def test_a_pod_of_a_preparation_does_too():
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "a-prepare-a0", "uid": "c-0"}
    pod, job = made("Pod", "a-prepare-a0-x2x", "p-0", owner), made("Job", "a-prepare-a0", "c-0", OWNERS["TrainingJob"])

    assert verdict((pod, job), Holder("default", "a-prepare-a0-x2x", "p-0"), run="a-prepare-a0") == "u-1"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"holder": Holder("default")}, "the token was given to no pod"),
        (
            {"holder": HOLDER._replace(namespace="other")},
            "pod a-train-a1-master-0 is in namespace other, and not in default",
        ),
        ({"objects": (WORKLOAD,)}, "Pod a-train-a1-master-0 is gone"),
        ({"holder": HOLDER._replace(uid="p-0")}, "Pod a-train-a1-master-0 is another one of that name"),
        (
            {"objects": (changed(POD, list.clear), WORKLOAD)},
            "Pod a-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(controller=False)), WORKLOAD)},
            "Pod a-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(kind="ReplicaSet")), WORKLOAD)},
            "Pod a-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(apiVersion="evil.dev/v1")), WORKLOAD)},
            "Pod a-train-a1-master-0 is controlled by no Job or PyTorchJob",
        ),
        ({"objects": (POD,)}, "PyTorchJob a-train-a1 is gone"),
        (
            {"objects": (changed(POD, lambda refs: refs[0].update(uid="c-0")), WORKLOAD)},
            "PyTorchJob a-train-a1 is another one of that name",
        ),
        (
            {"objects": (POD, changed(WORKLOAD, list.clear))},
            "PyTorchJob a-train-a1 is controlled by no TrainingJob or QuantizeJob",
        ),
        (
            {"objects": (POD, changed(WORKLOAD, lambda refs: refs[0].update(apiVersion="evil.dev/v1")))},
            "PyTorchJob a-train-a1 is controlled by no TrainingJob or QuantizeJob",
        ),
        (
            {"job": JOB._replace(name="other")},
            "pod a-train-a1-master-0 belongs to TrainingJob a, and not to TrainingJob other",
        ),
        (
            {"job": JOB._replace(kind="QuantizeJob")},
            "pod a-train-a1-master-0 belongs to TrainingJob a, and not to QuantizeJob a",
        ),
        (
            {"run": "a-train-a2"},
            "pod a-train-a1-master-0 belongs to run a-train-a1, and not to a-train-a2",
        ),
    ],
)
def test_a_broken_link_is_named(case: dict[str, Any], said: str):
    with pytest.raises(Exception, match="^" + said + "$") as raised:
        verdict(**case)

    assert type(raised.value).__name__ == "ForeignError"


def test_labels_prove_nothing():
    stranger = made("Pod", "stranger", "p-9")
    stranger["metadata"]["labels"] = {"lmops.dev/job": "reviews", "lmops.dev/run": "a-train-a1"}

    with pytest.raises(Exception, match="Pod stranger is controlled by no Job or PyTorchJob"):
        verdict((stranger, WORKLOAD), Holder("default", "stranger", "p-9"))


async def verify(token: str) -> Holder | None:
    return {"good": HOLDER, "stranger": Holder("default")}.get(token)


def guarded(header: str | None, server: Objects) -> tuple[int, str]:
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
        ("Bearer good", (200, "u-1")),
        ("bearer good", (200, "u-1")),
        (None, (401, MISSING)),
        ("", (401, MISSING)),
        ("Bearer ", (401, MISSING)),
        ("Basic good", (401, MISSING)),
        ("Bearer bad", (401, INVALID)),
        ("Bearer stranger", (403, "the token was given to no pod\n")),
    ],
)
def test_the_guard_answers(header: str | None, answer: tuple[int, str]):
    assert guarded(header, Objects(POD, WORKLOAD)) == answer


def test_who_brings_no_token_is_told_how_to():
    request = make_mocked_request("POST", "/")

    with pytest.raises(web.HTTPUnauthorized) as raised:
        asyncio.run(Trust(Objects(), verify, "lmops.dev")(request))
    assert raised.value.headers["WWW-Authenticate"] == "Bearer"


def test_the_chain_is_walked_once_for_many_posts():
    server = Objects(POD, WORKLOAD)
    request = make_mocked_request("POST", "/", headers={"Authorization": "Bearer good"})
    request._match_info = dict(URL)  # type: ignore[assignment]
    trust = Trust(server, verify, "lmops.dev")

    async def play() -> None:
        for _ in range(5):
            assert await trust(request) == "u-1"

    asyncio.run(play())
    assert server.requests == ["get Pod", "get PyTorchJob"]
