"""Work that outlives its terminal: a supervisor in a session of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

from lmops.local.home import Folder


def detach(folders: Iterable[Folder]) -> None:
    """Leaves a supervisor behind that outlives the terminal; what it says goes to `engine.log`."""
    for folder in folders:
        if folder.alive:
            continue
        folder.path.mkdir(parents=True, exist_ok=True)
        name = f"{folder.namespace}/{folder.kind}/{folder.name}"
        with folder.engine_log.open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "lmops", "local", "supervise", name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
