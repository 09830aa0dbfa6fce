"""Every run ends with one small document, and the one that is told is the one that came first in cause."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmops.api import Ending, Result
from lmops.api.run import Stopped
from lmops.api.trainingstatus import Best, ClassReport, EvaluationReport
from lmops_trainer import launch
from lmops_trainer.endings import LIMIT, Ranks, fitted, keep, write
from lmops_trainer.failures import failure
from lmops_trainer.launch import summed_up
from lmops_trainer.progress import Progress
from runs import run

BEST = Best(step=20, metric="f1", value=0.81, path="pvc://work/jobs/job/best")


def ending(**parts: Any) -> Ending:
    return Ending(stage="train", attempt=0, **parts)


def told(volumes: Path, *ranks: Ending, permanent: Any = None, **happened: Any) -> Ending:
    """What the launcher makes of the ends of its ranks."""
    nothing: dict[str, Any] = {"signalled": None, "failures": {}, "crash": None, "oom": False}
    return summed_up(run(volumes), list(ranks), permanent, **nothing | happened)


def died(code: int) -> SimpleNamespace:
    return SimpleNamespace(exitcode=code)


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path / "volumes"))
    monkeypatch.setenv("LMOPS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LMOPS_TERMINATION_LOG", str(tmp_path / "termination-log"))
    return tmp_path / "volumes"


def test_an_ending_is_written_as_it_is_when_it_is_small(volumes: Path, tmp_path: Path) -> None:
    written = ending(result=Result(best=BEST), checkpoint=15)

    write(written)

    assert Ending.model_validate_json((tmp_path / "termination-log").read_text()) == written


def test_a_long_failure_is_shortened_to_what_a_termination_log_holds() -> None:
    lines = [f"12:00:{i:02d} train {'é' * 900}" for i in range(20)]

    text = fitted(ending(failure=failure("Code", "E", "m" * 4000, "r" * 4000, lines)))

    assert len(text.encode()) <= LIMIT
    kept = Ending.model_validate_json(text).failure
    assert kept is not None
    assert kept.evidence[-1].startswith("12:00:19 train")


def test_a_long_result_loses_its_confusion_and_keeps_its_metrics() -> None:
    classes = {f"class-{i}": ClassReport(precision=0.5, recall=0.5, f1=0.5, rows=9) for i in range(60)}
    report = EvaluationReport(
        split="test", rows=600, metrics={"f1": 0.5}, classes=classes, confusion=[[1000] * 60 for _ in range(60)]
    )

    text = fitted(Ending(stage="evaluate", attempt=0, result=Result(evaluation=report)))

    assert len(text.encode()) <= LIMIT
    kept = json.loads(text)["result"]["evaluation"]
    assert "confusion" not in kept
    assert kept["metrics"] == {"f1": 0.5}


def test_of_very_many_classes_only_the_overall_figures_fit() -> None:
    names = {f"f1:{'class' * 20}-{i}": 0.5 for i in range(64)}
    report = EvaluationReport(split="test", rows=600, metrics={"f1": 0.5} | names, baseline={"f1": 0.4} | names)

    text = fitted(Ending(stage="evaluate", attempt=0, result=Result(evaluation=report)))

    assert len(text.encode()) <= LIMIT
    assert json.loads(text)["result"]["evaluation"]["metrics"] == {"f1": 0.5}


def test_a_result_is_kept_in_the_workspace(volumes: Path) -> None:
    keep(ending(result=Result(best=BEST)), run(volumes))

    kept = Ending.model_validate_json((volumes / "work/jobs/job/results/train.json").read_text())
    assert kept.result == Result(best=BEST)


def test_a_result_wins(volumes: Path) -> None:
    assert told(volumes, ending(result=Result(best=BEST))) == ending(result=Result(best=BEST))


def test_an_orderly_stop_is_told_with_its_step(volumes: Path) -> None:
    stopped = Stopped(signal="SIGTERM", step=18)

    assert told(volumes, ending(stopped=stopped), signalled="SIGTERM") == ending(stopped=stopped)


def test_a_signal_before_the_ranks_could_note_it_is_a_stop_as_well(volumes: Path) -> None:
    found = told(volumes, signalled="SIGTERM", failures={0: died(-15)})

    assert found == ending(stopped=Stopped(signal="SIGTERM"))


def test_a_signal_after_the_work_does_not_undo_it(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    result = Result(evaluation=EvaluationReport(split="test", rows=6, metrics={"f1": 0.5}))
    monkeypatch.setattr(launch, "_stage", lambda stage: lambda run, progress: result)
    monkeypatch.setattr(launch, "open_log", lambda *unused: None)
    monkeypatch.setattr(Progress, "close", close)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = launch.alone("evaluate", run(volumes))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert code == 0
    written = Ending.model_validate_json((tmp_path / "termination-log").read_text())
    assert written == Ending(stage="evaluate", attempt=0, result=result)


def test_a_killed_rank_is_named_before_what_the_others_say_of_it(volumes: Path) -> None:
    lost_contact = failure("Communication", "PeerLost", "The processes lost contact.")

    found = told(volumes, ending(failure=lost_contact), failures={0: died(1), 1: died(-9)})

    assert found.failure is not None
    assert (found.failure.class_, found.failure.reason) == ("WorkerLost", "RankKilled")
    assert found.failure.message == "Rank 1 was ended by SIGKILL."


def test_a_rank_killed_at_the_memory_limit_ran_out_of_memory(volumes: Path) -> None:
    found = told(volumes, failures={1: died(-9)}, oom=True)

    assert found.failure is not None
    assert found.failure.class_ == "OutOfMemory"


def test_a_refusal_is_told_before_the_contact_that_others_lost(volumes: Path) -> None:
    lost_contact = failure("Communication", "PeerLost", "The processes lost contact.")
    refused = failure("Model", "NotAModel", "It is no model.", evidence=["line"])

    found = told(volumes, ending(failure=lost_contact), permanent=refused, failures={0: died(1), 1: died(1)})

    assert found.failure == refused


def test_ranks_of_an_earlier_restart_count_only_for_what_is_permanent(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(tmp_path / "ranks")
    refused = failure("Model", "NotAModel", "It is no model.")
    ranks.record(ending(failure=refused))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ranks.record(ending(stopped=Stopped(signal="SIGTERM", step=7)))

    assert ranks.endings() == [ending(stopped=Stopped(signal="SIGTERM", step=7))]
    assert ranks.permanent() == refused
