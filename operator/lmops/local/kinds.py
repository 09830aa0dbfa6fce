"""The kinds that the laptop runs: a row each."""

from __future__ import annotations

from typing import NamedTuple

from lmops import kinds
from lmops.api import crd
from lmops.local.stories import Story
from lmops.local.stories.quantization import QUANTIZATION
from lmops.local.stories.serving import SERVING
from lmops.local.stories.training import TRAINING


class Kind(NamedTuple):
    """What the engine knows of a kind: its form, its work, and how its status is told."""

    crd: crd.Kind
    row: kinds.Kind
    story: Story


STORIES: dict[str, Story] = {"TrainingJob": TRAINING, "QuantizeJob": QUANTIZATION, "LanguageModelService": SERVING}
KINDS = {name: Kind(kind.form, kind, STORIES[name]) for name, kind in kinds.KINDS.items()}
