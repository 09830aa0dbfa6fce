"""What is refused of a job of any kind before anything starts."""

from __future__ import annotations

from lmops.api import Failure
from lmops.api.run import LIMIT
from lmops.jobs.failure import failure

REPORT = 8 * 1024
"""Bytes of a document that are kept free for what earlier stages will have made."""


def fits(document: str, remedy: str = "Name folders or globs instead of single files.") -> Failure | None:
    """A runtime gets its document as one argument of its process."""
    size = len(document.encode()) + REPORT
    if size <= LIMIT:
        return None
    return failure(
        "Settings",
        "SpecTooLarge",
        f"The spec is {size // 1024} KiB long, and a process can be told {LIMIT // 1024} KiB.",
        remedy=remedy,
    )
