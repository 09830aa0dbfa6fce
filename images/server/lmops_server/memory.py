"""How much memory this process may have: that of its container, which the kernel holds it to, or of the machine."""

from __future__ import annotations

import os
from pathlib import Path

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups of version 2, and of 1."""


def limit() -> int:
    """Bytes. A container may be told of more than the machine has."""
    return min((machine(), *(found for file in LIMITS if (found := _read(file)) is not None)))


def machine() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
