"""The trials of a search: each combination measured on so many rows beside the original, and kept once it is done."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from lmops.api import Compression
from lmops.api.compression import Step
from lmops_compressor import rows, runners, space
from lmops_compressor.bootstrap import gain
from lmops_compressor.comparison import Answers, Scored, agreements, metric_of
from lmops_compressor.measure import device_of, latency, nothing_to_tell, ratio, settings, started
from lmops_compressor.methods import Tell
from lmops_compressor.process import ModelProcess, Unmeasured
from lmops_compressor.source import Source
from lmops_compressor.space import Point
from lmops_compressor.steps import Compressed, applied
from lmops_trainer.endings import job_folder, replace
from lmops_trainer.failures import failure_of
from lmops_trainer.log import log

QUICK = 9
"""Timed calls of each model."""
TRIES = 2
"""How often a process may be killed while a trial is tried."""
FATAL = ("Disk", "Volume", "WorkerLost")
"""Failures that say nothing of a combination: the next one would meet them too, or another try would not."""


@dataclass(frozen=True)
class Side:
    """The original, on so many rows, as every combination is compared with it."""

    told: Scored
    process: ModelProcess
    memory: int
    said: Answers
    value: float


class Trials:
    """Measures combinations on the rows that calibrate, each in a process of its own beside the original's."""

    def __init__(self, run: Compression, source: Source, folder: Path) -> None:
        search = run.spec.search
        assert search
        self.run, self.source, self.folder = run, source, folder
        self.rows = rows.calibration(run, source)
        self._learn = cache(partial(rows.training, run, source))
        self.points: list[Point] = []
        """All that was measured: an entry for each combination and number of rows."""
        self.metric = metric_of(run, source)
        """What quality is."""
        self._setting = settings(run, source)[0]
        self._device = device_of(step for place in search.steps for step in place.one_of)
        self._deadline = time.monotonic() + 60 * search.minutes if search.minutes else math.inf
        self._side: Side | None = None
        self._made: dict[str, Compressed] = {}

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def is_over(self) -> bool:
        """Whether no time is left to begin another; one always is begun."""
        return bool(self.points) and time.monotonic() > self._deadline

    def point(self, steps: tuple[Step, ...], count: int) -> Point:
        """What an earlier attempt has measured, else what is measured now, and then kept."""
        file = home(self.run) / f"{space.key(steps, count)}.json"
        found = _kept(file, steps) or _ended(file, steps, count)
        if found is None:
            with _begun(file):
                found = self._measured(steps, count)
            replace(file, json.dumps({**vars(found), "steps": [step.manifest() for step in steps]}))
        self.points.append(found)
        log.info("search: %s on %d rows: %s", found.method, count, found.failure or _spelled(found))
        return found

    def made(self, steps: tuple[Step, ...], tell: Tell = lambda _: None) -> Compressed:
        """The model of a combination; made anew where it was out, or measured by an earlier attempt."""
        key = space.key(steps)
        if key not in self._made:
            unfinished, target = self.folder / "unfinished", self.folder / key
            found = applied(self.run, self.source, steps, lambda: self.rows, unfinished, tell, self._learn)
            notes = tuple(filter(None, dict.fromkeys((*found.notes, self.rows.note))))  # they have chosen, all the same
            self._made[key] = dataclasses.replace(found, folder=unfinished.rename(target), notes=notes)
        return self._made[key]

    def forget(self, steps: tuple[Step, ...]) -> None:
        """Frees the disk of a combination that is out."""
        if found := self._made.pop(space.key(steps), None):
            shutil.rmtree(found.folder)

    def _measured(self, steps: tuple[Step, ...], count: int) -> Point:
        side = self._original(count)  # what fails here fails for all of them
        try:
            return self._compared(steps, side)
        except Exception as error:
            failed, is_ours = failure_of(error), isinstance(error, Unmeasured) and error.model == "original"
            if is_ours:
                self._close()
            if is_ours or failed.class_ in FATAL:
                raise
            self.forget(steps)
            if failed.evidence:
                log.info("search: %s", "\n".join(failed.evidence))
            return Point(steps, count, failure=f"{failed.reason}: {failed.message}"[:500])

    def _compared(self, steps: tuple[Step, ...], side: Side) -> Point:
        made = self.made(steps).folder
        with started("compressed", made, self.run, self.source, side.told, self._setting, self._device) as process:
            before, after = latency([side.process, process], self._setting, QUICK)
            memory = process.ask("memory")["bytes"]
            said = side.told.by(process)
        value = said.figures(self.source.task, self.source.labels)[self.metric]
        return Point(
            steps,
            len(side.told.rows),
            size_ratio=round(runners.weights(self.source.folder) / runners.weights(made), 4),
            latency_ratio=ratio(after.p50_milliseconds, before.p50_milliseconds),
            memory_ratio=ratio(memory, side.memory),
            quality=round(float(gain(self.metric, np.asarray(side.value), np.asarray(value))), 6) + 0.0,
            agreement=round(float(agreements(side.said, said).sum() / side.said.targets.sum()), 6),
        )

    def _original(self, count: int) -> Side:
        """Loaded once a round. Its memory is told before it scores: scores take room of their own."""
        chosen = self.rows.first(count)
        if self._side and len(self._side.told.rows) == len(chosen):
            return self._side
        self._close()
        told = Scored.written(chosen, self.folder / f"rows-{count}-{time.monotonic_ns()}")
        process = started("original", self.source.folder, self.run, self.source, told, self._setting, self._device)
        try:
            process.ask("time", batch_size=self._setting[0], length=self._setting[1], calls=QUICK)
            memory, said = process.ask("memory")["bytes"], told.by(process)
            if not said.targets.sum():
                raise nothing_to_tell(told)
            value = said.figures(self.source.task, self.source.labels)[self.metric]
        except BaseException:
            process.close()
            raise
        self._side = Side(told, process, memory, said, value)
        return self._side

    def _close(self) -> None:
        if self._side:
            self._side.process.close()
        self._side = None


def home(run: Compression) -> Path:
    """Where the trials of a job are kept, a file each."""
    folder = job_folder(run) / "search"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _begun(file: Path) -> Iterator[None]:
    """Counts how often a trial was begun and a process killed then, this one or a model's: it might be so for ever."""
    marker = file.with_suffix(".begun")
    replace(marker, str(_tries(file) + 1))
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Unmeasured) or error.class_ != "WorkerLost":
            marker.unlink(missing_ok=True)  # it was the end of it, if no good one
        raise
    marker.unlink(missing_ok=True)


def _tries(file: Path) -> int:
    marker = file.with_suffix(".begun")
    return int(marker.read_text()) if marker.is_file() else 0


def _ended(file: Path, steps: tuple[Step, ...], count: int) -> Point | None:
    if _tries(file) < TRIES:
        return None
    return Point(steps, count, failure=f"Killed: a process was killed {TRIES} times while this was tried")


def _kept(file: Path, steps: tuple[Step, ...]) -> Point | None:
    if not file.is_file():
        return None
    return Point(**{**json.loads(file.read_text()), "steps": steps})


def _spelled(point: Point) -> str:
    parts = [
        f"{name} {value:.4g}"
        for name, value in (
            ("size ratio", point.size_ratio),
            ("latency ratio", point.latency_ratio),
            ("memory ratio", point.memory_ratio),
            ("quality", point.quality),
        )
        if value is not None
    ]
    return ", ".join(parts)
