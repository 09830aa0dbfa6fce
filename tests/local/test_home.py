"""What the laptop keeps of a resource, in the order that its terminals and engines may come in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmops.local.accelerators import Accelerators
from lmops.local.engine import Engine
from lmops.local.home import Folder, Home, LeavingError
from lmops.local.kinds import KINDS
from lmops.local.kubelet import Node
from lmops.plan import Manifest
from lmops.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANIFEST: Manifest = {"kind": "TrainingJob", "metadata": {"name": "reviews"}, "spec": {}}


def applied(home: Path, namespace: str = "default") -> Folder:
    """A resource that was just applied."""
    folder = Home(home).folder(namespace, "TrainingJob", "reviews")
    folder.apply(MANIFEST, NOW)
    return folder


def test_what_is_being_deleted_cannot_be_applied(tmp_path: Path) -> None:
    folder = applied(tmp_path, "team")
    folder.ask_deletion(NOW)

    with pytest.raises(LeavingError) as error:
        folder.apply({**MANIFEST, "spec": {"suspend": True}}, NOW)

    assert str(error.value) == (
        "trainingjob/reviews -n team is being deleted; apply it again when it is gone "
        "(`lmops local delete trainingjob/reviews -n team` waits for that)"
    )
    assert (folder.applied() or {})["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(("asked", "left"), [(True, []), (False, ["TrainingJob"])])
def test_only_what_was_asked_to_go_is_removed(tmp_path: Path, asked: bool, left: list[str]) -> None:
    folder = applied(tmp_path)
    if asked:
        folder.ask_deletion(NOW)

    folder.remove()

    assert [found.kind for found in Home(tmp_path).folders()] == left


def test_a_namespace_is_part_of_the_name_that_commands_take(tmp_path: Path) -> None:
    assert [str(applied(tmp_path, space)) for space in ("default", "team")] == [
        "trainingjob/reviews",
        "trainingjob/reviews -n team",
    ]


def test_an_engine_starts_nothing_that_its_status_does_not_tell(laptop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(laptop.home)
    folder = home.folder("default", "TrainingJob", "reviews")
    folder.apply(yaml.safe_load((laptop.folder / "reviews.yaml").read_text()), NOW)
    node = Node(Accelerators((), laptop.home / "gpus"), "http://127.0.0.1:1")
    settings = Settings(progress_url="http://127.0.0.1:1", user=None)
    engine = Engine(home, folder, KINDS["TrainingJob"], settings, node, lambda: None)
    monkeypatch.setattr(folder, "write_status", full)

    with pytest.raises(OSError, match="the disk is full"):
        asyncio.run(engine.run())

    assert engine.cluster.children == {}


def full(_: Manifest) -> None:
    """A disk that takes nothing more."""
    raise OSError("the disk is full")
