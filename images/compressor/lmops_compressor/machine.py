"""The processor that models are measured on, and those of its instruction sets that decide how fast int8 is."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""By the names that Linux has for them: products of bytes take fewest instructions with VNNI, AMX, and Arm's dotprod
and i8mm."""


def processor(cpuinfo: Path = CPUINFO) -> str:
    """`AMD EPYC 9R14 (avx2, avx512f, avx512_vnni)`; where there is no such file, what Python knows of it."""
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    sets = ", ".join(name for name in SETS if name in flags)
    return (facts.get("model name") or platform.machine()) + (f" ({sets})" if sets else "")
