"""What is wrong with a field that a user wrote, as a sentence that says what is allowed there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lmops.api.base import FORMS
from lmops.api.crd import Schema
from lmops.documents import Document, FieldPath, spelled

TYPES = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_": "a text (put it in quotes)",
    "list_": "a list",
    "tuple_": "a list",
    "dict_": "a mapping of fields",
    "model_": "a mapping of fields",
}


class Problem(NamedTuple):
    """What is wrong with one field."""

    path: FieldPath
    sentence: str


def sentence(document: Document, problem: Problem) -> str:
    """A problem with its place: `reviews.yaml:9: spec.model.taks: no such field; did you mean "task"?`."""
    return ": ".join(filter(None, (document.place(problem.path), spelled(problem.path), problem.sentence)))


def unknown(value: Any, schema: Schema, path: FieldPath = ()) -> Iterator[tuple[FieldPath, list[str]]]:
    """Every field that the schema does not have, with the names it has there."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unknown(inner, schema.get("items", {}), (*path, index))
    if not isinstance(value, dict):
        return
    fields: dict[str, Schema] = schema.get("properties", {})
    for key, inner in value.items():
        if "properties" in schema and key not in fields:
            yield (*path, key), list(fields)
        else:
            yield from unknown(inner, fields.get(key) or schema.get("additionalProperties") or {}, (*path, key))


def stray(path: FieldPath, names: list[str]) -> Problem:
    """A field that is not there: the name that was meant, or else all names there are."""
    known = f"; there {'are' if len(names) > 1 else 'is'} {', '.join(names)}"
    return Problem(path, f"no such field{hint(camel(str(path[-1])), names) or known}")


def wrong(error: ValidationError, value: Any, schema: Schema) -> Iterator[Problem]:
    """What pydantic found in a value, but for fields that are not there."""
    for detail in error.errors(include_url=False):
        path, found = _followed(value, detail["loc"], detail["type"] == "missing")
        if words := _words(detail, found, schema, path):
            yield Problem(path, words)


def shown(value: Any) -> str:
    """A value as it may stand in a sentence."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def hint(word: str, known: list[str]) -> str:
    """The end of a sentence that names the word that was meant; empty where none is close."""
    spelled_small = {name.casefold(): name for name in known}
    match = get_close_matches(word.casefold(), spelled_small, n=1)
    return f'; did you mean "{spelled_small[match[0]]}"?' if match else ""


def camel(word: str) -> str:
    """A snake_case word in camelCase."""
    head, *rest = word.split("_")
    return head + "".join(part.title() for part in rest)


def _words(error: ErrorDetails, value: Any, schema: Schema, path: FieldPath) -> str | None:
    """One sentence for what pydantic found."""
    context: dict[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "extra_forbidden":
            return None
        case "missing":
            return "must be set"
        case "literal_error":
            words = [str(word) for word in _at(schema, path).get("enum", ())] or [str(context["expected"])]
            return f"{shown(value)} is not one of {', '.join(words)}{hint(str(value), words)}"
        case "string_pattern_mismatch":
            return f"{shown(value)} is not {_form_of(context['pattern'])}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
            side = {"greater_than": "not above", "greater_than_equal": "below", "less_than": "not below"}
            return f"{shown(value)} is {side.get(error['type'], 'above')} {bound:g}"
        case "too_long" | "string_too_long":
            return f"too long: {context['max_length']} at most"
        case "too_short" | "string_too_short":
            return f"too short: {context['min_length']} at least"
        case type_ if signs := [sign for sign in TYPES if type_.startswith(sign)]:
            return f"{shown(value)} is not {TYPES[signs[0]]}"
    return f"{shown(value)}: {error['msg']}"


def _form_of(pattern: str) -> str:
    """A pattern in words, where it has some."""
    return FORMS.get(pattern) or f"of the form {pattern}"


def _followed(value: Any, location: tuple[str | int, ...], missing: bool) -> tuple[FieldPath, Any]:
    """The part of an error's location that is in the document, and what stands there."""
    path: list[str | int] = []
    for step in location:
        inside = isinstance(value, dict) and step in value
        if not inside and not (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            return (*path, *((step,) if missing else ())), value
        value = value[step]
        path.append(step)
    return tuple(path), value


def _at(schema: Schema, path: FieldPath) -> Schema:
    for step in path:
        inner = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
        schema = inner or schema.get("additionalProperties", {})
    return schema
