"""A search on a real model: it goes on after a stop, leaves out what fails, and keeps what is within the limits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmops.api import Compression
from lmops.api.compressionreport import Change, SearchReport
from lmops_compressor import measure, rows, trials
from lmops_compressor.compress import compress
from lmops_compressor.process import ModelProcess
from lmops_compressor.search import searched, tried
from lmops_compressor.source import Source
from lmops_compressor.steps import Compressed, applied
from lmops_compressor.trials import home
from lmops_trainer.endings import Stop
from lmops_trainer.failures import Refusal
from lmops_trainer.progress import Progress
from lmops_trainer.uris import path
from measuring import Models, run, shaken
from trained import SILENT

FP8 = {"quantize": {"method": "FP8"}}
SPACE = [
    {"oneOf": [{"prune": {"method": "Magnitude"}}, {"prune": {"method": "Neurons"}}], "optional": True},
    {"oneOf": [FP8], "optional": True},
]
LIMITS = {"minAgreement": 0.95}


def harmful(subject: Any, how: Any, rows: Any, tell: Any) -> Change:
    """A pruning that nothing survives."""
    with torch.no_grad():
        shaken(9.0)(subject.model)
    tell(1)
    return Change(step="Magnitude", layers=1)


def unfit(*_: Any) -> Change:
    raise Refusal("Model", "Unfit", "This model has no neurons.")


def bits16(subject: Any, how: Any, rows: Any, target: Path, tell: Any) -> Change:
    """Half the size, and all the sense."""
    subject.model.half().save_pretrained(target)
    tell(1)
    return Change(step="FP8", layers=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        for name, method in {
            "magnitude": {"prune": harmful},
            "neurons": {"prune": unfit},
            "fp8": {"quantize": bits16},
        }.items():
            monkeypatch.setitem(sys.modules, f"lmops_compressor.methods.{name}", SimpleNamespace(**method))
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


def job(models: Models, uid: str, **settings: Any) -> Compression:
    """A job of its own, which knows nothing of what others have tried."""
    uri, _ = models.of()
    made = run(uri, calibration={"rows": 16}, search={"steps": SPACE, "limits": LIMITS, **settings})
    return made.model_copy(update={"run": made.run.model_copy(update={"uid": uid})})


def found(this: Compression, place: Path) -> tuple[str, SearchReport]:
    """One attempt."""
    place.mkdir(exist_ok=True)
    steps, made, report = searched(this, Source.open(this), place, lambda _: None)
    assert (made.folder / "model.safetensors").is_file()
    return space_words(steps), report


def space_words(steps: Any) -> str:
    return " + ".join(step.words for step in steps)


def test_a_search_that_was_stopped_goes_on_where_it_was(models: Models, tmp_path: Path):
    this, shares = job(models, "stopped"), []

    def stop(share: float) -> None:
        shares.append(share)
        if len(shares) == 3:
            raise Stop("SIGTERM")

    (tmp_path / "first").mkdir()
    with pytest.raises(Stop):
        searched(this, Source.open(this), tmp_path / "first", stop)
    before = {file.name: file.stat().st_mtime_ns for file in home(this).iterdir()}
    assert len(before) == 3

    chosen, report = found(this, tmp_path / "second")

    assert {name: (home(this) / name).stat().st_mtime_ns for name in before} == before
    assert chosen == "FP8 8 bit"
    assert (report.combinations, report.tried) == (5, 5)
    assert [(trial.method, trial.rows, trial.outcome) for trial in report.trials[:1]] == [("FP8 8 bit", 16, "Chosen")]
    assert 1.6 < (report.trials[0].size_ratio or 0) < 2
    assert {trial.method: trial.outcome for trial in report.trials[1:]} == {
        "Magnitude 50%": "OutsideLimits",
        "Magnitude 50% + FP8 8 bit": "OutsideLimits",
        "Neurons 25%": "Failed",
        "Neurons 25% + FP8 8 bit": "Failed",
    }
    assert tried(this) == report.trials


def test_what_was_measured_is_not_measured_again(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    this = job(models, "again", steps=[{"oneOf": [FP8]}])
    before = found(this, tmp_path / "first")
    monkeypatch.setattr(trials, "started", None)

    assert found(this, tmp_path / "second") == before


def test_the_rows_that_recoveries_learn_from_are_read_once(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read, training = list[int | None](), rows.training

    def counted(run: Compression, source: Source, most: int | None = None) -> rows.Rows:
        read.append(most)
        return training(run, source, most)

    monkeypatch.setattr(rows, "training", counted)
    recovered = {"prune": {"method": "Magnitude", "recovery": {"steps": 2, "batchSize": 5}}}
    space = [{"oneOf": [recovered]}, {"oneOf": [FP8], "optional": True}]
    this = job(models, "recovered", limits={"minAgreement": 0}, steps=space)

    _, report = found(this, tmp_path / "place")

    assert report.tried == 2
    assert read == [16, 10]


def test_none_within_the_limits_is_a_sentence_that_tells_the_nearest(models: Models, tmp_path: Path):
    limits = {"minSizeRatio": 50, "minAgreement": 0.95}

    with pytest.raises(Refusal) as refusal:
        found(job(models, "none", limits=limits), tmp_path)

    assert (refusal.value.class_, refusal.value.reason) == ("Verdict", "NothingWithinLimits")
    assert refusal.value.message.startswith(
        "None of 5 combinations is within search.limits; the nearest is FP8 8 bit, of which the files are "
    )
    assert "Neurons 25%: Unfit: This model has no neurons." in refusal.value.evidence


def killing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on this model's process is killed when the compressed one is there."""
    running: dict[str, ModelProcess] = {}

    def begun(model: str, *given: Any) -> ModelProcess:
        running[model] = measure.started(model, *given)
        if model == "compressed":
            os.kill(running[name].pid, signal.SIGKILL)
        return running[model]

    monkeypatch.setattr(trials, "started", begun)


def test_an_original_that_is_killed_says_nothing_of_what_is_tried(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    this = job(models, "killed", steps=[{"oneOf": [FP8]}])
    with monkeypatch.context() as patched:
        killing(patched, "original")
        with pytest.raises(Refusal, match="that measured the original model was ended by SIGKILL") as refusal:
            found(this, tmp_path / "first")

    assert refusal.value.class_ == "WorkerLost"
    assert list(home(this).glob("*.json")) == []
    assert found(this, tmp_path / "second")[0] == "FP8 8 bit"


def test_what_was_tried_twice_when_a_process_was_killed_is_not_tried_a_third_time(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    this = job(models, "twice", steps=[{"oneOf": [FP8]}])
    killing(monkeypatch, "compressed")
    for attempt in range(2):
        with pytest.raises(Refusal, match="that measured the compressed model was ended by SIGKILL"):
            found(this, tmp_path / str(attempt))

    with pytest.raises(Refusal, match="None of 1 combinations could be measured") as refusal:
        found(this, tmp_path / "third")

    assert refusal.value.evidence == ["FP8 8 bit: Killed: a process was killed 2 times while this was tried"]


def test_a_space_in_which_nothing_can_be_done_is_refused(models: Models, tmp_path: Path):
    places = [{"oneOf": [FP8]}, {"oneOf": [{"prune": {"method": "Magnitude"}}]}]

    with pytest.raises(Refusal, match=r"search\.steps holds no combination that can be done"):
        found(job(models, "order", steps=places), tmp_path)


class Posts(Progress):
    """Keeps what was posted."""

    def __init__(self) -> None:
        super().__init__()
        self.percents: list[float] = []

    def post(self, percent: float, remaining: float | None = None, **metrics: float | int) -> None:
        self.percents.append(percent)


def test_a_run_only_comes_further_whatever_it_does(models: Models):
    uri, _ = models.of()
    recovered = {"prune": {"method": "Magnitude", "recovery": {"steps": 2}}}
    for this in (job(models, "further"), run(uri, steps=[recovered, {"quantize": {"method": "FP8"}}])):
        posts = Posts()

        compress(this, posts)

        assert posts.percents == sorted(posts.percents)
        assert (posts.percents[0], posts.percents[-1]) == (0, 100)
        assert len(posts.percents) > 6


def test_the_winner_is_measured_on_the_test_rows_and_published_with_the_table(
    models: Models, monkeypatch: pytest.MonkeyPatch
):
    made: list[str] = []

    def counted(run: Compression, source: Source, steps: Any, *given: Any) -> Compressed:
        made.append(space_words(steps))
        return applied(run, source, steps, *given)

    monkeypatch.setattr(trials, "applied", counted)
    result = compress(job(models, "winner"), SILENT)

    assert made.count("FP8 8 bit") == 1  # what the search has made is what is published

    assert result.model
    assert result.report
    assert (result.report.method, result.report.split) == ("FP8 8 bit", "test")
    assert 1.6 < result.report.size_ratio < 2
    assert result.search
    page = (path(result.model.uri) / "report.html").read_text()
    assert "5 of 5 combinations were tried" in page
    assert "All 5 points" in page
