"""The operator beside KServe's own controller and webhooks: it serves, rolls over and repairs. Tests play the pods."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import gateway
from cluster.client import BACK_OFF, Cluster, Manifest
from cluster.controlplane import ControlPlane
from cluster.players import Players
from serving.builders import last_words

pytestmark = pytest.mark.usefixtures("kserve", "running_operator")
REVISION = "lmops.dev/revision"
HOST = "reviews.example.com"


class Service:
    """A service in a namespace of its own, and its pods."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.players = Players(cluster, namespace, "reviews", kind="languagemodelservice")

    def apply(self, uri: str, **spec: Any) -> None:
        """What a user wants."""
        sections = {"model": {"from": {"uri": uri}}, "resources": {"perNode": {"cpu": "1500m"}}, **spec}
        kind = {"apiVersion": "lmops.dev/v1alpha1", "kind": "LanguageModelService", "metadata": {"name": "reviews"}}
        self.cluster.apply({**kind, "spec": sections}, namespace=self.namespace)

    def until(self, phase: str) -> Manifest:
        """Its status, once it is in a phase."""
        found = self.cluster.until(
            "languagemodelservice", "reviews", lambda lms: lms.get("status", {}).get("phase") == phase, self.namespace
        )
        status: Manifest = found["status"]
        return status

    def exposed(self, reason: str | None) -> Manifest:
        """Its status, once its condition says so of its name outside, or nothing any more."""

        def says_so(lms: Manifest) -> bool:
            told = [each["reason"] for each in lms["status"]["conditions"] if each["type"] == "Exposed"]
            return told == ([reason] if reason else [])

        found = self.cluster.until("languagemodelservice", "reviews", says_so, self.namespace, BACK_OFF)
        status: Manifest = found["status"]
        return status

    def pods(self) -> list[Manifest]:
        """Its pods that do not leave."""
        found = self.cluster.list("pod", self.namespace, "lmops.dev/run=reviews")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, *but: str) -> Manifest:
        """A pod of a revision that is none of these."""
        end = time.monotonic() + BACK_OFF
        while time.monotonic() < end:
            for pod in self.pods():
                if pod["metadata"]["labels"][REVISION] not in but:
                    return pod
            time.sleep(0.2)
        raise TimeoutError(f"no such pod: {self.players.describe()}")

    def ready(self, pod: Manifest) -> None:
        """A pod is ready."""
        self.players.set(pod, "Running", running={"startedAt": "2026-11-23T12:00:00Z"})

    def crash(self, pod: Manifest, message: str) -> None:
        """A pod's server ends, again and again."""
        name = pod["spec"]["containers"][0]["name"]
        end = {"exitCode": 1, "reason": "Error", "message": message}
        waits = {"waiting": {"reason": "CrashLoopBackOff"}}
        container = {"name": name, "image": "i", "imageID": "", "ready": False, "restartCount": 3, "state": waits}
        status = {"phase": "Running", "containerStatuses": [{**container, "lastState": {"terminated": end}}]}
        which = ("patch", "pod", pod["metadata"]["name"], "-n", self.namespace)
        patch = json.dumps({"status": status})
        self.cluster.kubectl(*which, "--type=merge", "-p", patch, "--subresource=status")

    def inferenceservice(self) -> Manifest:
        """What KServe was asked for."""
        return self.cluster.get("inferenceservice", "reviews", self.namespace)


@pytest.fixture
def service(cluster: Cluster, kserve: ControlPlane, namespace: str) -> Iterator[Service]:
    """A service whose one replica is ready."""
    made = Service(cluster, namespace)
    made.apply("pvc://models/a")
    made.ready(made.pod())
    made.until("Serving")
    yield made
    cluster.kubectl("delete", "languagemodelservice", "--all", "-n", namespace, "--wait=false")


def test_kserve_makes_of_it_what_was_meant(service: Service) -> None:
    status, deployment = (
        service.until("Serving"),
        service.cluster.get("deployment", "reviews-predictor", service.namespace),
    )
    (main,) = deployment["spec"]["template"]["spec"]["containers"]

    assert status["url"] == f"http://reviews-predictor.{service.namespace}.svc.cluster.local"
    assert status["model"] == {"uri": "pvc://models/a"}
    assert status["replicas"] == {"wanted": 1, "ready": 1, "updated": 1}
    assert (main["name"], main["command"]) == ("kserve-container", ["python", "-m", "lmops_server", "serve"])
    assert main["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert main["resources"]["limits"]["cpu"] == "1500m"
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    template = deployment["spec"]["template"]["metadata"]
    assert (template["annotations"]["prometheus.io/port"], template["labels"]["lmops.dev/job"]) == ("8080", "reviews")
    ports = service.cluster.get("service", "reviews-predictor", service.namespace)["spec"]["ports"]
    assert [(port["port"], port["targetPort"]) for port in ports] == [(80, 8080)]
    assert not service.cluster.list("horizontalpodautoscaler", service.namespace)


def test_once_it_serves_nobody_writes_any_more(service: Service) -> None:
    before = service.inferenceservice()["metadata"]

    time.sleep(5)

    after = service.inferenceservice()["metadata"]
    assert after["generation"] == before["generation"] == 1


def test_it_has_a_name_outside_once_an_ingress_controller_leads_from_there(service: Service) -> None:
    cluster, space = service.cluster, service.namespace
    inside = service.until("Serving")["url"]
    service.apply("pvc://models/a", expose={"host": HOST, "ingressClassName": "nginx"})
    assert service.exposed("AwaitingIngress")["url"] == inside
    patch = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}})
    which = ("patch", "ingress", "reviews-expose", "-n", space, "--subresource=status")
    cluster.kubectl(*which, "--type=merge", "-p", patch)

    assert service.exposed("Admitted")["url"] == f"http://{HOST}"
    assert cluster.get("ingress", "reviews-expose", space)["metadata"]["generation"] == 1
    service.apply("pvc://models/a")
    assert service.exposed(None)["url"] == inside
    cluster.kubectl("wait", "--for=delete", "ingress/reviews-expose", "-n", space, "--timeout=60s")


def test_a_route_leads_to_it_from_when_there_is_a_gateway_api_and_a_gateway_that_takes_it(service: Service) -> None:
    cluster, space = service.cluster, service.namespace
    inside, old = service.until("Serving")["url"], service.pod()
    web = {"name": "web", "namespace": "edge", "listener": "https"}
    service.apply("pvc://models/a", expose={"host": HOST, "gateway": web}, limits={"timeoutSeconds": 90})
    service.ready(service.pod(old["metadata"]["labels"][REVISION]))
    assert service.exposed("NotInstalled")["url"] == inside

    gateway.install(cluster)

    assert service.exposed("AwaitingGateway")["url"] == inside
    route = cluster.get("httproute", "reviews-expose", space)
    (parent,), (rule,) = route["spec"]["parentRefs"], route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    ports = cluster.get("service", backend["name"], space)["spec"]["ports"]
    assert (parent["name"], parent["namespace"], parent["sectionName"]) == ("web", "edge", "https")
    assert (route["spec"]["hostnames"], rule["timeouts"]) == ([HOST], {"request": "90s"})
    assert [port["port"] for port in ports] == [backend["port"]]

    gateway.says(cluster, route, accepted=True)
    assert service.exposed("Admitted")["url"] == f"https://{HOST}"
    gateway.says(cluster, route, accepted=False)
    assert service.exposed("NotAllowedByListeners")["url"] == inside
    assert cluster.get("httproute", "reviews-expose", space)["metadata"]["generation"] == 1
    service.apply("pvc://models/a", limits={"timeoutSeconds": 90})
    assert service.exposed(None)["url"] == inside
    cluster.kubectl("wait", "--for=delete", "httproute/reviews-expose", "-n", space, "--timeout=60s")


def test_another_model_takes_over_when_its_replica_is_ready(service: Service) -> None:
    old = service.pod()
    service.apply("pvc://models/b")
    new = service.pod(old["metadata"]["labels"][REVISION])

    rolling = service.until("RollingOut")
    assert (rolling["model"]["uri"], rolling["rollout"]["model"]["uri"]) == ("pvc://models/a", "pvc://models/b")
    assert service.pod(new["metadata"]["labels"][REVISION])["metadata"]["name"] == old["metadata"]["name"]
    service.ready(new)

    over = service.until("Serving")
    assert (over["model"]["uri"], [model["uri"] for model in over["history"]]) == (
        "pvc://models/b",
        ["pvc://models/a", "pvc://models/b"],
    )


def test_without_room_for_both_an_old_replica_goes_before_a_new_one_comes(service: Service) -> None:
    service.apply("pvc://models/a", rollout={"surge": 0})
    service.cluster.until("deployment", "reviews-predictor", _makes_room_first, service.namespace)
    together: list[int] = []

    service.apply("pvc://models/b", rollout={"surge": 0})
    while not (new := [pod for pod in service.pods() if _model(pod) == "pvc://models/b"]):
        together.append(len(service.pods()))
    together.append(len(service.pods()))

    assert max(together) == 1
    service.ready(new[0])
    assert service.until("Serving")["model"]["uri"] == "pvc://models/b"


def test_a_model_that_does_not_come_up_is_told_while_the_old_one_serves(service: Service) -> None:
    old = service.pod()
    service.apply("pvc://models/b")
    new = service.pod(old["metadata"]["labels"][REVISION])
    service.crash(new, last_words("Model", "WeightsMissing", "pvc://models/b has no weights."))

    failed = service.until("Degraded")
    assert (failed["failure"]["reason"], failed["rollout"]["state"]) == ("WeightsMissing", "Failed")
    assert failed["replicas"] == {"wanted": 1, "ready": 1, "updated": 0}
    service.apply("pvc://models/a")

    assert service.until("Serving")["model"]["uri"] == "pvc://models/a"


def test_what_somebody_edits_or_deletes_comes_back(service: Service) -> None:
    which = ("inferenceservice", "reviews", "-n", service.namespace)
    patch = {"spec": {"predictor": {"minReplicas": 3, "maxReplicas": 3}}}
    service.cluster.kubectl("patch", *which, "--type=merge", "-p", json.dumps(patch))
    service.cluster.until("inferenceservice", "reviews", _has_one_replica, service.namespace)
    uid = service.inferenceservice()["metadata"]["uid"]
    service.cluster.kubectl("delete", *which, "--wait=false")

    service.cluster.until(
        "inferenceservice", "reviews", lambda found: bool(found["metadata"]["uid"] != uid), service.namespace
    )


def test_an_autoscaler_is_made_where_there_may_be_more_replicas(service: Service) -> None:
    service.apply("pvc://models/a", scaling={"minReplicas": 1, "maxReplicas": 3, "target": 60})

    found = service.cluster.until("horizontalpodautoscaler", "reviews-predictor", bool, service.namespace)
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (1, 3)
    (metric,) = found["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}


def _has_one_replica(found: Manifest) -> bool:
    return bool(found["spec"]["predictor"]["minReplicas"] == 1)


def _makes_room_first(deployment: Manifest) -> bool:
    return bool(deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1})


def _model(pod: Manifest) -> str:
    return str(json.loads(pod["spec"]["containers"][0]["args"][0])["model"]["uri"])
