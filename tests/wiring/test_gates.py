"""A gated rollout beside an API server that misbehaves: wherever it is cut off, it ends the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from faults import crash
from lmops.plan import Manifest
from serving.builders import A, B
from wiring.test_services import CHILD, KEY, Serving

BESIDE = ("InferenceService", "default", "reviews-candidate")
FIGURES = {"task": "SequenceClassification", "rows": 64, "requests": 128, "errorRatio": 0, "latencyRatio": 1.0}


class Gated(Serving):
    """A gated service that serves A, and then B is made; a KServe for both, and a Job that ends at once."""

    def __init__(self, agreement: float) -> None:
        super().__init__()
        spec = {**self.store.objects[KEY]["spec"], "rollout": {"strategy": "Gated"}}
        self.store.put({**self.store.objects[KEY], "spec": spec})
        self.agreement = agreement
        self.served: list[tuple[str, bool]] = []
        """Each model of the main InferenceService, and whether a candidate was there when it was written."""
        asyncio.run(self._run(30))
        self.publish(B)

    def _kserve(self) -> None:
        for child in self.store.of("InferenceService", "Job"):
            if "deletionTimestamp" in child["metadata"]:
                for pod in self.store.of("Pod"):
                    if pod["metadata"]["labels"]["lmops.dev/run"] == child["metadata"]["name"]:
                        self.store.remove(pod)
                self.store.remove(child)
            elif child["kind"] == "Job":
                self._compare(child)
            else:
                self._serve(child)
        if CHILD in self.store.objects:
            seen = (_digest(self.child), BESIDE in self.store.objects)
            self.served += [] if self.served and self.served[-1][0] == seen[0] else [seen]

    def _serve(self, child: Manifest) -> None:
        name, labels = child["metadata"]["name"], child["spec"]["predictor"]["labels"]
        revision = labels["lmops.dev/revision"]
        for pod in self.store.of("Pod"):
            mine = pod["metadata"]["labels"]
            if mine["lmops.dev/run"] == name and mine["lmops.dev/revision"] != revision:
                self.store.remove(pod)
        if "address" not in child.get("status", {}):
            self.store.put({**child, "status": {"address": {"url": f"http://{name}-predictor"}}})
        if ("Pod", "default", f"{name}-predictor-{revision}-0") not in self.store.objects:
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            owner = {"kind": "ReplicaSet", "name": f"{name}-predictor-{revision}", "uid": revision, "controller": True}
            self._pod(f"{name}-predictor-{revision}-0", labels, owner, ready)

    def _compare(self, child: Manifest) -> None:
        metadata = child["metadata"]
        if ("Pod", "default", f"{metadata['name']}-0") not in self.store.objects:
            owner = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
            words = json.dumps({"figures": {**FIGURES, "agreement": self.agreement}})
            ended = {"state": {"terminated": {"exitCode": 0, "message": words}}}
            status = {"phase": "Succeeded", "containerStatuses": [ended]}
            self._pod(f"{metadata['name']}-0", metadata["labels"], owner, status)

    def _pod(self, name: str, labels: Any, owner: Manifest, status: Manifest) -> None:
        metadata = {"name": name, "namespace": "default", "labels": labels, "ownerReferences": [owner]}
        self.store.put_new({"kind": "Pod", "metadata": metadata, "spec": {"containers": [{}]}, "status": status})


def _digest(child: Manifest) -> str:
    document = child["spec"]["predictor"]["containers"][0]["args"][0]
    return str(json.loads(document)["model"]["digest"])


def outcome(of: Gated) -> tuple[Any, ...]:
    """What must be the same whatever happened on the way."""
    gate = of.status["rollout"]["gate"]
    left = sorted(each["metadata"]["name"] for each in of.store.of("InferenceService", "Job"))
    made = {ref.name: count for ref, count in of.store.made.items() if ref.kind in ("InferenceService", "Job")}
    refused = [each["model"]["digest"] for each in of.status["refused"]]
    return of.status["phase"], of.status["model"]["digest"], gate["state"], left, sorted(made.values()), refused


ENDS = {
    0.9: ("Serving", B, "Passed", ["reviews"], [1, 1, 1], []),
    0.1: ("Serving", A, "Failed", ["reviews"], [1, 1, 1], [B]),
}
FEWEST = Gated(0.9).run(60).server.requests


@pytest.mark.parametrize("agreement", ENDS)
def test_it_ends_as_its_figures_say(agreement: float):
    one = Gated(agreement).run(60)

    assert outcome(one) == ENDS[agreement]
    assert one.served == ([(A, False), (B, False)] if agreement > 0.5 else [(A, False)])
    writes = dict(one.server.writes)
    one.run()
    assert dict(one.server.writes) == writes


@pytest.mark.parametrize("agreement", ENDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_request_changes_nothing(agreement: float, when: str):
    first = Gated(agreement).server.requests + 1
    for number in range(first, FEWEST + 1):
        one = Gated(agreement)
        one.server.faults = crash(number, when)

        one.run(60)

        assert outcome(one.run(60)) == ENDS[agreement], f"request {number}"
        assert (B, True) not in one.served
