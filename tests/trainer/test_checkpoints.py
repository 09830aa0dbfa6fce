"""A checkpoint is complete or it is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmops_trainer.checkpoints import MARKER, complete, latest, passed_over, prune, recover, remove, replaced, seal


def checkpoint(root: Path, attempt: int, step: int, sealed: bool = True) -> Path:
    folder = root / str(attempt) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    if sealed:
        seal(folder, step)
    return folder


def steps(root: Path) -> list[tuple[int, int]]:
    return sorted((found.attempt, found.step) for found in complete(root))


def test_the_highest_step_of_any_attempt_is_the_latest(tmp_path: Path) -> None:
    checkpoint(tmp_path, attempt=0, step=30)
    checkpoint(tmp_path, attempt=1, step=20)

    found = latest(tmp_path)

    assert found is not None
    assert (found.step, found.attempt, found.folder) == (30, 0, tmp_path / "0" / "checkpoint-30")


def test_a_checkpoint_without_its_marker_is_ignored(tmp_path: Path) -> None:
    checkpoint(tmp_path, attempt=0, step=10)
    checkpoint(tmp_path, attempt=0, step=20, sealed=False)

    assert steps(tmp_path) == [(0, 10)]


def test_a_checkpoint_with_a_file_cut_short_is_ignored(tmp_path: Path) -> None:
    checkpoint(tmp_path, attempt=0, step=10)
    (checkpoint(tmp_path, attempt=0, step=20) / "model.safetensors").write_bytes(b"weig")

    assert steps(tmp_path) == [(0, 10)]


def test_a_later_checkpoint_that_was_complete_and_is_cut_short_is_told(tmp_path: Path) -> None:
    checkpoint(tmp_path, attempt=0, step=10)
    cut = checkpoint(tmp_path, attempt=0, step=20)
    checkpoint(tmp_path, attempt=0, step=30, sealed=False)
    (cut / "model.safetensors").write_bytes(b"wei")

    assert passed_over(tmp_path, latest(tmp_path)) == [cut]


def test_a_checkpoint_with_a_broken_marker_is_ignored(tmp_path: Path) -> None:
    (checkpoint(tmp_path, attempt=0, step=20) / MARKER).write_text('{"step": 2')

    assert latest(tmp_path) is None


def test_there_is_no_latest_where_nothing_was_saved(tmp_path: Path) -> None:
    assert latest(tmp_path / "checkpoints") is None


def test_the_newest_complete_checkpoints_are_kept_and_rests_of_earlier_attempts_removed(tmp_path: Path) -> None:
    checkpoint(tmp_path, attempt=0, step=10)
    checkpoint(tmp_path, attempt=0, step=20)
    half = checkpoint(tmp_path, attempt=0, step=25, sealed=False)
    checkpoint(tmp_path, attempt=1, step=30)
    in_progress = checkpoint(tmp_path, attempt=1, step=40, sealed=False)

    prune(tmp_path, keep=2, attempt=1)

    assert steps(tmp_path) == [(0, 20), (1, 30)]
    assert not half.exists()
    assert in_progress.exists()


def test_a_removed_checkpoint_is_gone(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, attempt=0, step=10)

    remove(folder)

    assert not folder.exists()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replaced(tmp_path / "best", "best.json") as folder:
            (folder / "best.json").write_text(text)

    assert [file.name for file in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "best.json").read_text() == "new"


def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    with replaced(tmp_path / "best", "best.json") as folder:
        (folder / "best.json").write_text("old")

    def fail() -> None:
        with replaced(tmp_path / "best", "best.json") as folder:
            (folder / "model.safetensors").write_text("half of")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()

    assert [file.name for file in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "best.json").read_text() == "old"


def test_a_replacement_cut_short_between_its_renames_is_taken_back(tmp_path: Path) -> None:
    with replaced(tmp_path / "best", "best.json") as folder:
        (folder / "best.json").write_text("old")
    (tmp_path / "best").rename(tmp_path / ".best.old")

    recover(tmp_path / "best", "best.json")

    assert (tmp_path / "best" / "best.json").read_text() == "old"
