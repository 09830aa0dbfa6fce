"""Runs a stage to its ending: alone, or as ranks, of which an exit code by itself says little."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from lmops.api import Ending, Result, Run
from lmops.api.run import Stopped
from lmops.api.status import Failure, Stage
from lmops_trainer.checkpoints import latest
from lmops_trainer.endings import AnyRun, Ranks, Stop, job_folder, keep, refuse_twice, tail, write
from lmops_trainer.failures import failure, failure_of
from lmops_trainer.log import log, open_log, own_log
from lmops_trainer.progress import Progress
from lmops_trainer.torchrun import started

R = TypeVar("R", bound=AnyRun)


def alone(stage: Stage, run: R, work: Callable[[R, Progress], Result], logged: str = "train.log") -> int:
    """Runs a stage that is one process in this one."""
    progress = Progress.from_environment()
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _raise_stop)
        open_log(stage, job_folder(run) / logged)
        ending = Ending(stage=stage, attempt=run.run.attempt, result=work(run, progress))
        _ignore_signals()
        keep(ending, run)
    except BaseException as error:
        _ignore_signals()
        ending = ended(error, stage, run)
    write(ending)  # first: the last post may take seconds
    progress.close()
    return 1 if ending.failure else 0


def rank(run: Run) -> int:
    """Runs one rank of `train`, and leaves how it ended for the launcher."""
    _die_with_launcher()
    refuse_twice()
    try:
        open_log("train", job_folder(run) / "train.log")
        from lmops_trainer.train import train

        ending = Ending(stage="train", attempt=run.run.attempt, result=train(run))
        if os.environ.get("RANK", "0") == "0":
            keep(ending, run)
    except BaseException as error:
        _ignore_signals()
        ending = ended(error, "train", run)
    Ranks().record(ending)
    if ending.failure:
        _tell_torchrun(ending.failure)
    return 1 if ending.failure else 0


def together(run: Run, document: str) -> int:
    """Starts the ranks of this node, and sums up their ends."""
    kills = oom_kills()
    signalled: str | None = None
    failures: Mapping[int, Any] = {}
    crash: BaseException | None = None
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _raise_stop)
        Ranks().clear()
        open_log("train", job_folder(run) / "train.log")
        failures = started(document)
    except BaseException as error:
        if (caught := getattr(error, "sigval", None)) is not None:  # torchrun's SignalException
            signalled = signal.Signals(caught).name
        elif isinstance(error, Stop):
            signalled = error.signal
        else:
            crash = error
    _ignore_signals()
    ranks = Ranks()
    ending = summed_up(run, ranks.endings(), ranks.permanent(), signalled, failures, crash, oom_kills() > kills)
    if ending.failure and ending.failure not in [one.failure for one in ranks.endings()]:
        log.error("%s: %s %s", ending.failure.reason, ending.failure.message, ending.failure.remedy)
    write(ending)
    return 1 if ending.failure else 0


def summed_up(
    run: Run,
    ranks: list[Ending],
    permanent: Failure | None,
    signalled: str | None,
    failures: Mapping[int, Any],
    crash: BaseException | None,
    oom: bool,
) -> Ending:
    """One ending from those of the ranks: a result, an orderly stop, or the failure that came first in cause."""
    head: dict[str, Any] = {"stage": "train", "attempt": run.run.attempt, "checkpoint": last_step(run)}
    if result := next((ending.result for ending in ranks if ending.result), None):
        return Ending(**head, result=result)
    stopped = next((ending.stopped for ending in ranks if ending.stopped), None)
    if permanent is None and (stopped or signalled):
        return Ending(**head, stopped=stopped or Stopped(signal=str(signalled)))
    failed = permanent or _first_cause([ending.failure for ending in ranks if ending.failure], failures, crash, oom)
    if not failed.evidence:
        failed = failed.model_copy(update={"evidence": tail(own_log("train", min(failures, default=0)))})
    return Ending(**head, failure=failed)


def ended(error: BaseException, stage: Stage, run: AnyRun) -> Ending:
    """The ending of a stage that raised."""
    checkpoint = last_step(run) if stage == "train" else None
    if isinstance(error, Stop):
        log.info("stopped by %s%s", error.signal, "" if error.step is None else f" at step {error.step}")
        stopped = Stopped(signal=error.signal, step=error.step)
        return Ending(stage=stage, attempt=run.run.attempt, stopped=stopped, checkpoint=checkpoint)
    failed = failure_of(error)
    log.error("%s: %s %s", failed.reason, failed.message, failed.remedy)
    if failed.class_ == "Code":
        log.error("\n".join(failed.evidence))
    return Ending(stage=stage, attempt=run.run.attempt, failure=failed, checkpoint=checkpoint)


def last_step(run: AnyRun) -> int | None:
    """The step of the last complete checkpoint of any attempt."""
    try:
        found = latest(job_folder(run) / "checkpoints")
    except OSError:
        return None
    return found.step if found else None


def oom_kills() -> int:
    """How often the memory limit of this container has killed a process."""
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        if file.exists():
            words = file.read_text().split()
            return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
    return 0


def _raise_stop(number: int, frame: FrameType | None) -> None:
    raise Stop(signal.Signals(number).name)


def _ignore_signals() -> None:
    """What is left takes no time, and the ending must be written."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _lost(number: int, child: Any, oom: bool) -> Failure | None:
    """The failure of a rank that a signal ended, which could tell nothing itself."""
    if child.exitcode >= 0 or -child.exitcode in (signal.SIGTERM, signal.SIGINT):
        return None
    name = signal.Signals(-child.exitcode).name
    if oom and name == "SIGKILL":
        return failure(
            "OutOfMemory", "RankOutOfMemory", f"Rank {number} was killed because the memory limit was reached.",
            "Raise resources.perNode.memory, or lower training.microBatchSize or dataset.maxLength.",
            tail(own_log("train", number)),
        )  # fmt: skip
    return failure(
        "WorkerLost", "RankKilled" if name == "SIGKILL" else "RankCrashed", f"Rank {number} was ended by {name}.",
        "Look for what killed it: the memory limit, the node, or a person; training goes on from the last checkpoint.",
        tail(own_log("train", number)),
    )  # fmt: skip


def _first_cause(
    reported: list[Failure], failures: Mapping[int, Any], crash: BaseException | None, oom: bool
) -> Failure:
    """A killed rank before what others said of it, and lost contact last: it is mostly what the others saw."""
    lost = [failed for number, child in sorted(failures.items()) if (failed := _lost(number, child, oom))]
    causes = [failed for failed in reported if failed.class_ != "Communication"]
    return next(iter([*lost, *causes, *reported]), None) or _unexplained(failures, crash)


def _unexplained(failures: Mapping[int, Any], crash: BaseException | None) -> Failure:
    if crash is not None:
        return failure_of(crash)
    ends = ", ".join(f"rank {number} with exit code {child.exitcode}" for number, child in sorted(failures.items()))
    return failure("Code", "NoEnding", f"The ranks ended without a word: {ends or 'all of them with exit code 0'}.")


def _tell_torchrun(failed: Failure) -> None:
    """Gives torchrun's own report the sentence, in the form it reads."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"py_callstack": "\n".join(failed.evidence), "timestamp": str(int(time.time()))}
        message = {"message": f"{failed.class_} {failed.reason}: {failed.message}", "extraInfo": told}
        Path(file).write_text(json.dumps({"message": message}))


def _die_with_launcher() -> None:
    """torchrun gives ranks a session of their own: without this they outlive a launcher that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
