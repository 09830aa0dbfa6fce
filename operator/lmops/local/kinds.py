"""The kinds that the laptop runs: a row each."""

from __future__ import annotations

from typing import NamedTuple

from lmops import kinds
from lmops.api import crd
from lmops.kinds import Reconcile
from lmops.local.story import TRAINING, Story


class Kind(NamedTuple):
    """What the engine knows of a kind: its form, its reconcile, and how its status is told."""

    crd: crd.Kind
    reconcile: Reconcile
    story: Story


STORIES: dict[str, Story] = {"TrainingJob": TRAINING}
KINDS = {name: Kind(kind.form, kind.reconcile, STORIES[name]) for name, kind in kinds.KINDS.items()}
