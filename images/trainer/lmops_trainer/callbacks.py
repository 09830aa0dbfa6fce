"""When a training run logs, evaluates, saves and stops, and what it tells of itself while it does."""

from __future__ import annotations

import json
import math
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmops.api.trainingjob import EarlyStopping, Every
from lmops_trainer.endings import Stop, replace
from lmops_trainer.log import log
from lmops_trainer.progress import Progress
from lmops_trainer.ranks import Processes
from lmops_trainer.scores import is_better

POSTED = {
    "loss", "learning_rate", "grad_norm", "tokens_per_second", "rows_per_second", "memory_bytes",
    "accelerator_memory_bytes", "accelerator_use", "checkpoint_step",
}  # fmt: skip
"""The values that the progress endpoint knows, besides those of evaluations."""
POINTS = 100
"""How many points a curve over the whole run has, at least."""


class Signals:
    """Termination signals: outside the training loop they end the process, inside it they are noted and agreed upon."""

    def __init__(self) -> None:
        self.number = 0
        self.noted = False

    def install(self) -> None:
        """Takes SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if not self.noted:
            raise Stop(signal.Signals(number).name)


class Rhythm:
    """Tells when the next evaluation or checkpoint is due: by steps, epochs or minutes, whichever comes first."""

    def __init__(self, every: Every, updates: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.every = every
        self.updates = updates
        self.clock = clock
        self.since = clock()

    def is_due(self, step: int) -> bool:
        """Whether this step is one of the grid; all processes agree on that without asking."""
        steps = self.every.steps is not None and step % self.every.steps == 0
        return steps or (self.every.epochs is not None and self._period(step) > self._period(step - 1))

    def is_late(self) -> bool:
        """Whether the minutes have gone by, on this process's clock."""
        return self.every.minutes is not None and self.clock() - self.since >= 60 * self.every.minutes

    def done(self) -> None:
        """It took place: the minutes count anew."""
        self.since = self.clock()

    def _period(self, step: int) -> int:
        return math.floor(step / (self.updates * float(self.every.epochs or 1)) + 1e-9)


class Patience:
    """Counts evaluations that brought nothing better."""

    def __init__(self, metric: str, stopping: EarlyStopping | None) -> None:
        self.metric = metric
        self.stopping = stopping
        self.best: float | None = None
        self.misses = 0

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        return self.stopping is not None and self.misses >= self.stopping.patience

    def see(self, value: float) -> None:
        """Takes in an evaluation."""
        delta = self.stopping.min_delta if self.stopping else 0.0
        if self.best is None or (
            is_better(self.metric, value - delta, self.best) and is_better(self.metric, value + delta, self.best)
        ):
            self.best, self.misses = value, 0
        else:
            self.misses += 1


@dataclass
class Schedule(TrainerCallback):
    """Decides after each optimiser step, the same on every process, what happens now."""

    processes: Processes
    signals: Signals
    evaluation: Rhythm
    checkpoint: Rhythm
    diverged: Callable[[], bool]
    refuse: Callable[[], None]
    steps: int
    stopped: int = 0
    """The signal that all processes have agreed to stop for."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> TrainerControl:
        """One exchange between the processes; the clock of the first one decides for all."""
        first, step = self.processes.is_first, state.global_step
        late = first and self.evaluation.is_late(), first and self.checkpoint.is_late()
        agreed = self.processes.largest([self.diverged(), self.signals.number, *late])
        diverged, stopped, evaluation_is_late, checkpoint_is_late = agreed
        if diverged:
            self.refuse()
        self.stopped = int(stopped)
        is_last = step >= self.steps
        control.should_log = step == 1 or is_last or bool(stopped) or step % max(1, self.steps // POINTS) == 0
        control.should_evaluate = is_last or self.evaluation.is_due(step) or bool(evaluation_is_late)
        due = self.checkpoint.is_due(step) or bool(checkpoint_is_late)
        control.should_save = bool(stopped) or (due and not is_last)
        control.should_training_stop = bool(stopped) or is_last
        return control

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """The minutes until the next one count from here."""
        self.evaluation.done()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """The minutes until the next one count from here."""
        self.checkpoint.done()


class Reporter(TrainerCallback):
    """Tells what goes on: in log, metrics.jsonl, progress endpoint and TensorBoard. The first process only."""

    def __init__(self, job: Path, progress: Progress, steps: int, tensorboard: bool) -> None:
        job.mkdir(parents=True, exist_ok=True)
        self.job = job
        self.progress = progress
        self.steps = steps
        self.process = psutil.Process()
        self.process.cpu_percent()
        self.started = time.monotonic()
        self.first_step: int | None = None
        self.posted = 0.0
        self.checkpoint: int | None = None
        self.board = _board(job / "tensorboard") if tensorboard else None

    def resume(self, step: int | None) -> None:
        """Takes back the points that a lost run has logged beyond its checkpoint: they will come again."""
        self.checkpoint = step
        file = self.job / "metrics.jsonl"
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if _step_of(line) <= (step or 0)]
            replace(file, "".join(f"{line}\n" for line in lines))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Time counts from the first step: loading a model says nothing of the speed."""
        if self.first_step is None:
            self.first_step, self.started = state.global_step, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Posts where the run stands, without a look at the loss."""
        self.tick(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """One point of the training curves."""
        logs: dict[str, float] = rest["logs"]
        figures = {name: value for name, value in (logs | self._machine()).items() if math.isfinite(value)}
        self._point(state.global_step, figures)
        speed = f"{figures['rows_per_second']:.0f} rows/s" if "rows_per_second" in figures else ""
        loss, rate = f"{logs['loss']:.4g}", f"{logs['learning_rate']:.2g}"
        log.info("step %d/%d loss %s lr %s %s", state.global_step, self.steps, loss, rate, speed)
        self._post(state, **figures)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """One point of the evaluation curves."""
        metrics: dict[str, float] = rest["metrics"]
        self._point(state.global_step, metrics | {"epoch": round(state.epoch or 0, 4)})
        said = " ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in metrics.items())
        log.info("step %d/%d evaluation %s", state.global_step, self.steps, said)
        self._post(state, **metrics)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """A checkpoint is complete."""
        self.checkpoint = state.global_step
        log.info("step %d/%d checkpoint saved", state.global_step, self.steps)
        self._post(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """The curves are whole."""
        if self.board is not None:
            self.board.close()

    def tick(self, state: TrainerState) -> None:
        """Posts where the run stands, if the last post is two seconds old."""
        if time.monotonic() - self.posted >= 2:
            self._post(state)

    def _post(self, state: TrainerState, **figures: float) -> None:
        self.posted = time.monotonic()
        step = state.global_step
        done = step - (self.first_step or 0)
        each = (self.posted - self.started) / done if done else math.nan
        if self.checkpoint is not None:
            figures["checkpoint_step"] = self.checkpoint
        named = {name: value for name, value in figures.items() if name in POSTED or name.startswith("eval_")}
        where = {"current_step": step, "total_steps": self.steps, "current_epoch": round(state.epoch or 0.0, 4)}
        self.progress.post(100 * step / self.steps, each * (self.steps - step), **where, **named)

    def _point(self, step: int, figures: dict[str, float]) -> None:
        """The disk may be full, and then the next checkpoint will say so; a point is no reason to end a run."""
        try:
            with (self.job / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 1)} | figures) + "\n")
        except OSError as error:
            log.warning("step %d is missing in metrics.jsonl: %s", step, error)
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def _machine(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {"memory_bytes": max(peak, self.process.memory_info().rss), "cpu_percent": self.process.cpu_percent()}
        if torch.cuda.is_available():
            figures["accelerator_memory_bytes"] = torch.cuda.max_memory_reserved()
            figures |= _accelerator_use()
        return figures


def _accelerator_use() -> dict[str, float]:
    try:
        return {"accelerator_use": torch.cuda.utilization() / 100}
    except Exception:  # without NVML, or on a partition of a card, there is no such figure
        return {}


def _board(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # a line cut short
