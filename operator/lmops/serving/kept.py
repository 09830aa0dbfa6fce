"""Children that are kept as they are written here, whatever others add to them or take away."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lmops.api.base import GROUP
from lmops.plan import Manifest

WRITTEN = f"{GROUP}/written"
"""The annotation with the hash of all that was written: what is no longer wanted shows in nothing else."""


def stamped(manifest: Manifest) -> Manifest:
    """A manifest with the hash of itself."""
    annotations = {**manifest["metadata"].get("annotations", {}), WRITTEN: fingerprint(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def fingerprint(value: Any) -> str:
    """What tells one value from another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def is_kept(wanted: Manifest, found: Manifest) -> bool:
    """Whether an object has all that we write, and was written with nothing else. Others may add what they like."""
    parts = [part for part in ("metadata", "spec", "data") if part in wanted]
    return all(_holds(wanted[part], found.get(part, {})) for part in parts)


def writing(wanted: Manifest, child: Manifest | None) -> tuple[Manifest, ...]:
    """What is to be written, if anything; what is being deleted is written anew once it is gone.

    It is written onto the very object that was seen: one that has gone since is not made anew by mistake.
    """
    if child is None:
        return (wanted,)
    if "deletionTimestamp" in child["metadata"] or is_kept(wanted, child):
        return ()
    return ({**wanted, "metadata": {**wanted["metadata"], "uid": child["metadata"]["uid"]}},)


def _holds(wanted: Any, found: Any) -> bool:
    """Whether one value is in another: of a mapping each field, of a list each item at its place."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and _holds(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_holds, wanted, found))
    return bool(wanted == found)
