"""The operator as a process with its own rights, beside Kubernetes' and Kubeflow's controllers. Tests play the pods."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from builders import EVALUATION, MODEL, quantizejob, trainingjob
from cluster.client import BACK_OFF, Cluster, Manifest
from cluster.controlplane import ControlPlane
from cluster.operator import Operator
from cluster.players import Players
from lmops.leader import HOLD

pytestmark = pytest.mark.usefixtures("running_operator")
LOST = {"class": "WorkerLost", "reason": "RankKilled", "message": "Rank 1 was killed by SIGKILL.", "remedy": "-"}


@pytest.fixture
def players(cluster: Cluster, namespace: str) -> Iterator[Players]:
    """A job of two nodes that has been applied, and its pods."""
    manifest = trainingjob(resources={"nodes": 2}, checkpoint={"every": {"steps": 20}}).manifest()
    applied = {**manifest, "metadata": {"name": "reviews"}}
    applied.pop("status")
    cluster.apply(applied, namespace=namespace)
    yield Players(cluster, namespace, "reviews", patience=BACK_OFF)
    cluster.kubectl("delete", "trainingjob", "--all", "-n", namespace, "--wait=false")


def phase(players: Players, word: str) -> Manifest:
    """The job, once it is in a phase."""
    return players.cluster.until(
        "trainingjob", "reviews", lambda job: job.get("status", {}).get("phase") == word, players.namespace
    )


def runs(job: Manifest) -> list[tuple[str, str, str | None]]:
    """The ledger in short."""
    return [(run["name"], run["state"], run.get("reason")) for run in job["status"]["runs"]]


def test_a_job_lives_from_apply_to_succeeded(players: Players) -> None:
    players.run("prepare-a0")
    assert phase(players, "Preparing")["status"]["display"]["nodes"] == "1/1"
    players.succeed("prepare-a0")
    players.run("train-a0", 2)
    players.cluster.until("trainingjob", "reviews", lambda job: shown(job) == "2/2", players.namespace)
    players.succeed("train-a0", 2)
    players.run("evaluate-a0")
    players.succeed("evaluate-a0")

    job = phase(players, "Succeeded")

    assert runs(job) == [
        ("reviews-prepare-a0", "Succeeded", "Completed"),
        ("reviews-train-a0", "Succeeded", "Completed"),
        ("reviews-evaluate-a0", "Succeeded", "Completed"),
    ]
    assert (job["status"]["model"], job["status"]["evaluation"]["metrics"]) == (MODEL, EVALUATION["metrics"])
    assert "finalizers" not in job["metadata"]
    assert events(players) == ["Created", "Created", "Created", "Completed"]


def shown(job: Manifest) -> str:
    """The nodes as `kubectl get` shows them."""
    return str(job.get("status", {}).get("display", {}).get("nodes"))


def events(players: Players) -> list[str]:
    """The reasons of the job's events, without those that only a slow test sees."""
    found = players.cluster.list("events.events.k8s.io", players.namespace)
    told = sorted(found, key=lambda event: str(event["eventTime"]))
    reasons = [str(event["reason"]) for event in told if event["regarding"]["kind"] == "TrainingJob"]
    return [reason for reason in reasons if reason not in ("Started", "StageCompleted")]


def test_a_job_that_compresses_waits_for_the_one_that_trains(players: Players) -> None:
    manifest = {**quantizejob().manifest(), "metadata": {"name": "small"}}
    manifest.pop("status")
    players.cluster.apply(manifest, namespace=players.namespace)
    where = players.namespace
    waiting = players.cluster.until("quantizejob", "small", lambda job: reason(job) == "SourceNotReady", where)
    for run, count in (("prepare-a0", 1), ("train-a0", 2), ("evaluate-a0", 1)):
        players.run(run, count)
        players.succeed(run, count)

    compressing = Players(players.cluster, where, "small", patience=BACK_OFF, kind="quantizejob")
    compressing.run("compress-a0")
    compressing.succeed("compress-a0")
    job = players.cluster.until("quantizejob", "small", lambda job: reason(job) == "Passed", where)

    assert "startTime" not in waiting["status"]
    assert (job["status"]["phase"], job["status"]["source"]["uri"]) == ("Succeeded", MODEL["uri"])
    shown = players.cluster.kubectl("get", "qj", "-n", where, "--no-headers").split()[:8]
    assert shown == ["small", "Succeeded", "100%", "Dynamic", "8", "bit", "3.92x", "2.00x"]
    players.cluster.kubectl("delete", "quantizejob", "--all", "-n", where, "--wait=false")


def reason(job: Manifest) -> str:
    """Why a job waits, or how it ended."""
    conditions = {c["type"]: c for c in job.get("status", {}).get("conditions", ())}
    speaking = "Progressing" if conditions.get("Progressing", {}).get("status") == "True" else "Complete"
    return str(conditions.get(speaking, {}).get("reason", ""))


def test_a_failed_attempt_is_recorded_deleted_and_followed_by_another(players: Players) -> None:
    players.run("prepare-a0")
    players.succeed("prepare-a0")
    _, second = players.run("train-a0", 2)
    phase(players, "Running")
    players.fail(second, "train-a0", failure=LOST, checkpoint=100)
    players.run("train-a1", 2)

    job = phase(players, "Running")

    assert runs(job)[1:] == [
        ("reviews-train-a0", "Failed", "RankKilled"),
        ("reviews-train-a1", "Running", None),
    ]
    assert (job["status"]["restarts"], job["status"]["runs"][1]["checkpoint"]) == (1, 100)
    assert [child["metadata"]["name"] for child in children(players, "pytorchjob")] == ["reviews-train-a1"]
    players.succeed("train-a1", 2)
    players.run("evaluate-a0")
    players.succeed("evaluate-a0")
    assert phase(players, "Succeeded")["status"]["restarts"] == 1


def test_a_worker_that_is_deleted_while_it_runs_ends_the_attempt(players: Players) -> None:
    players.run("prepare-a0")
    players.succeed("prepare-a0")
    _, second = players.run("train-a0", 2)
    phase(players, "Running")

    with players.leaving(second):
        players.cluster.until("pytorchjob", "reviews-train-a0", has_failed, players.namespace)

    players.run("train-a1", 2)
    job = players.cluster.until("trainingjob", "reviews", lambda job: shown(job) == "2/2", players.namespace)
    assert runs(job)[1:] == [
        ("reviews-train-a0", "Failed", "PodDeleted"),
        ("reviews-train-a1", "Running", None),
    ]
    assert (job["status"]["restarts"], "failure" in job["status"]) == (1, False)


def test_a_job_goes_on_after_an_outage_in_which_the_operators_lease_ran_out(
    players: Players, control_plane: ControlPlane, running_operator: Operator
) -> None:
    players.run("prepare-a0")
    process = running_operator.daemons.pid("operator")
    with control_plane.without_apiserver():
        time.sleep(HOLD + 3)

    players.succeed("prepare-a0")
    players.run("train-a0", 2)
    players.succeed("train-a0", 2)
    players.run("evaluate-a0")
    players.succeed("evaluate-a0")

    assert len(runs(phase(players, "Succeeded"))) == 3
    assert len([*children(players, "job"), *children(players, "pytorchjob")]) == 3
    assert running_operator.daemons.pid("operator") == process


def has_failed(pytorchjob: Manifest) -> bool:
    """Whether Kubeflow's operator says so."""
    conditions = pytorchjob.get("status", {}).get("conditions", [])
    return any((c["type"], c["status"]) == ("Failed", "True") for c in conditions)


def children(players: Players, kind: str) -> list[Manifest]:
    """What the job has made of a kind."""
    return players.cluster.list(kind, players.namespace, "lmops.dev/job=reviews")


def test_a_job_whose_pods_a_quota_refuses_says_so_in_each_stage(cluster: Cluster, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.apply(quota, namespace=namespace)
    cluster.until("resourcequota", "none", lambda found: "hard" in found.get("status", {}), namespace, BACK_OFF)
    manifest = trainingjob().manifest()
    cluster.apply({**manifest, "metadata": {"name": "reviews"}, "status": {}}, namespace=namespace)
    players = Players(cluster, namespace, "reviews", patience=BACK_OFF)

    words = "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"
    assert refused(players, "prepare-a0")["status"]["display"]["reason"] == f"FailedCreate: {words}"
    cluster.kubectl("delete", "resourcequota", "none", "-n", namespace)
    players.run("prepare-a0")
    cluster.apply(quota, namespace=namespace)
    players.succeed("prepare-a0")
    assert "exceeded quota: none" in refused(players, "train-a0")["status"]["display"]["reason"]
    cluster.kubectl("delete", "trainingjob", "--all", "-n", namespace, "--wait=false")


def refused(players: Players, run: str) -> Manifest:
    """The job, once it says that the pods of a run were refused."""

    def says(job: Manifest) -> bool:
        status = job.get("status", {})
        runs = [row["name"] for row in status.get("runs", ())]
        return f"reviews-{run}" in runs and status["display"]["reason"].startswith("FailedCreate: ")

    return players.cluster.until("trainingjob", "reviews", says, players.namespace, BACK_OFF)
