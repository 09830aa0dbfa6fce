"""TrainingJobs as their users run them: helm, kubectl, real pods that train by torchrun over the pod network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.client import Cluster, Manifest
from lmops_trainer.publish import fingerprint

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("operator"), pytest.mark.timeout(1500)]


def example(story: str, **changed: Any) -> Manifest:
    """An example with other sections in its spec."""
    job: Manifest = yaml.safe_load((EXAMPLES / story / "trainingjob.yaml").read_text())
    return {**job, "spec": {**job["spec"], **changed}}


def has_ended(job: Manifest) -> bool:
    """Whether a job has come to its end."""
    return job.get("status", {}).get("phase") in ("Succeeded", "Failed")


def saved(job: Manifest) -> int:
    """The step of the last checkpoint that the first attempt has reported."""
    run = job.get("status", {}).get("progress", {}).get("runs", {}).get("two-nodes-train-a0", {})
    return int(run.get("checkpoint", 0))


def test_two_pods_train_one_model_and_outlive_a_worker_that_is_deleted(
    node: Cluster, namespace: str, volumes: Path
) -> None:
    job = example(
        "two-nodes",
        training={"steps": 100, "batchSize": 16, "learningRate": 1e-4},
        checkpoint={"every": {"steps": 5}},
        evaluation={"every": {"steps": 1000}},
    )
    job["spec"]["resources"] = {"nodes": 2, "perNode": {"cpu": "500m"}}
    node.apply(job, namespace=namespace)
    with node.watching("get", "tj", "two-nodes", "-n", namespace, "--no-headers") as shown:
        node.until("trainingjob", "two-nodes", lambda job: saved(job) >= 5 or has_ended(job), namespace, seconds=900)
        node.kubectl("delete", "pod", "two-nodes-train-a0-worker-1", "-n", namespace, "--wait=false")
        ended = node.until("trainingjob", "two-nodes", has_ended, namespace, seconds=900)
    status = ended["status"]

    assert status["phase"] == "Succeeded", status
    first, second = (run for run in status["runs"] if run["stage"] == "train")
    assert first["state"] in ("Stopped", "Failed")
    assert first["checkpoint"] >= 5
    assert second["state"] == "Succeeded"
    assert "goes on" in str(shown) or "restart" in str(shown), shown
    percents = [int(line.split("%")[0].split()[-1]) for line in shown if "Running" in line and "%" in line]
    assert len(set(percents)) >= 3, shown
    published = volumes / status["model"]["uri"].removeprefix("pvc://")
    assert status["model"]["digest"] == fingerprint(published).digest
    reasons = {event["reason"] for event in node.list("event", namespace)}
    assert {"Created", "Started", "StageCompleted", "Restarting", "Completed"} <= reasons


MOVING = {
    *("startedAt", "finishedAt", "gatheredAt", "lastTransitionTime", "startTime", "completionTime", "updatedAt"),
    *("movedAt", "secondsRemaining", "tokensPerSecond", "rowsPerSecond", "memoryBytes", "uid", "path", "uri"),
}
"""What differs from machine to machine and from hour to hour."""


def still(value: Any) -> Any:
    """A status without what moves."""
    if isinstance(value, dict):
        return {name: still(inner) for name, inner in value.items() if name not in MOVING}
    return [still(inner) for inner in value] if isinstance(value, list) else value


def test_the_same_yaml_gives_the_same_status_on_a_cluster_and_on_a_laptop(
    node: Cluster, namespace: str, volumes: Path, tmp_path: Path
) -> None:
    job = example("reviews", training={"steps": 4, "batchSize": 32, "learningRate": 1e-4})
    job["spec"]["resources"] = {"perNode": {"cpu": "1"}}
    (tmp_path / "reviews.yaml").write_text(yaml.safe_dump(job))
    node.apply(job, namespace=namespace)
    there = node.until("trainingjob", "reviews", has_ended, namespace, seconds=900)["status"]

    places = [f"--volume={claim}={volumes / claim}" for claim in ("data", "models")]
    sets = ("--set", "output.uri=pvc://models/laptop")
    here = subprocess.run(
        [sys.executable, "-m", "lmops", "local", "apply", "-f", "reviews.yaml", *places, *sets, "-o", "yaml"],
        cwd=tmp_path,
        env={**os.environ, "LMOPS_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )

    ours = yaml.safe_load(here.stdout)["status"]
    assert there["phase"] == "Succeeded", there
    assert there.pop("metrics").keys() & ours.pop("metrics").keys() >= {"loss", "step"}  # the last that was in time
    assert still(there) == still(ours)


def test_a_pod_compresses_what_other_pods_have_trained(node: Cluster, namespace: str, volumes: Path) -> None:
    small: Manifest = yaml.safe_load((EXAMPLES / "compress-reviews" / "dynamic.yaml").read_text())
    small["spec"] |= {
        "accept": {"minSizeRatio": 3.5, "minAgreement": 0.9},
        "evaluation": {"repeats": 5},
        "resources": {"perNode": {"cpu": "1"}},
    }
    node.apply(small, namespace=namespace)
    job = example("reviews", training={"steps": 4, "batchSize": 32, "learningRate": 1e-4})
    node.apply(job, namespace=namespace)
    node.until("trainingjob", "reviews", has_ended, namespace, seconds=900)

    status = node.until("quantizejob", "reviews-int8", has_ended, namespace, seconds=600)["status"]

    assert (status["phase"], status["report"]["verdict"]) == ("Succeeded", "Passed"), status
    assert status["report"]["sizeRatio"] > 3.5
    published = volumes / status["model"]["uri"].removeprefix("pvc://")
    assert status["model"]["digest"] == fingerprint(published).digest
    source = node.get("trainingjob", "reviews", namespace)["status"]
    assert status["source"]["digest"] == source["model"]["digest"]
    assert fingerprint(volumes / source["model"]["uri"].removeprefix("pvc://")).digest == source["model"]["digest"]
