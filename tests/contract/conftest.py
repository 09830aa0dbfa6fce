"""A control plane that knows our kinds, and the operator beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import operator
from cluster.client import Cluster
from cluster.controlplane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> Cluster:
    """A cluster with our CRDs."""
    control_plane.install_crds(*CRDS.glob("*.yaml"))
    return control_plane


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="module")
def running_operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[operator.Operator]:
    """The operator as a process, with no more rights than it needs."""
    with operator.running(cluster, tmp_path_factory.mktemp("operator"), operator.rules()) as running:
        yield running
