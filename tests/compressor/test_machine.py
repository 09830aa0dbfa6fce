"""A processor is told by its name and by what makes int8 fast on it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from lmops_compressor.machine import processor

INTEL = """\
processor	: 0
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags		: fpu sse4_2 avx2 avx512f avx512_vnni avx_vnni amx_bf16 amx_tile amx_int8
bogomips	: 5399.99

processor	: 1
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags		: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp sve i8mm\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (
            INTEL,
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (avx2, avx512f, avx_vnni, avx512_vnni, amx_int8)",
        ),
        (ARM, f"{platform.machine()} (asimddp, i8mm, sve)"),
        ("model name\t: Old\nflags\t\t: sse2 avx\n", "Old"),
        (None, platform.machine()),
    ],
)
def test_a_processor_is_told_by_its_name_and_its_instruction_sets(tmp_path: Path, cpuinfo: str | None, said: str):
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)

    assert processor(file) == said
