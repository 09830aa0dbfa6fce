"""A namespace on a cluster with pods, volumes of this machine, and the operator as its users install it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import helm
from cluster.client import Cluster, Manifest

HOME = "lmops"
"""The namespace of the operator."""
VALUES = {
    "images": {name: f"localhost/lmops-{name}:test" for name in ("operator", "trainer", "compressor")},
    "settings": {"graceSeconds": 30},
}


@pytest.fixture
def namespace(node: Cluster) -> Iterator[str]:
    """A namespace whose pods must run restricted."""
    with node.namespace() as name:
        node.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        yield name


@pytest.fixture(scope="session")
def operator(node: Cluster) -> Iterator[None]:
    """The operator as a pod of this tree's image, installed by helm."""
    node.kubectl("create", "namespace", HOME)
    node.kubectl("label", "namespace", HOME, "pod-security.kubernetes.io/enforce=restricted")
    installed = helm.run(
        "install", "lmops", str(helm.CHART), "--namespace", HOME, values=VALUES, KUBECONFIG=str(node.kubeconfig)
    )
    assert installed.returncode == 0, installed.stderr
    node.kubectl("-n", HOME, "rollout", "status", "deployment/lmops-operator", "--timeout=300s")
    yield
    print(node.kubectl("-n", HOME, "logs", "deployment/lmops-operator", "--tail=100"))
    helm.run("uninstall", "lmops", "--namespace", HOME, KUBECONFIG=str(node.kubeconfig))
    node.kubectl("delete", "namespace", HOME)


@pytest.fixture
def volumes(node: Cluster, namespace: str, tmp_path: Path) -> Path:
    """The claims `data` and `models`, and where they lie: the fetched data, and the fetched models to add ours to."""
    fetched = Path(os.environ.get("LMOPS_TEST_VOLUMES", ""))
    if not (fetched / "models").is_dir():
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent("LMOPS_TEST_VOLUMES is not set: nothing was trained on the node; `make test` fetches what it needs")
    shutil.copytree(fetched / "models/minilm", tmp_path / "models/minilm")
    (tmp_path / "models").chmod(0o777)  # pods have a user of their own
    (tmp_path / "data").symlink_to(fetched / "data")
    node.apply(*_claim("data", fetched / "data", namespace), *_claim("models", tmp_path / "models", namespace))
    return tmp_path


def _claim(name: str, folder: Path, namespace: str) -> list[Manifest]:
    """A claim, and the volume that is bound to it: a folder of this machine."""
    size = {"storage": "1Gi"}
    access = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    reference = {"name": name, "namespace": namespace}
    volume = {"hostPath": {"path": str(folder)}, "capacity": size, "claimRef": reference}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {**access, **volume, "persistentVolumeReclaimPolicy": "Retain"},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": reference,
            "spec": {**access, "resources": {"requests": size}, "volumeName": f"{namespace}-{name}"},
        },
    ]
