"""What an API server does with a resource and its schema: defaults, unknown fields, CEL rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from cel_expr_python import cel

from lmops.api.crd import Schema
from lmops.documents import FieldPath


def without_nulls(value: Any) -> Any:
    """The value without fields that are null, which Kubernetes takes as not set."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def defaulted(value: Any, schema: Schema) -> Any:
    """The value as it is stored: defaults filled in, and numbers of the declared type."""
    if isinstance(value, dict) and "properties" in schema:
        fields = schema["properties"]
        missing = {key: copy.deepcopy(s["default"]) for key, s in fields.items() if key not in value and "default" in s}
        return {key: defaulted(inner, fields.get(key, {})) for key, inner in {**value, **missing}.items()}
    if isinstance(value, dict):
        return {key: defaulted(inner, schema.get("additionalProperties", {})) for key, inner in value.items()}
    if isinstance(value, list):
        return [defaulted(inner, schema.get("items", {})) for inner in value]
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def broken_rules(value: Any, schema: Schema, old: Any = None, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """Every CEL rule that does not hold, with its place; rules on `oldSelf` only where there is an old value."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if ("oldSelf" not in rule["rule"] or old is not None) and not _holds(rule["rule"], value, old):
            yield path, rule["message"]
    if isinstance(value, dict):
        for key, inner in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            before = old.get(key) if isinstance(old, dict) else None
            yield from broken_rules(inner, below, before, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):  # an item of a list has no old self that could be told apart
            yield from broken_rules(inner, schema.get("items", {}), None, (*path, index))


def _holds(rule: str, value: Any, old: Any) -> bool:
    """Whether the rule holds; one that cannot be computed does not speak, since a wrong type is reported as such."""
    return _compiled(rule).eval(data={"self": value, "oldSelf": old}).value() is not False


@cache
def _compiled(rule: str) -> Any:
    return _environment().compile(rule)


@cache
def _environment() -> Any:
    return cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})
