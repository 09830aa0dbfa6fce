"""The one child of a QuantizeJob, by Kubernetes' own schema, and where it differs from those of a TrainingJob."""

from __future__ import annotations

import json
from typing import Any

import pytest

import schemas
from builders import SETTINGS, manifest, quantizejob
from lmops.api import Compression
from lmops.plan import Manifest
from lmops.settings import Settings

SOURCE = {"uri": "pvc://models/reviews/0123456789ab", "dataset": "pvc://work/data", "name": "reviews"}


def child(settings: Settings = SETTINGS, **spec: Any) -> Manifest:
    """The Job of a QuantizeJob that has found its model."""
    return manifest(quantizejob(status={"source": SOURCE}, **spec), "compress", 1, settings)


def container(manifest: Manifest) -> Manifest:
    """What its pod runs."""
    (found,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"resources": {"perNode": {"cpu": "2", "memory": "8Gi"}, "accelerator": {"perNode": 2}}},
        {"queueName": "small", "credentials": {"secretName": "hub"}, "pod": {"nodeSelector": {"cpu": "avx512"}}},
    ],
)
def test_kubernetes_takes_it(spec: dict[str, Any]):
    schemas.check(child(**spec))


def test_it_is_told_everything_in_one_document():
    made = container(child(steps=[{"prune": {"method": "SparseGPT", "pattern": "2:4"}}]))

    run = Compression.model_validate_json(made["args"][0])
    assert made["command"] == ["python", "-m", "lmops_compressor", "compress"]
    assert (run.run.stage, run.run.attempt, run.source.uri) == ("compress", 1, SOURCE["uri"])
    assert run.spec.steps is not None
    assert run.spec.steps[0].words == "SparseGPT 2:4"
    assert "$" not in made["args"][0]
    json.loads(made["args"][0])


def test_it_has_the_threads_memory_and_accelerators_that_were_asked_for():
    settings = SETTINGS.model_copy(update={"compressor_image": "compressor:1"})
    made = container(
        child(settings, resources={"perNode": {"cpu": "2500m", "memory": "8Gi"}, "accelerator": {"perNode": 1}})
    )
    variables = {entry["name"]: entry.get("value") for entry in made["env"]}

    assert made["image"] == "compressor:1"
    assert made["resources"] == {
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
        "requests": {"memory": "8Gi", "nvidia.com/gpu": "1", "cpu": "2500m"},
    }
    assert (variables["OMP_NUM_THREADS"], variables["HF_HUB_OFFLINE"]) == ("2", "1")
    assert variables["KUBEFLOW_TRAINER_SERVER_URL"] == (
        "http://127.0.0.1:9000/namespaces/default/quantizejobs/small/runs/small-compress-a1"
    )


def test_a_model_of_the_hub_is_fetched():
    made = quantizejob(status={"source": {"uri": "hf://owner/name"}}, model={"from": {"uri": "hf://owner/name"}})
    variables = {entry["name"] for entry in container(manifest(made, "compress", 0, SETTINGS))["env"]}

    assert "HF_HUB_OFFLINE" not in variables


def test_what_has_a_queue_is_born_held_back():
    made = child(queueName="small")

    assert (made["spec"]["suspend"], made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "small")
    assert made["metadata"]["ownerReferences"][0]["kind"] == "QuantizeJob"
