"""Scores the validation rows: each row once, by one of the processes, and stopped when the run is asked to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lmops_trainer.callbacks import Signals
from lmops_trainer.failures import Refusal
from lmops_trainer.order import Examples, shares
from lmops_trainer.ranks import Processes
from lmops_trainer.tasks import Tally

ASKED = 16
"""Batches after which the processes agree on whether to go on."""


def tally(
    examples: Examples,
    batch: int,
    scored: Callable[[list[dict[str, Any]]], Tally],
    processes: Processes,
    signals: Signals,
    meanwhile: Callable[[], None],
) -> Tally | None:
    """What all processes have counted together, the same on each of them; nothing if any of them was asked to stop."""
    shared = list(shares(examples.lengths, batch, processes.rank, processes.count))
    counted = Tally()
    for turn in range(math.ceil(len(examples) / (batch * processes.count))):
        if turn % ASKED == 0 and (number := int(processes.largest([signals.number])[0])):
            signals.number = number
            return None
        if turn < len(shared):
            counted.add(scored(examples.__getitems__(shared[turn])))
        meanwhile()
    whole = Tally()
    for part in processes.gathered(counted):
        whole.add(part)
    return whole


def nothing_to_tell() -> Refusal:
    """The validation rows are too few or too short to score anything."""
    return Refusal(
        "Data",
        "NothingToScore",
        "The validation rows hold nothing that the model could tell: they are too few or too short.",
        "Hold out a larger fraction in dataset.validation.",
    )
