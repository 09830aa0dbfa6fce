"""A gated rollout beside KServe's own controller and webhooks: a candidate, a Job that asks both, then the change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from builders import MODEL, report, said
from cluster.client import BACK_OFF, Cluster, Manifest
from cluster.controlplane import ControlPlane
from cluster.players import Players
from contract.test_services import REVISION, Service
from lmops.api import Gate
from serving.builders import A, B, C

pytestmark = pytest.mark.usefixtures("kserve", "running_operator")
SOURCE = {"quantizeJob": {"selector": {"matchLabels": {"serves": "reviews"}}}}
FIGURES = {"task": "SequenceClassification", "rows": 64, "requests": 128, "errorRatio": 0, "latencyRatio": 1.1}


class Gated(Service):
    """A gated service that follows the newest of the jobs of its label."""

    def want(self, **spec: Any) -> None:
        """What a user wants."""
        sections = {"model": {"from": SOURCE}, "rollout": {"strategy": "Gated"}, **spec}
        kind = {"apiVersion": "lmops.dev/v1alpha1", "kind": "LanguageModelService", "metadata": {"name": "reviews"}}
        self.cluster.apply({**kind, "spec": sections}, namespace=self.namespace)

    def publish(self, name: str, digest: str) -> None:
        """A QuantizeJob makes a model, and passes."""
        spec = {
            "model": {"from": {"uri": "pvc://models/reviews"}},
            "steps": [{"quantize": {"method": "Dynamic"}}],
            "output": {"uri": "pvc://models/small"},
        }
        metadata = {"name": name, "labels": {"serves": "reviews"}}
        kind = {"apiVersion": "lmops.dev/v1alpha1", "kind": "QuantizeJob", "metadata": metadata, "spec": spec}
        self.cluster.apply(kind, namespace=self.namespace)
        players = Players(self.cluster, self.namespace, name, patience=BACK_OFF, kind="quantizejob")
        (pod,) = players.run("compress-a0")
        made = {**MODEL, "uri": f"pvc://models/small/{digest[7:19]}", "digest": digest}
        players.end(pod, 0, said("compress", result={"model": made, "report": report()}))

    def candidate(self) -> Manifest:
        """The pod of the candidate, once it is there."""
        (pod,) = self.players.pods("candidate")
        return pod

    def job(self) -> Manifest:
        """The Job of the gate, once it is there."""
        end = time.monotonic() + BACK_OFF
        while time.monotonic() < end:
            if found := self.cluster.list("job", self.namespace, "lmops.dev/stage=gate"):
                return found[0]
            time.sleep(0.2)
        raise TimeoutError(f"no gate: {self.players.describe()}")

    def measures(self, job: Manifest, **figures: Any) -> None:
        """The Job's pod has asked both."""
        (pod,) = self.players.pods(str(job["metadata"]["name"]).removeprefix("reviews-"))
        self.players.end(pod, 0, json.dumps({"figures": {**FIGURES, **figures}}))

    def is_alone(self) -> None:
        """Waits until nothing of a gate is left, but its report."""
        end = time.monotonic() + BACK_OFF
        while time.monotonic() < end:
            names = [each["metadata"]["name"] for each in self.cluster.list("inferenceservice", self.namespace)]
            if names == ["reviews"] and not self.cluster.list("job", self.namespace, "lmops.dev/stage=gate"):
                return
            time.sleep(0.2)
        raise TimeoutError(f"what is left: {names}")

    def digest(self) -> str:
        """The model of the InferenceService that takes the requests."""
        (container,) = self.inferenceservice()["spec"]["predictor"]["containers"]
        return str(json.loads(container["args"][0])["model"]["digest"])

    def events(self) -> list[str]:
        """The reasons of the events of the gate, in their order."""
        found = self.cluster.list("events.events.k8s.io", self.namespace)
        mine = [each for each in found if each["regarding"]["kind"] == "LanguageModelService"]
        reasons = [str(each["reason"]) for each in sorted(mine, key=lambda each: str(each["eventTime"]))]
        return [reason for reason in reasons if reason.startswith("Gat")]


@pytest.fixture
def gated(cluster: Cluster, kserve: ControlPlane, namespace: str) -> Iterator[Gated]:
    """A gated service that serves A, beside which a candidate with B runs."""
    made = Gated(cluster, namespace)
    made.publish("first", A)
    made.want()
    made.ready(made.pod())
    made.until("Serving")
    made.publish("second", B)
    made.ready(made.candidate())
    yield made
    for kind in ("languagemodelservice", "quantizejob"):
        cluster.kubectl("delete", kind, "--all", "-n", namespace, "--wait=false")


def test_a_newer_model_runs_as_a_candidate_beside_and_a_job_is_told_of_both(gated: Gated) -> None:
    job = gated.job()
    pod, status = job["spec"]["template"]["spec"], gated.until("Gating")
    told = Gate.model_validate_json(pod["containers"][0]["args"][0])
    deployment = gated.cluster.get("deployment", "reviews-candidate-predictor", gated.namespace)

    where = f"{gated.namespace}.svc.cluster.local"
    assert (told.running, told.candidate) == (
        f"http://reviews-predictor.{where}",
        f"http://reviews-candidate-predictor.{where}",
    )
    assert told.model == f"pvc://models/small/{B[7:19]}"
    assert (deployment["spec"]["replicas"], pod["containers"][0]["command"]) == (
        1,
        ["python", "-m", "lmops_server", "gate"],
    )
    assert (gated.digest(), status["model"]["digest"], status["rollout"]["gate"]["model"]["digest"]) == (A, A, B)
    assert (status["url"], status["replicas"]) == (
        f"http://reviews-predictor.{where}",
        {"wanted": 1, "ready": 1, "updated": 1},
    )


def test_passed_its_candidate_goes_and_then_the_model_takes_over(gated: Gated) -> None:
    old = gated.pod()["metadata"]["labels"][REVISION]
    gated.measures(gated.job(), agreement=0.95)

    new = gated.pod(old)
    gated.is_alone()
    assert gated.digest() == B
    gated.ready(new)

    over = gated.cluster.until(
        "languagemodelservice", "reviews", lambda lms: lms["status"]["model"]["digest"] == B, gated.namespace
    )["status"]
    gate = over["rollout"]["gate"]
    assert (gate["state"], gate["figures"]["agreement"], over.get("refused", [])) == ("Passed", 0.95, [])
    assert new["metadata"]["labels"][REVISION] == gate["revision"]
    assert gated.events() == ["GateStarted", "Gating", "GatePassed"]


def test_failed_the_running_model_stays_and_that_one_is_not_tried_again(gated: Gated) -> None:
    before = gated.inferenceservice()["metadata"]
    gated.measures(gated.job(), agreement=0.3)

    gated.is_alone()
    status = gated.until("Serving")
    following = next(each for each in status["conditions"] if each["type"] == "Following")
    assert (following["status"], following["reason"]) == ("False", "GateFailed")
    assert following["message"].startswith(f"{B[7:19]} does not take over from {A[7:19]}: agreement is 0.300")
    assert ([each["model"]["digest"] for each in status["refused"]], status["model"]["digest"]) == ([B], A)

    time.sleep(5)
    gated.is_alone()
    after = gated.inferenceservice()["metadata"]
    assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])
    assert gated.events() == ["GateStarted", "Gating", "GateFailed"]

    gated.publish("third", C)
    gated.ready(gated.candidate())
    gated.job()
    assert gated.digest() == A


def test_a_digest_takes_a_model_that_has_failed(gated: Gated) -> None:
    gated.measures(gated.job(), agreement=0.3)
    gated.is_alone()
    old = gated.pod()["metadata"]["labels"][REVISION]

    gated.want(model={"from": SOURCE, "digest": B})
    gated.ready(gated.pod(old))

    gated.cluster.until(
        "languagemodelservice", "reviews", lambda lms: lms["status"]["model"]["digest"] == B, gated.namespace
    )
