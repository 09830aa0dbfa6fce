"""A service beside an API server that misbehaves: its InferenceService is kept as it was written, and is ours alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from builders import NOON, SETTINGS
from fakecluster import CrashError, FakeCluster
from faults import NONE, crash, lose_reply
from lmops.cluster import RefusedError, UnreachableError
from lmops.controller import Controller, NotCreatedError
from lmops.kinds import KINDS
from lmops.plan import Key, Manifest
from serving.builders import A, B, job, service
from store import Store

KEY = Key("LanguageModelService", "default", "reviews")
CHILD = ("InferenceService", "default", "reviews")
DASHBOARD = ("ConfigMap", "default", "reviews-dashboard")
SOURCE = ("QuantizeJob", "default", "small")


class Serving:
    """A service, the job that it follows, and a KServe whose pods are ready at once."""

    def __init__(self) -> None:
        self.store = Store()
        self.server = FakeCluster(self.store)
        self.store.put_new(
            {**service().manifest(), "metadata": {"name": "reviews", "namespace": "default"}, "status": {}}
        )
        self.store.put_new(job(A))
        self.controller, self.told, self.makes_pods = self._controller(), 0, True

    @property
    def status(self) -> Manifest:
        """What the service says of itself."""
        found: Manifest = self.store.objects[KEY]["status"]
        return found

    @property
    def child(self) -> Manifest:
        """What serves it."""
        return self.store.objects[CHILD]

    def run(self, rounds: int = 30) -> Serving:
        """Lives until nothing moves any more."""
        asyncio.run(self._run(rounds))
        return self

    def publish(self, digest: str) -> None:
        """The job has made another model."""
        self.store.put({**self.store.objects[SOURCE], "status": job(digest)["status"]})

    async def _run(self, rounds: int) -> None:
        listed = False
        for _ in range(rounds):
            before = self.store.version
            try:
                if not listed:
                    await self.controller.resync()
                    listed = True
                self._watch()
                await self.controller.reconcile(KEY)
            except CrashError:
                self.server.faults, self.controller, listed = NONE, self._controller(), False
                continue
            except (RefusedError, UnreachableError, NotCreatedError):
                pass  # the queue would come back later
            self._kserve()
            if listed and self.store.version == before:
                return

    def _controller(self) -> Controller:
        return Controller(KINDS, self.server, SETTINGS, lambda: NOON)

    def _watch(self) -> None:
        changes, self.told = self.store.since(self.told), self.store.version
        for change in changes:
            cache = self.controller.cache
            cache.drop(change.manifest) if change.type == "DELETED" else cache.take(change.manifest)

    def _kserve(self) -> None:
        """A pod of the newest template by a ReplicaSet, instead of any other."""
        if "predictor" not in self.store.objects.get(CHILD, {}).get("spec", {}):
            return
        if "address" not in self.child.get("status", {}):
            self.store.put({**self.child, "status": {"address": {"url": "http://reviews-predictor"}}})
        labels = self.child["spec"]["predictor"]["labels"]
        revision = labels["lmops.dev/revision"]
        for pod in self.store.of("Pod"):
            if pod["metadata"]["labels"]["lmops.dev/revision"] != revision:
                self.store.remove(pod)
        name = f"reviews-predictor-{revision}-0"
        if self.makes_pods and ("Pod", "default", name) not in self.store.objects:
            owner = {"kind": "ReplicaSet", "name": f"reviews-predictor-{revision}", "uid": revision, "controller": True}
            metadata = {"name": name, "namespace": "default", "labels": labels, "ownerReferences": [owner]}
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            self.store.put_new({"kind": "Pod", "metadata": metadata, "spec": {"containers": [{}]}, "status": ready})


def outcome(of: Serving) -> tuple[Any, ...]:
    """What must be the same whatever happened on the way."""
    made = {ref.name: count for ref, count in of.store.made.items() if ref.kind == "InferenceService"}
    model = of.status["model"]["digest"]
    return of.status["phase"], model, of.status["rollout"]["state"], of.child["spec"], made


def test_a_service_is_written_once_and_then_rests():
    one = Serving().run()

    assert (one.status["phase"], one.status["replicas"]) == ("Serving", {"wanted": 1, "ready": 1, "updated": 1})
    assert one.server.writes["apply"] == 4, "the InferenceService, and what watches it"
    writes, _ = dict(one.server.writes), one.run()
    assert dict(one.server.writes) == writes


WHOLE = Serving().run()
END = outcome(WHOLE)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, WHOLE.server.requests + 1))
def test_a_crash_at_any_request_changes_nothing(request_number: int, when: str):
    one = Serving()
    one.server.faults = crash(request_number, when)

    assert outcome(one.run()) == END


@pytest.mark.parametrize("request_number", range(1, WHOLE.server.requests + 1))
def test_an_answer_that_is_lost_changes_nothing(request_number: int):
    one = Serving()
    one.server.faults = lose_reply(request_number)

    one.run()

    assert outcome(one.run()) == END


def test_a_model_that_its_job_makes_anew_wakes_the_service():
    one = Serving().run()
    woken: list[Key] = []
    one.controller.changed = woken.append
    one.publish(B)

    one.run()

    assert outcome(one)[:3] == ("Serving", B, "Complete")
    assert [model["digest"] for model in one.status["history"]] == [A, B]


def test_how_a_container_ended_last_is_seen_while_it_waits_to_start_again():
    one = Serving().run()
    [pod] = one.store.of("Pod")
    end = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    container = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": end}
    one.store.put({**pod, "status": {"phase": "Running", "containerStatuses": [container]}})

    one.run()

    assert (one.status["phase"], one.status["failure"]["reason"]) == ("Failed", "OOMKilled")


def test_what_somebody_edits_is_repaired():
    one = Serving().run()
    spec = one.child["spec"]
    one.store.put({**one.child, "spec": {"predictor": {**spec["predictor"], "minReplicas": 7}}})

    assert one.run().child["spec"] == spec


def test_what_somebody_deletes_is_written_anew():
    one = Serving().run()
    before = one.child["metadata"]["uid"]
    one.store.remove(one.child)

    one.run()

    assert one.child["metadata"]["uid"] != before
    assert one.status["phase"] == "Serving"


def test_what_is_not_ours_is_left_alone_and_told():
    one = Serving()
    foreign = {"kind": "InferenceService", "metadata": {"name": "reviews", "namespace": "default"}, "spec": {"a": 1}}
    one.store.put_new(foreign)

    one.run()

    assert one.child["spec"] == {"a": 1}
    assert one.status["display"]["reason"] == (
        "InferenceService reviews is there already and is not ours:"
        " delete it, or give the LanguageModelService another name."
    )
    one.store.remove(one.child)
    assert outcome(one.run())[:3] == ("Serving", A, "Complete")


def test_the_words_on_its_replica_sets_are_its_own():
    one = Serving()
    one.makes_pods = False
    one.run()
    for minute, name in ((0, "reviews-predictor-7d"), (1, "other-predictor-7d")):
        note = f'Error creating: pods "{name}-x" is forbidden: exceeded quota: {minute}'
        regarding = {"kind": "ReplicaSet", "name": name, "uid": f"u-{name}"}
        event = {"kind": "Event", "metadata": {"name": name, "namespace": "default"}, "reason": "FailedCreate"}
        when = f"2026-11-23T12:0{minute}:00Z"
        one.store.put_new({**event, "note": note, "deprecatedLastTimestamp": when, "regarding": regarding})

    one.controller.now = lambda: NOON + timedelta(minutes=5)
    asyncio.run(one.controller.obstacles.look(lambda key: None))
    assert one.controller.obstacles.heard == {}
    one.controller.obstacles.now = one.controller.now
    asyncio.run(one.controller.obstacles.look(lambda key: None))

    one.run()
    assert one.status["failure"]["message"] == "InferenceService reviews has no pods: exceeded quota: 0"


def test_pods_that_only_carry_our_labels_are_nobodys():
    one = Serving().run()
    pod = next(iter(one.store.of("Pod")))
    metadata = {**pod["metadata"], "name": "forged", "uid": "u-x", "ownerReferences": []}
    one.store.put_new({**pod, "metadata": metadata})

    assert one.run().status["replicas"]["ready"] == 1


MONITORED = ("PodMonitor", "PrometheusRule")


def monitored(one: Serving) -> tuple[str, ...]:
    """Whether it says that it is watched, and why; and what watches it."""
    told = next(c for c in one.status["conditions"] if c["type"] == "Monitored")
    return told["status"], told["reason"], *sorted(kind for kind, _, _ in one.store.objects if kind in MONITORED)


def test_monitors_are_written_once_their_kinds_are_installed():
    one = Serving()
    one.server.missing = set(MONITORED)

    assert monitored(one.run()) == ("False", "NotInstalled")

    woken: list[Key] = []
    one.server.missing = set()
    asyncio.run(one.controller.resync(changed=woken.append))
    assert woken.count(KEY) == len(MONITORED)
    assert monitored(one.run()) == ("True", "Monitored", *MONITORED)


def test_a_monitor_that_somebody_edits_is_repaired():
    one = Serving().run()
    for name, part in ((("PrometheusRule", "default", "reviews-alerts"), "spec"), (DASHBOARD, "data")):
        before = one.store.objects[name]
        one.store.put({**before, part: {}})

        assert one.run().store.objects[name][part] == before[part]


def test_a_monitor_of_somebody_else_is_left_alone_and_told():
    one = Serving()
    foreign = {
        "kind": "ConfigMap",
        "metadata": {"name": "reviews-dashboard", "namespace": "default"},
        "data": {"a": "b"},
    }
    one.store.put_new(foreign)

    assert monitored(one.run())[:2] == ("False", "NameConflict")
    assert one.status["phase"] == "Serving"
    assert one.store.objects[DASHBOARD]["data"] == {"a": "b"}
    one.store.remove(one.store.objects[DASHBOARD])
    assert monitored(one.run())[:2] == ("True", "Monitored")


def test_replicas_on_a_volume_that_is_not_shared_are_refused_until_it_is():
    one = Serving()
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "models", "namespace": "default"}}
    one.store.put_new({**claim, "spec": {"accessModes": ["ReadWriteOnce"]}})
    one.store.put({**one.store.objects[KEY], "spec": service(scaling={"minReplicas": 2}).spec.manifest()})

    assert one.run().status["display"]["reason"].startswith("VolumeNotShared: 2 replicas mount models")
    one.store.remove(one.store.objects[("PersistentVolumeClaim", "default", "models")])
    one.store.put_new({**claim, "spec": {"accessModes": ["ReadWriteMany"]}})
    assert one.run().status["rollout"]["model"]["digest"] == A
