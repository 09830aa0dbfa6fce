"""A namespace on a cluster with pods, volumes of this machine, and the operator as its users install it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import helm
from cluster.client import Cluster
from cluster.volumes import bound

HOME = "lmops"
"""The namespace of the operator."""
VALUES = {
    "images": {name: f"localhost/lmops-{name}:test" for name in ("operator", "trainer", "compressor", "server")},
    "settings": {"graceSeconds": 30},
}


@pytest.fixture
def namespace(node: Cluster) -> Iterator[str]:
    """A namespace whose pods must run restricted."""
    with node.restricted() as name:
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
    """The claims `data` and `models`, and where they lie."""
    return bound(node, namespace, tmp_path)
