"""Our server with a model that does nothing, so that what is left is what its routes cost. `idle.py DOCUMENT`"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from lmops.api import Serving
from lmops_compressor.runners import Array
from lmops_server import encoders
from lmops_server.batcher import Room
from lmops_server.encoders import Example
from lmops_server.opened import Opened
from lmops_server.serve import serve


class Idle:
    """Answers at once, and always the same."""

    room, workers, embeds, placed = Room(rows=64, tokens=65_536), 1, False, None

    def __init__(self, opened: Opened, threads: int) -> None:
        self._scores = np.zeros(len(opened.labels), np.float32)

    def __call__(self, examples: Sequence[Example]) -> list[Array]:
        return [self._scores] * len(examples)


if __name__ == "__main__":
    encoders.encoder = Idle
    sys.exit(serve(Serving.model_validate_json(sys.argv[1])))
