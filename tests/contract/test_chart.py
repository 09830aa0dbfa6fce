"""The chart on an API server: what helm installs is enough for the operator, and what it removes leaves jobs alone."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import helm
from builders import trainingjob
from cluster import operator
from cluster.client import Cluster, Manifest
from cluster.players import Players
from lmops.progress.secret import SECRET
from lmops.service import LEASE

EVERYWHERE: dict[str, Any] = {}
HERE_ALONE: dict[str, Any] = {"crds": {"enabled": False}, "rbac": {"aggregate": False}}
"""What one installs who has no rights beyond a namespace or two."""


@pytest.fixture
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the operator."""
    with cluster.namespace("lmops") as name:
        yield name
        helmed(cluster, "uninstall", "lmops", "--namespace", name, "--ignore-not-found")


def helmed(cluster: Cluster, *arguments: str, values: Any = None) -> str:
    """What helm says on this cluster."""
    done = helm.run(*arguments, values=values, KUBECONFIG=str(cluster.kubeconfig))
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(cluster: Cluster, home: str, values: dict[str, Any]) -> Manifest:
    """Installs the chart; returns the operator's ServiceAccount. The CRDs of other tests become the release's own."""
    taking = ("--take-ownership", "--force-conflicts")
    helmed(cluster, "install", "lmops", str(helm.CHART), "--namespace", home, *taking, values=values)
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "lmops-operator", "namespace": home},
    }


def apply(cluster: Cluster, namespace: str) -> Players:
    """A job, and its pods."""
    manifest = trainingjob().manifest()
    cluster.apply({**manifest, "metadata": {"name": "reviews"}, "status": {}}, namespace=namespace)
    return Players(cluster, namespace, "reviews")


def live(players: Players) -> None:
    """Plays the pods of a whole life."""
    for run in ("prepare-a0", "train-a0", "evaluate-a0"):
        players.run(run)
        players.succeed(run)
    players.cluster.until("trainingjob", "reviews", lambda job: phase(job) == "Succeeded", players.namespace)


def phase(job: Manifest) -> str:
    return str(job.get("status", {}).get("phase"))


@pytest.mark.parametrize("values", [EVERYWHERE, HERE_ALONE], ids=["everywhere", "in one namespace"])
def test_the_rights_of_the_chart_are_enough_for_a_whole_life(
    cluster: Cluster, home: str, namespace: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    account = install(cluster, home, values if values is EVERYWHERE else {**values, "watchNamespaces": [namespace]})
    settings = tmp_path / "settings.yaml"
    settings.write_text(cluster.get("configmap", "lmops-operator", home)["data"]["settings.yaml"])

    with operator.running(cluster, tmp_path, [account], "--settings", str(settings)) as running:
        live(apply(cluster, namespace))
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
            requests = [line for line in answer.read().decode().splitlines() if line.startswith("rest_client_requests")]

    assert "lmops-progress-tls" in [secret["metadata"]["name"] for secret in cluster.list("secret", home)]
    assert not [line for line in running.log.splitlines() if "orbidden" in line or "403" in line]
    assert not [line for line in requests if 'code="403"' in line]


def test_a_namespace_that_is_deleted_with_its_rights_does_not_stop_the_others(
    cluster: Cluster, home: str, namespace: str, tmp_path: Path
) -> None:
    with cluster.namespace("leaving") as leaving:
        account = install(cluster, home, {**HERE_ALONE, "watchNamespaces": [leaving, namespace]})
        settings = tmp_path / "settings.yaml"
        settings.write_text(cluster.get("configmap", "lmops-operator", home)["data"]["settings.yaml"])
        with operator.running(cluster, tmp_path, [account], "--settings", str(settings), "--resync", "3") as running:
            cluster.kubectl("delete", "namespace", leaving, "--timeout=60s")
            end = time.monotonic() + 60
            while f"namespaces that may not be read: {leaving}" not in running.log and time.monotonic() < end:
                time.sleep(0.2)
            live(apply(cluster, namespace))
            assert running.is_ready()
            assert running.log.count("namespaces that may not be read") == 1
            assert "Traceback" not in running.log
        cluster.kubectl("create", "namespace", leaving)  # which the end of the block deletes


def test_an_upgrade_and_an_uninstallation_leave_the_jobs_alone(cluster: Cluster, home: str, namespace: str) -> None:
    install(cluster, home, EVERYWHERE)
    apply(cluster, namespace)
    before = cluster.get("trainingjob", "reviews", namespace)["metadata"]["uid"]

    helmed(cluster, "upgrade", "lmops", str(helm.CHART), "--namespace", home, values={"settings": {"scratch": "7Gi"}})
    settings = cluster.get("configmap", "lmops-operator", home)["data"]["settings.yaml"]
    told = helmed(cluster, "get", "notes", "lmops", "--namespace", home)
    helmed(cluster, "uninstall", "lmops", "--namespace", home, "--wait")

    assert f"kubectl -n {home} delete secret/{SECRET} lease/{LEASE} --ignore-not-found" in told
    assert "scratch: 7Gi" in settings
    assert cluster.get("trainingjob", "reviews", namespace)["metadata"]["uid"] == before
    assert [each["metadata"]["name"] for each in cluster.list("clusterrole", selector="helm.sh/chart")] == []
    assert cluster.list("deployment", home) == []
