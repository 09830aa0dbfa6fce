"""A real Kubernetes for the tests that ask for one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from cluster import builds, controlplane, image, kubeflow
from cluster import kserve as kserves
from cluster import node as nodes
from cluster.client import Cluster

LIBRARIES = ("transformers", "datasets", "accelerate", "py.warnings")
FOREIGN = os.environ.get("LMOPS_TEST_KUBECONFIG", "")


@pytest.fixture(autouse=True)
def _log_of_nobody() -> Iterator[None]:
    """A runtime that runs within a test takes the log for its own: its screen is gone when the test is over."""
    for name in ("lmops", *LIBRARIES):
        logging.getLogger(name).handlers.clear()
    yield
    for name in ("lmops", *LIBRARIES):
        logging.getLogger(name).handlers.clear()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compiles what the collected tests will start: that takes minutes, and no test's time limit should count them."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter else print
    with suppress(builds.MissingError):  # said where a test is skipped for it
        if "control_plane" in wanted:
            builds.build(builds.CONTROL_PLANE, say)
        if "kserve" in wanted:
            builds.build(("kserve",), say)
        if "node" in wanted:
            _prepare_node(say)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[controlplane.ControlPlane]:
    """An API server with its controllers and Kubeflow's training-operator, and no node: tests play the pods."""
    try:
        builds.build(builds.CONTROL_PLANE)
    except builds.MissingError as missing:
        _absent(f"NO CONTROL PLANE: {missing}")
    with controlplane.running(tmp_path_factory.mktemp("control-plane")) as plane:
        kubeflow.start(plane)
        yield plane


@pytest.fixture(scope="session")
def kserve(control_plane: controlplane.ControlPlane) -> controlplane.ControlPlane:
    """The same with KServe's controller."""
    try:
        builds.build(("kserve",))
    except builds.MissingError as missing:
        _absent(f"NO KSERVE: {missing}")
    kserves.start(control_plane)
    return control_plane


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with pods, and images of this tree: the one that LMOPS_TEST_KUBECONFIG names, or a node of our own."""
    try:
        _prepare_node()
    except builds.MissingError as missing:
        _absent(f"NO NODE: {missing}")
    if FOREIGN:
        yield Cluster(Path(FOREIGN))
        return
    with nodes.running(tmp_path_factory.mktemp("node")) as running:
        kubeflow.start(running)
        for name in image.SOURCES:
            running.load(image.build(name, running.folder))
        yield running


def _prepare_node(say: builds.Say = print) -> None:
    """What takes minutes the first time."""
    if FOREIGN:
        builds.build(("kubectl",), say)
        return
    nodes.require(say)
    builds.build(builds.NODE, say)
    for name in image.SOURCES:
        image.site(name, say)


def _absent(why: str) -> NoReturn:
    """A laptop may go without; the checks that guard the main branch may not."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(why)
    pytest.skip(why)
