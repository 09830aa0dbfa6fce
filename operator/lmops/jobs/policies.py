"""What is refused of a resource of any kind before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from lmops.api import Failure
from lmops.api.run import LIMIT
from lmops.jobs.failure import failure
from lmops.plan import Observed

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


def volumes_are_shared(who: str, claims: Sequence[str], observed: Observed, otherwise: str) -> Failure | None:
    """Pods that run at once need volumes that can be mounted by all of them. Claims that are not there yet may come."""
    alone = [claim for claim in claims if claim in observed.modes and not _is_shared(observed, claim)]
    if not alone:
        return None
    return failure(
        "Volume",
        "VolumeNotShared",
        f"{who} mount {' and '.join(alone)}, which is not ReadWriteMany.",
        remedy=f"Use a claim with access mode ReadWriteMany, or {otherwise}.",
    )


def _is_shared(observed: Observed, claim: str) -> bool:
    return not {"ReadWriteMany", "ReadOnlyMany"}.isdisjoint(observed.modes[claim])
