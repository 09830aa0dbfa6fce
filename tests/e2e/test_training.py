"""TrainingJobs in real pods: prepared, trained by torchrun over the pod network, measured and published."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.client import Cluster, Manifest
from lmops_trainer.publish import fingerprint

EXAMPLE = Path(__file__).parents[2] / "examples/two-nodes/trainingjob.yaml"


@pytest.mark.slow
@pytest.mark.usefixtures("running_operator")
@pytest.mark.timeout(1500)
def test_two_pods_train_one_model(node: Cluster, namespace: str, volumes: Path) -> None:
    job = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["training"] = {"steps": 6, "batchSize": 16, "learningRate": 1e-4}
    job["spec"]["dataset"]["validation"] = {"holdOut": {"fraction": 0.02, "stratifyBy": "label"}}
    job["spec"]["resources"]["perNode"] = {"cpu": "500m"}

    node.apply(job, namespace=namespace)

    ended = node.until("trainingjob", "two-nodes", has_ended, namespace, seconds=1200)
    status = ended["status"]
    assert status["phase"] == "Succeeded", status.get("failure")
    assert [(run["stage"], run["state"]) for run in status["runs"]] == [
        ("prepare", "Succeeded"),
        ("train", "Succeeded"),
        ("evaluate", "Succeeded"),
    ]
    workers = node.list("pod", namespace, "lmops.dev/stage=train")
    assert [pod["status"]["phase"] for pod in workers] == ["Succeeded", "Succeeded"]
    published = volumes / status["model"]["uri"].removeprefix("pvc://")
    assert status["model"]["digest"] == fingerprint(published).digest


def has_ended(job: Manifest) -> bool:
    """Whether a job has come to its end."""
    return job.get("status", {}).get("phase") in ("Succeeded", "Failed")
