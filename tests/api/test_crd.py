"""The CRD that is checked in is the one that the types describe, in the form that Kubernetes insists on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field
from typer.testing import CliRunner

from lmops.__main__ import app
from lmops.api.base import Model, rules
from lmops.api.crd import KINDS, Kind, Schema, crd, resource_schema, structural, write
from schemas import problems, validator

FOLDER = Path(__file__).parents[2] / "crds"
SCHEMAS = {kind.model.__name__: resource_schema(kind) for kind in KINDS}
SCHEMA = SCHEMAS["TrainingJob"]
SPEC = SCHEMA["properties"]["spec"]
every_schema = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
TYPES = {"object", "array", "string", "integer", "number", "boolean"}


def nodes(schema: Schema, path: str = "", ruled: bool = False) -> Iterator[tuple[str, Schema, bool]]:
    """Every part of a schema with its path, and whether a CEL rule stands on it or around it."""
    ruled = ruled or "x-kubernetes-validations" in schema
    yield path, schema, ruled
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}", ruled)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]", ruled)
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*", ruled)


def of_parts(schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """Every part of the spec and of the status."""
    for part in ("spec", "status"):
        yield from nodes(schema["properties"][part], part)


def bound(schema: Schema) -> bool:
    """Whether a value cannot grow without end: Kubernetes prices a CEL rule by the largest value there may be."""
    if "enum" in schema or schema.get("format") in ("date-time", "duration"):
        return True
    if schema.get("type") == "object":
        return "properties" in schema or "maxProperties" in schema
    limits = {"string": "maxLength", "array": "maxItems"}
    if schema.get("x-kubernetes-int-or-string"):
        return "maxLength" in schema
    return schema["type"] not in limits or limits[schema["type"]] in schema


def test_the_files_are_those_that_the_types_make(tmp_path: Path) -> None:
    made = {file.name: file.read_text() for file in write(tmp_path)}

    assert {file.name: file.read_text() for file in FOLDER.iterdir()} == made, "run `make crds`"
    assert [yaml.safe_load(text) for text in made.values()] == [crd(kind) for kind in KINDS]


def test_the_kind_is_listed_as_people_type_and_read_it() -> None:
    spec = crd(KINDS[0])["spec"]

    assert spec["names"] == {
        "kind": "TrainingJob",
        "listKind": "TrainingJobList",
        "plural": "trainingjobs",
        "singular": "trainingjob",
        "shortNames": ["tj"],
        "categories": ["lmops"],
    }
    assert [(column["name"], column["jsonPath"]) for column in spec["versions"][0]["additionalPrinterColumns"]] == [
        ("Phase", ".status.phase"),
        ("Progress", ".status.display.progress"),
        ("Metric", ".status.display.metric"),
        ("Nodes", ".status.display.nodes"),
        ("Reason", ".status.display.reason"),
        ("Model", ".status.model.uri"),
        ("Age", ".metadata.creationTimestamp"),
    ]
    assert spec["versions"][0]["subresources"] == {"status": {}}


@every_kind
def test_every_column_shows_a_field_that_there_is(kind: Kind) -> None:
    known = {path for path, _, _ in nodes(resource_schema(kind))} | {".metadata.creationTimestamp"}

    assert {column.path for column in kind.columns} <= known


@every_schema
def test_the_schema_is_structural(schema: Schema) -> None:
    for path, node, _ in nodes(schema):
        assert node.get("type") in TYPES or node.get("x-kubernetes-int-or-string") is True, path
        assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title"} & set(node), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert isinstance(node.get("additionalProperties", {}), dict), path
        assert ("items" in node) == (node.get("type") == "array"), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path


def test_exclusive_bounds_are_said_as_kubernetes_says_them() -> None:
    epochs = SPEC["properties"]["training"]["properties"]["epochs"]

    assert (epochs["minimum"], epochs["exclusiveMinimum"]) == (0, True)
    assert {type(node[key]) for _, node, _ in nodes(SCHEMA) for key in node if key.startswith("exclusive")} == {bool}


@every_schema
def test_every_field_explains_itself(schema: Schema) -> None:
    silent = [
        f"{path}.{name}"
        for path, node, _ in (
            *nodes(schema["properties"]["spec"], "spec"),
            *nodes(schema["properties"]["status"], "status"),
        )
        for name, field in node.get("properties", {}).items()
        if not field.get("description", "").strip().endswith(".")
    ]

    assert silent == []
    assert all(schema["properties"][part]["description"] for part in ("spec", "status"))


@every_schema
def test_what_a_rule_reads_cannot_grow_without_end(schema: Schema) -> None:
    unbounded = [path for path, node, ruled in nodes(schema["properties"]["spec"], "spec") if ruled and not bound(node)]

    assert unbounded == []


@every_schema
def test_lists_and_maps_of_the_status_cannot_grow_without_end(schema: Schema) -> None:
    status = nodes(schema["properties"]["status"], "status")
    collections = [(path, node) for path, node, _ in status if node["type"] in ("array", "object")]

    assert [path for path, node in collections if not bound(node)] == []


@every_schema
def test_every_rule_says_what_to_do(schema: Schema) -> None:
    every = [rule for _, node, _ in nodes(schema) for rule in node.get("x-kubernetes-validations", ())]

    assert all(set(rule) == {"rule", "message"} for rule in every)
    assert all(rule["message"] and not rule["message"].endswith(".") for rule in every)


@pytest.mark.parametrize("kind", ["TrainingJob", "QuantizeJob"])
def test_the_spec_of_a_job_cannot_change_but_for_suspend(kind: str) -> None:
    schema = SCHEMAS[kind]
    spec = schema["properties"]["spec"]
    guarded = {}
    for rule in spec["x-kubernetes-validations"]:
        if found := re.match(
            r"(\w+) cannot change once the job exists: give the new settings a new name, or delete the job first$",
            rule["message"],
        ):
            guarded[found[1]] = rule["rule"]

    assert set(guarded) == set(spec["properties"]) - {"suspend"}
    assert guarded["output"] == "self.output == oldSelf.output"
    assert guarded["retry"] == (
        "has(self.retry) == has(oldSelf.retry) && (!has(self.retry) || self.retry == oldSelf.retry)"
    )


@every_schema
def test_defaults_are_values_of_their_field(schema: Schema) -> None:
    for path, node, _ in nodes(schema["properties"]["spec"], "spec"):
        if "default" in node:
            assert problems(node["default"], validator(node)) == [], path


class WithAUnion(Model):
    """Holds a number or a text."""

    either: int | str = 0
    """Either."""


class WithoutAType(Model):
    """Holds anything."""

    anything: Any = None
    """Anything."""


class WithAnUnknownKeyword(Model):
    """Holds a number that Kubernetes could not check."""

    even: Annotated[int, Field(json_schema_extra={"readOnly": True})] = 0
    """Even."""


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (WithAUnion, r"\.either: a union; write siblings and a rule that one of them is set"),
        (WithoutAType, r"\.anything: no type"),
        (WithAnUnknownKeyword, r"\.even: Kubernetes has no readOnly"),
    ],
)
def test_what_kubernetes_would_not_accept_raises_when_it_is_built(model: type[Model], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        structural(model.model_json_schema(by_alias=True))


class Inner(Model):
    """A part."""

    model_config = rules(("self.size > 0", "size is not above 0"))

    size: Annotated[float, Field(gt=0)] | None = None
    """Its size."""


class Outer(Model):
    """A whole."""

    kind: Literal["Outer"] = "Outer"
    """What it is."""
    inner: Inner = Inner()
    """Its part."""
    sizes: Annotated[dict[str, int], Field(max_length=2)] = Field(default_factory=dict)
    """More of it."""


def test_references_and_null_branches_are_written_out() -> None:
    assert structural(Outer.model_json_schema(by_alias=True)) == {
        "type": "object",
        "description": "A whole.",
        "properties": {
            "kind": {"type": "string", "description": "What it is.", "default": "Outer", "enum": ["Outer"]},
            "inner": {
                "type": "object",
                "description": "Its part.",
                "default": {},
                "properties": {
                    "size": {"type": "number", "description": "Its size.", "minimum": 0, "exclusiveMinimum": True}
                },
                "x-kubernetes-validations": [{"rule": "self.size > 0", "message": "size is not above 0"}],
            },
            "sizes": {
                "type": "object",
                "description": "More of it.",
                "maxProperties": 2,
                "additionalProperties": {"type": "integer"},
            },
        },
    }


def test_the_command_prints_the_crds_of_its_version() -> None:
    printed = CliRunner().invoke(app, ["crds"]).stdout

    names = [f"lmops.dev_{kind.plural}.yaml" for kind in KINDS]
    assert list(yaml.safe_load_all(printed)) == [yaml.safe_load((FOLDER / name).read_text()) for name in names]
    assert sorted(names) == sorted(file.name for file in FOLDER.iterdir())
