"""A real Kubernetes for the tests that ask for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

import pytest

from cluster import builds, controlplane, kubeflow


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compiles what the collected tests will start: that takes minutes, and no test's time limit should count them."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "control_plane" not in wanted or session.config.option.collectonly:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    with suppress(builds.MissingError):  # said where a test is skipped for it
        builds.build(builds.CONTROL_PLANE, reporter.write_line if reporter else print)


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


def _absent(why: str) -> NoReturn:
    """A laptop may go without; the checks that guard the main branch may not."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(why)
    pytest.skip(why)
