"""A run that was cut short and goes on ends with the very weights of a run that was not."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from runs import SIGNAL_IN_MICRO_BATCH, Process, run

SETTINGS: dict[str, Any] = {
    "training": {"epochs": 4, "batchSize": 4, "microBatchSize": 2, "seed": 3},
    "checkpoint": {"every": {"steps": 5}, "keep": 2},
    "evaluation": {"every": {"steps": 4}},
    "output": {"keep": "Last"},
}
EPOCH = 11


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "volumes"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def whole(volumes: Path) -> Process:
    """The run that nothing disturbs."""
    process = Process(run(volumes, uid="whole", **SETTINGS), volumes, rank=True)
    assert process.wait().result is not None, process.output()
    return process


def trained(process: Process) -> tuple[bytes, list[tuple[int, float]]]:
    """The final weights, and the curve of the evaluation loss."""
    points = [json.loads(line) for line in (process.job / "metrics.jsonl").read_text().splitlines()]
    curve = [(point["step"], point["eval_loss"]) for point in points if "eval_loss" in point]
    return (process.job / "last" / "model.safetensors").read_bytes(), curve


def resumed(volumes: Path, uid: str) -> Process:
    process = Process(run(volumes, uid=uid, attempt=1, **SETTINGS), volumes, rank=True)
    assert process.wait().result is not None, process.output()
    return process


def test_a_killed_run_goes_on_from_its_checkpoint_bit_for_bit(volumes: Path, whole: Process) -> None:
    killed = Process(
        run(volumes, uid="killed", **SETTINGS), volumes, rank=True, before=SIGNAL_IN_MICRO_BATCH.format(37, "SIGKILL")
    )
    assert killed.process.wait(180) == -signal.SIGKILL

    again = resumed(volumes, "killed")

    assert "resumes at step 15 of attempt 0" in again.output()
    assert trained(again) == trained(whole)


def test_a_run_asked_to_stop_in_mid_accumulation_saves_after_the_step(volumes: Path, whole: Process) -> None:
    asked = Process(
        run(volumes, uid="asked", **SETTINGS), volumes, rank=True, before=SIGNAL_IN_MICRO_BATCH.format(35, "SIGTERM")
    )
    ending = asked.wait()
    assert ending.stopped is not None, asked.output()
    assert (ending.stopped.signal, ending.stopped.step, ending.checkpoint, asked.code) == ("SIGTERM", 18, 18, 0)

    again = resumed(volumes, "asked")

    assert "resumes at step 18 of attempt 0" in again.output()
    assert trained(again) == trained(whole)


def test_a_disk_that_fills_up_during_a_save_leaves_the_checkpoint_before_it_intact(
    volumes: Path, whole: Process
) -> None:
    checkpoint = max((whole.job / "checkpoints" / "0").iterdir())
    largest = max(file.stat().st_size for file in checkpoint.iterdir())
    settings = SETTINGS | {"evaluation": {"every": {"steps": 44}}}
    first = Process(
        run(volumes, uid="full", **settings), volumes, rank=True, before=SIGNAL_IN_MICRO_BATCH.format(31, "SIGKILL")
    )
    first.process.wait(180)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))

    full = Process(run(volumes, uid="full", attempt=1, **settings), volumes, rank=True, prepare=limited)
    ending = full.wait()
    assert ending.failure is not None, full.output()
    assert (ending.failure.class_, ending.failure.reason) == ("Disk", "DiskFull")
    assert "checkpoint-20" in ending.failure.message
    assert "bytes free" in ending.failure.message
    assert ending.checkpoint == 15
    assert not (full.job / "checkpoints" / "1" / "checkpoint-20").exists()

    again = Process(run(volumes, uid="full", attempt=2, **settings), volumes, rank=True)

    assert again.wait().result is not None, again.output()
    assert "resumes at step 15 of attempt 0" in again.output()
    assert trained(again)[0] == trained(whole)[0]


STALE = """
from lmops.api.trainingstatus import Best
from lmops_trainer import checkpoints
def unseen(*unused):
    raise ValueError
checkpoints.complete, Best.model_validate_json = lambda root: [], unseen
"""


def test_processes_that_see_different_volumes_go_by_what_the_first_one_sees(volumes: Path) -> None:
    settings = SETTINGS | {"training": SETTINGS["training"] | {"steps": 12}, "output": {"keep": "Best"}}
    assert Process(run(volumes, uid="stale", **settings), volumes, rank=True).wait().result is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    again = run(volumes, uid="stale", attempt=1, **settings)
    first, second = (
        Process(again, volumes, rank=True, before=before, RANK=number, LOCAL_RANK=number, **where)
        for number, before in (("0", ""), ("1", STALE))
    )

    results = [process.wait(60).result for process in (first, second)]

    assert results[0] is not None, first.output()
    assert results[1] == results[0], second.output()
    assert all("resumes at step 10 of attempt 0" in process.output() for process in (first, second))


def test_two_processes_of_which_one_is_asked_to_stop_end_at_the_same_step(volumes: Path) -> None:
    settings = SETTINGS | {"training": {"steps": 5000, "batchSize": 4}, "checkpoint": {"every": {"steps": 4000}}}
    pair = Process(run(volumes, uid="pair", **settings), volumes, PET_NPROC_PER_NODE="2")
    pair.until(lambda: pair.step() >= 50)

    os.kill(pair.ranks()[1], signal.SIGTERM)

    ending = pair.wait()
    assert ending.stopped is not None, pair.output()
    assert ending.stopped.step == ending.checkpoint
    assert [end.stopped for end in pair.ends()] == [ending.stopped, ending.stopped]
    assert pair.code == 0
