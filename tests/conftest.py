"""A real Kubernetes for the tests that ask for one."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

import spread
from cluster import builds, controlplane, image, kubeflow
from cluster import kserve as kserves
from cluster import node as nodes
from cluster.client import Cluster

LIBRARIES = ("transformers", "datasets", "accelerate", "py.warnings")
FOREIGN = os.environ.get("LMOPS_TEST_KUBECONFIG", "")


@pytest.fixture(autouse=True)
def _process_of_nobody() -> Iterator[None]:
    """A runtime that runs within a test takes log and environment for its own: both are given back when it is over."""
    environment = dict(os.environ)
    _give_back_logs()
    yield
    _give_back_logs()
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _give_back_logs() -> None:
    for name in ("lmops", *LIBRARIES):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, tests that share what is costly run in one process."""
    return spread.Spread(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, what takes longest starts first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: spread.place(item.nodeid))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compiles what the collected tests will start: that takes minutes, and no test's time limit should count them."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    say = _aloud(session.config)
    with suppress(builds.MissingError):  # said where a test is skipped for it
        if "control_plane" in wanted:
            builds.build(builds.CONTROL_PLANE, say)
        if wanted & {"kserve", "serving_node"}:
            builds.build(("kserve",), say)
        if "node" in wanted:
            _prepare_node(say)


def _aloud(config: pytest.Config) -> builds.Say:
    """Says a line on the terminal, from a process of pytest-xdist too."""
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        return reporter.write_line  # type: ignore[no-any-return]

    def say(line: str) -> None:
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(line, file=sys.stderr, flush=True)

    return say


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


@pytest.fixture(scope="session")
def serving_node(node: Cluster) -> Cluster:
    """The same with KServe's controller, which another one's cluster must have."""
    if isinstance(node, nodes.Node):
        try:
            builds.build(("kserve",))
        except builds.MissingError as missing:
            _absent(f"NO KSERVE: {missing}")
        kserves.start(node)
    return node


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
