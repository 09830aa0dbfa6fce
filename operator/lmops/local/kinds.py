"""The kinds that the laptop runs: a row each."""

from __future__ import annotations

from typing import NamedTuple

from lmops import kinds
from lmops.api import crd
from lmops.local.stories import AnyStory
from lmops.local.stories.quantization import QUANTIZATION
from lmops.local.stories.training import TRAINING


class Kind(NamedTuple):
    """What the engine knows of a kind: its form, its work, and how its status is told."""

    crd: crd.Kind
    row: kinds.Kind
    story: AnyStory


STORIES: dict[str, AnyStory] = {"TrainingJob": TRAINING, "QuantizeJob": QUANTIZATION}
KINDS = {name: Kind(kind.form, kind, STORIES[name]) for name, kind in kinds.KINDS.items()}
