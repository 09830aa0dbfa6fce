"""JSON merge patches (RFC 7386): how one value becomes another."""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]


def difference(old: Json, new: Json) -> Json:
    """The merge patch from one value to another: what is gone is null."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if inner := difference(old[key], value):
                patch[key] = inner
        elif key not in old or old[key] != value:
            patch[key] = value
    return patch


def merged(value: Json, patch: Json) -> Json:
    """A merge patch carried out on a copy."""
    result = copy.copy(value)
    for key, new in patch.items():
        if new is None:
            result.pop(key, None)
        elif isinstance(new, dict):
            result[key] = merged(result[key] if isinstance(result.get(key), dict) else {}, new)
        else:
            result[key] = new
    return result
