"""The memory that a server may have is that of its container: the alert counts by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmops_server import memory


@pytest.mark.parametrize(
    ("second", "first", "found"),
    [
        ("1048576\n", None, 1_048_576),
        (None, "2097152\n", 2_097_152),
        ("max\n", None, None),
        (None, f"{2**63 - 4096}\n", None),  # as version 1 says that there is none
        (None, None, None),
    ],
    ids=["version 2", "version 1", "no limit in version 2", "no limit in version 1", "no container"],
)
def test_it_is_that_of_the_container_or_else_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second: str | None, first: str | None, found: int | None
):
    files = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    for file, text in zip(files, (second, first), strict=True):
        if text is not None:
            file.write_text(text)
    monkeypatch.setattr(memory, "LIMITS", files)

    assert memory.limit() == (found or memory.machine())


def test_that_of_the_machine_is_what_its_kernel_says():
    words = Path("/proc/meminfo").read_text().split()

    assert memory.machine() == int(words[words.index("MemTotal:") + 1]) * 1024
