"""The kinds that the laptop runs: a row each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from lmops.api import crd
from lmops.local.story import TRAINING, Story
from lmops.plan import Observed, Plan
from lmops.settings import Settings
from lmops.training.reconcile import reconcile as training

Reconcile = Callable[[Any, Observed, datetime, Settings], Plan[Any]]


class Kind(NamedTuple):
    """What the engine knows of a kind: its form, its reconcile, and how its status is told."""

    crd: crd.Kind
    reconcile: Reconcile
    story: Story


_FORMS = {kind.model.__name__: kind for kind in crd.KINDS}

KINDS: dict[str, Kind] = {
    "TrainingJob": Kind(_FORMS["TrainingJob"], training, TRAINING),
}
