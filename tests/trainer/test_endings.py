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
from lmops.api.compressionreport import (
    Change,
    Check,
    CompressionReport,
    Interval,
    Latency,
    ModelFigures,
    SearchReport,
    Trial,
)
from lmops.api.run import Stopped
from lmops.api.status import ModelReport
from lmops.api.trainingstatus import Best, ClassReport, EvaluationReport
from lmops_trainer import launch
from lmops_trainer.endings import LIMIT, Ranks, fitted, keep, write
from lmops_trainer.failures import failure
from lmops_trainer.launch import summed_up
from lmops_trainer.progress import Progress
from runs import run

SMALL = ModelReport(uri="pvc://data/small/0123", digest=f"sha256:{'0' * 64}", size_bytes=1, parameters=1)
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


def side(**changes: Any) -> ModelFigures:
    """A model as a comparison tells it."""
    measured = {"p50_milliseconds": 1234.5678, "p95_milliseconds": 2345.6789, "rows_per_second": 51.84}
    usual = {
        "format": "safetensors", "size_bytes": 497_774_208, "parameters": 124_439_808,
        "non_zero_parameters": 124_439_808, "load_seconds": 12.345, "peak_memory_bytes": 1_234_567_890,
        "latency": [Latency(batch_size=64, length=1024, **measured)],
        "metrics": dict.fromkeys(("loss", "accuracy", "precision", "recall", "f1", "mcc"), 0.843123),
    }  # fmt: skip
    return ModelFigures(**usual | changes)


def comparison(trials: int, model: ModelFigures, **changes: Any) -> Result:
    """What the stage compress has made."""
    usual = {
        "method": "Neurons 25% + Dynamic 8 bit", "split": "validation", "rows": 1061, "threads": 1, "metric": "f1",
        "changes": [Change(step="Neurons 25%", layers=6, detail="9216 of 12288 neurons")] * 2,
        "original": model, "compressed": model, "size_ratio": 3.9217, "latency_ratio": 0.4333, "memory_ratio": 0.4032,
        "quality": Interval(value=-0.003, low=-0.011, high=0.004), "agreement": Interval(value=0.99, low=0.98, high=1),
        "confidence": 0.95, "verdict": "NotPassed",
        "checks": [Check(limit="maxLatencyRatio", kept=True, sentence="latency is 0.43 of the original's, as it may")]
        * 5,
        "notes": ["Energy was not measured: this machine has no RAPL counters below /sys/class/powercap."],
        "sentence": "3.92x smaller, 2.31x faster, f1 -0.003 (0.843 to 0.840) on 1,061 test rows: passed",
    }  # fmt: skip
    trial = Trial(method="Neurons 25% + Dynamic 8 bit", rows=128, size_ratio=4.1, quality=0, outcome="Pareto")
    search = SearchReport(combinations=96, tried=16, trials=[trial] * trials)
    return Result(model=SMALL, report=CompressionReport(**usual | changes), search=search)


def test_a_usual_comparison_and_its_search_lose_trials_alone() -> None:
    result = comparison(12, side())

    text = fitted(Ending(stage="compress", attempt=0, result=result))

    assert len(text.encode()) <= LIMIT
    kept = Ending.model_validate_json(text).result
    assert kept is not None
    assert kept.report == result.report
    assert kept.search is not None
    assert len(kept.search.trials) >= 5


def test_a_comparison_that_says_too_much_keeps_what_the_status_shows() -> None:
    model = side(latency=side().latency * 16, metrics={f"metric-{i}": 0.5 for i in range(9)} | {"f1": 0.843})
    result = comparison(
        12, model, method="m" * 900, sentence="3.92x smaller, " + "s" * 900,
        checks=[Check(limit="minAgreement", kept=False, sentence="é" * 500)] * 5, notes=["n" * 300] * 8,
        changes=[Change(step="Wanda 50%", layers=36, detail="d" * 300)] * 8,
    )  # fmt: skip

    text = fitted(Ending(stage="compress", attempt=0, result=result))

    assert len(text.encode()) <= LIMIT
    kept = Ending.model_validate_json(text).result
    assert kept is not None
    assert kept.report is not None
    assert kept.report.original.latency == side().latency
    assert kept.report.compressed.metrics == {"f1": 0.843}
    assert (kept.report.quality.value, kept.report.verdict, len(kept.report.checks)) == (-0.003, "NotPassed", 5)
    assert kept.search is not None
    assert kept.search.tried == 16


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
    monkeypatch.setattr(launch, "open_log", lambda *unused: None)
    monkeypatch.setattr(Progress, "close", close)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = launch.alone("evaluate", run(volumes), lambda run, progress: result)
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
