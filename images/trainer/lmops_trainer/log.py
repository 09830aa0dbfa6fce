"""The log of a run: one line format, on standard error and, from the first rank, in `train.log` of the job."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from lmops_trainer.endings import scratch

log = logging.getLogger("lmops")
LIBRARIES = ("transformers", "datasets", "accelerate", "py.warnings")
TALK = "torch.utils._pytree"
"""torch's logger of what torchao, where that is installed, should do otherwise: nobody who trains can."""


def open_log(stage: str, file: Path | None = None) -> None:
    """Sends our lines, and the warnings of libraries, to standard error, to scratch and, when given, to `file`."""
    rank = int(os.environ.get("RANK", "0"))
    who = stage if rank == 0 else f"{stage} rank {rank}:"
    line = logging.Formatter(f"%(asctime)s {who} %(message)s", "%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr), logging.FileHandler(_own(stage, rank), "a")]
    if file and rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, "a"))
    for handler in handlers:
        handler.setFormatter(line)
    logging.captureWarnings(True)
    logging.getLogger(TALK).setLevel(logging.ERROR)
    _take("lmops", handlers, logging.INFO)
    for name in LIBRARIES:
        _take(name, handlers, logging.WARNING if rank == 0 else logging.ERROR)


def own_log(stage: str, rank: int) -> Path:
    """The lines of one rank on scratch: the evidence when it is killed."""
    return _own(stage, rank)


def quiet_libraries() -> None:
    """Takes progress bars and handlers of their own off the libraries, once they are imported."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in LIBRARIES:
        logging.getLogger(name).handlers = list(log.handlers)


def _take(name: str, handlers: list[logging.Handler], level: int) -> None:
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = list(handlers), False
    logger.setLevel(level)


def _own(stage: str, rank: int) -> Path:
    folder = scratch() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stage}-{rank}.log"
