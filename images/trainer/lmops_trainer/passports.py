"""The passport that lies beside a model: read, and held against the files that it speaks of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmops.api.dataset import Dataset, TrainRows
from lmops.api.trainingjob import RecipeSpec
from lmops_trainer.failures import Refusal
from lmops_trainer.publish import PASSPORT, fingerprint


def passport(folder: Path, uri: str) -> dict[str, Any]:
    """What it says; `{}` for a model that is not of our making."""
    file = folder / PASSPORT
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise Refusal(
            "Model", "PassportUnreadable", f"{PASSPORT} of {uri} is not JSON: {error}.", "Copy the model again."
        ) from error
    if not isinstance(found, dict):
        raise Refusal("Model", "PassportUnreadable", f"{PASSPORT} of {uri} is no passport.", "Copy the model again.")
    return found


def recipe(passport: dict[str, Any]) -> RecipeSpec | None:
    """How the model was trained, where that was a job of ours."""
    return RecipeSpec.model_validate(passport["spec"]) if "spec" in passport else None


def dataset(passport: dict[str, Any]) -> Dataset:
    """How rows are brought into the form that the model was trained on; as they are by default where nobody says."""
    known = recipe(passport)
    return known.dataset if known else Dataset(train=TrainRows(uri="pvc://unknown"))


def verified(folder: Path, uri: str, passport: dict[str, Any], pinned: str | None = None) -> str | None:
    """The digest of what lies there, where anything says what it should be; it reads every file once."""
    expected = pinned or passport.get("digest")
    if expected is None:
        return None
    found = fingerprint(folder)
    if found.digest == expected:
        return found.digest
    if found.digest == passport.get("digest"):  # whole, and another model than the pinned one
        raise Refusal(
            "Model",
            "DigestMismatch",
            f"{uri} holds the model {found.digest[:19]}, not {expected[:19]} that is asked for.",
            "Name the folder of that model, or pin the digest of this one.",
        )
    listed = passport.get("files", {})
    differing = sorted(name for name in {*listed, *found.files} if listed.get(name) != found.files.get(name))
    several = len(differing) > 1
    raise Refusal(
        "Model",
        "ModelDamaged",
        f"{uri} is not what its passport says: {', '.join(differing[:3]) or 'its files'} "
        f"{'differ' if several else 'differs'} or {'are' if several else 'is'} missing.",
        "Copy the model again, whole; somebody or something has changed it since it was published.",
        differing[:20],
    )
