"""What the node promises to the tests that run on it."""

from __future__ import annotations

import pytest

from cluster.client import Cluster, Manifest

pytestmark = pytest.mark.slow


def pod(image: str, program: str) -> Manifest:
    """A restricted pod of a user whom no passwd knows, that runs a Python program."""
    container = {
        "name": "main",
        "image": f"localhost/lmops-{image}:test",
        "imagePullPolicy": "Never",
        "command": ["python", "-c", program],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 12345, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "restartPolicy": "Never",
        "securityContext": security,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": image}, "spec": spec}


def ran(node: Cluster, namespace: str, manifest: Manifest) -> str:
    """What a pod has printed, once it has succeeded."""
    name = manifest["metadata"]["name"]
    node.apply(manifest, namespace=namespace)
    ended = node.until("pod", name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), namespace, 120)
    log = node.kubectl("logs", name, "-n", namespace)
    assert ended["status"]["phase"] == "Succeeded", log
    return log


ASKS_THE_API = """
import json, ssl, urllib.request
import kopf, kubernetes, lmops.service
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
trusted = ssl.create_default_context(cafile=folder + "ca.crt")
request = urllib.request.Request("https://kubernetes.default.svc/apis")
request.add_header("Authorization", "Bearer " + open(folder + "token").read())
print(json.load(urllib.request.urlopen(request, context=trusted, timeout=10))["kind"])
"""


def test_the_operators_image_reaches_the_api_by_its_name(node: Cluster, namespace: str) -> None:
    assert ran(node, namespace, pod("operator", ASKS_THE_API)) == "APIGroupList\n"


def test_the_trainers_image_computes(node: Cluster, namespace: str) -> None:
    program = "import torch, transformers, lmops_trainer.train; print(int(torch.ones(3) @ torch.ones(3)))"

    assert ran(node, namespace, pod("trainer", program)).splitlines()[-1] == "3"


def test_the_compressors_image_has_the_runtimes_that_its_models_need(node: Cluster, namespace: str) -> None:
    program = (
        "import onnxruntime, compressed_tensors, lmops_compressor.methods.mobile, lmops_compressor.methods.fp8; "
        "from executorch.runtime import Runtime; print(Runtime.get().backend_registry.is_available('XnnpackBackend'))"
    )

    assert ran(node, namespace, pod("compressor", program)).splitlines()[-1] == "True"
