"""Faults that only a real API server has: a CRD taken away, rights taken away, a Lease deleted, an operator gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from builders import trainingjob
from cluster import operator
from cluster.client import Cluster, Manifest
from cluster.players import Players

CRD = "pytorchjobs.kubeflow.org"


@pytest.fixture(scope="module", autouse=True)
def one(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[operator.Operator]:
    """The operator, which lists often."""
    folder = tmp_path_factory.mktemp("faults")
    with operator.running(cluster, folder, operator.rules(), "--resync", "5") as running:
        yield running


def submit(cluster: Cluster, namespace: str, name: str = "reviews", **spec: Any) -> Players:
    """A job that has been applied, and its pods."""
    manifest = trainingjob(**spec).manifest()
    manifest.pop("status")
    cluster.apply({**manifest, "metadata": {"name": name}}, namespace=namespace)
    return Players(cluster, namespace, name)


def told(players: Players, words: str) -> Manifest:
    """The job, once its reason has these words."""

    def says(job: Manifest) -> bool:
        return words in job.get("status", {}).get("display", {}).get("reason", "")

    return players.cluster.until("trainingjob", players.job, says, players.namespace)


def bare(manifest: Manifest) -> Manifest:
    """An object as somebody would have applied it."""
    kept = {"name": manifest["metadata"]["name"], "annotations": manifest["metadata"].get("annotations", {})}
    kept["annotations"].pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return {k: v for k, v in {**manifest, "metadata": kept}.items() if k != "status"}


def test_row_8_kubeflow_is_taken_away_and_comes_back(cluster: Cluster, namespace: str) -> None:
    crd = bare(cluster.get("crd", CRD))
    players = submit(cluster, namespace)
    players.run("prepare-a0")
    cluster.kubectl("delete", "crd", CRD)
    try:
        players.succeed("prepare-a0")
        told(players, "PyTorchJobs are unknown here")
    finally:
        cluster.apply(crd)
    began = time.monotonic()
    while not cluster.answers("get", "pytorchjobs") and time.monotonic() < began + 30:
        time.sleep(0.2)
    cluster.until("pytorchjob", "reviews-train-a0", lambda child: True, namespace, 90)
    print(f"the child came {time.monotonic() - began:.1f} s after its CRD")


def test_row_9_rights_are_taken_and_given_back(cluster: Cluster, namespace: str, one: operator.Operator) -> None:
    binding = next(rule for rule in operator.rules() if rule["kind"] == "ClusterRoleBinding")
    cluster.kubectl("delete", "clusterrolebinding", binding["metadata"]["name"])
    try:
        players = submit(cluster, namespace)
        end = time.monotonic() + 60
        while one.is_ready() and time.monotonic() < end:
            time.sleep(0.5)
        assert not one.is_ready()
        assert "forbidden" in one.log
        time.sleep(20)  # long enough for Kopf to give up
    finally:
        cluster.apply(binding)
    began = time.monotonic()
    players.run("prepare-a0")
    print(f"the job went on {time.monotonic() - began:.1f} s after its operator might again")


def test_row_10_a_lease_that_is_deleted_is_held_on_to(cluster: Cluster, namespace: str) -> None:
    def holder(lease: Manifest) -> str:
        return str(lease["spec"].get("holderIdentity"))

    before = holder(cluster.get("lease", "lmops-operator", "lmops-system"))
    cluster.kubectl("delete", "lease", "lmops-operator", "-n", "lmops-system")
    cluster.until("lease", "lmops-operator", lambda lease: holder(lease) == before, "lmops-system", 20)
    submit(cluster, namespace).run("prepare-a0")


def test_row_15_nothing_is_stuck_when_the_operator_is_gone(
    cluster: Cluster, namespace: str, one: operator.Operator
) -> None:
    submit(cluster, namespace, "first").run("prepare-a0")
    submit(cluster, namespace, "second").run("prepare-a0")
    one.daemons.stop("operator")
    began = time.monotonic()
    cluster.kubectl("delete", "trainingjob", "first", "-n", namespace, "--timeout=60s")
    cluster.kubectl("delete", "namespace", namespace, "--timeout=90s")
    assert not cluster.answers("get", "namespace", namespace)
    print(f"all was gone after {time.monotonic() - began:.1f} s")
    cluster.kubectl("create", "namespace", namespace)  # which the fixture deletes
