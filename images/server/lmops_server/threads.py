"""How many processors this process may really use: libraries count those of the whole machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")


def threads() -> int:
    """As OMP_NUM_THREADS says, else the processors that are allowed, within the limit of the container."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return max(1, min(_allowed(), _limit()))


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit() -> int:
    """Half a processor counts as one."""
    try:
        quota, period = LIMIT.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or `max`
        return _allowed()
