"""What keeps a job from its pods, in the words of others: of controllers that cannot make them, and of Kueue."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from faults import Fault, Faults
from lives import KEY, Life
from lmops.plan import Key

QUOTA = "exceeded quota: small, requested: limits.memory=8Gi, used: limits.memory=0, limited: limits.memory=1Gi"
KUEUE = "/apis/kueue.x-k8s.io"


def stuck(**spec: Any) -> Life:
    """A job whose first child was created, and gets no pod."""
    life = Life(**spec)

    async def play() -> None:
        await life.controller.resync()
        await life.controller.reconcile(KEY)
        child = life.store.of("Job")[0]
        born = (life.now - timedelta(seconds=1)).isoformat()
        life.store.put({**child, "metadata": {**child["metadata"], "creationTimestamp": born}})
        life.watch()

    asyncio.run(play())
    return life


def complains(life: Life, note: str, at: int = 0, uid: str = "", reason: str = "FailedCreate") -> None:
    """Kubernetes' Job controller could not create a pod, and tells it as it does."""
    [child] = life.store.of("Job")
    life.store.put_new({
        "kind": "Event",
        "metadata": {"name": f"event-{life.store.version}", "namespace": KEY.namespace},
        "reason": reason,
        "note": f'Error creating: pods "reviews-prepare-a0-{at}xk" is forbidden: {note}',
        "deprecatedLastTimestamp": f"2026-11-23T12:00:{at:02}Z",
        "regarding": {"kind": "Job", "name": child["metadata"]["name"], "uid": uid or child["metadata"]["uid"]},
    })  # fmt: skip


def look(life: Life, seconds: float = 0) -> list[Key]:
    """Time passes, and somebody is asked; whose reconcile is due then is reconciled."""
    life.now += timedelta(seconds=seconds)
    told: list[Key] = []

    async def play() -> None:
        await life.controller.obstacles.look(told.append)
        for key in told:
            await life.controller.reconcile(key)
        life.watch()

    asyncio.run(play())
    return told


def shown(life: Life) -> tuple[str, str]:
    """The phase and the reason, as `kubectl get` shows them."""
    return life.status["phase"], life.status["display"]["reason"]


def events(life: Life) -> list[tuple[str, str]]:
    """The events of the job."""
    return [(e["type"], e["reason"]) for e in life.store.of("Event") if e["regarding"]["kind"] == "TrainingJob"]


def test_a_job_whose_pods_cannot_be_created_says_why():
    life = stuck()
    complains(life, "something else", at=1)
    complains(life, QUOTA, at=2)
    complains(life, "of another", at=3, uid="another")
    complains(life, "of no interest", at=4, reason="BackoffLimitExceeded")

    assert (look(life, seconds=5), look(life, seconds=10)) == ([], [KEY])
    assert life.status["phase"] == "Pending"
    assert life.status["display"]["reason"].startswith("FailedCreate: exceeded quota: small, requested: limits.memory")
    assert [c["message"] for c in life.status["conditions"] if c["type"] == "Progressing"] == [f"FailedCreate: {QUOTA}"]
    assert events(life) == [("Normal", "Created"), ("Warning", "FailedCreate")]
    version = life.store.version
    complains(life, QUOTA.replace("memory=0", "memory=1Gi"), at=5)
    assert look(life, seconds=15) == []  # that other amounts are used now is no news
    assert life.store.version == version + 1


def test_the_words_are_forgotten_once_there_are_pods():
    life = stuck()
    complains(life, QUOTA)
    look(life, seconds=15)
    life.nodes.step(life.now)
    life.nodes.step(life.now)
    life.watch()
    asked = life.server.requests

    assert look(life, seconds=15) == [KEY]
    assert (shown(life)[0], life.controller.obstacles.heard) == ("Preparing", {})
    assert life.server.requests - asked <= 3


def test_pods_that_could_not_be_created_for_too_long_fail_the_job_with_these_words():
    life = stuck(retry={"pendingSeconds": 60})
    complains(life, 'error looking up service account default/nobody: serviceaccount "nobody" not found')
    look(life, seconds=15)
    life.now += timedelta(seconds=50)
    asyncio.run(life.controller.reconcile(KEY))

    failure = life.job["status"]["failure"]
    assert failure == {
        "class": "Settings",
        "reason": "FailedCreate",
        "message": "Job reviews-prepare-a0 has no pods: error looking up service account default/nobody: "
        'serviceaccount "nobody" not found',
        "evidence": ['error looking up service account default/nobody: serviceaccount "nobody" not found'],
        "remedy": "Create the ServiceAccount, or correct pod.serviceAccountName.",
    }


def test_many_stuck_jobs_cost_one_request_a_look():
    life = stuck()
    [child] = life.store.of("Job")
    for number in range(20):
        labels = {**child["metadata"]["labels"], "lmops.dev/job": f"job-{number}"}
        metadata = {**child["metadata"], "name": f"job-{number}-prepare-a0", "labels": labels}
        life.store.put_new({**child, "metadata": metadata})
    life.watch()
    asked = life.server.requests
    look(life, seconds=60)

    assert life.server.requests - asked == 1


def test_an_operator_that_may_not_list_events_goes_without(caplog: pytest.LogCaptureFixture):
    life = stuck()
    complains(life, QUOTA)
    life.server.faults = Faults(Fault("answer", 403, "Forbidden", kinds=frozenset({"Event"})))

    assert look(life, seconds=15) == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def kueue(life: Life, **status: Any) -> None:
    """Kueue is installed, with a LocalQueue gpu."""
    life.server.documents[KUEUE] = {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
    if status:
        life.server.documents[f"{KUEUE}/v1beta2/namespaces/default/localqueues/gpu"] = {"status": status}


def test_a_job_whose_queue_nobody_serves_says_so_after_a_minute():
    life = stuck(queueName="gpu")
    seen = [(look(life, seconds=30), shown(life)), (look(life, seconds=30), shown(life))]
    kueue(life)
    seen.append((look(life), shown(life)))
    kueue(life, conditions=[{"type": "Active", "status": "False", "message": "The ClusterQueue is missing"}])
    seen.append((look(life), shown(life)))
    kueue(life, conditions=[{"type": "Active", "status": "True", "message": "Can submit new workloads"}])
    seen.append((look(life), shown(life)))

    assert seen == [
        ([], ("Pending", "waiting for its pods")),
        ([KEY], ("Queued", "waits in queue gpu; Kueue is not installed")),
        ([KEY], ("Queued", "waits in queue gpu; there is no LocalQueue gpu in namespace default")),
        ([KEY], ("Queued", "waits in queue gpu; it takes nothing: The ClusterQueue is missing")),
        ([KEY], ("Queued", "waits in queue gpu")),
    ]
    assert events(life)[1:] == [
        ("Warning", "KueueMissing"),
        ("Warning", "QueueMissing"),
        ("Warning", "QueueInactive"),
        ("Normal", "Queued"),
    ]
