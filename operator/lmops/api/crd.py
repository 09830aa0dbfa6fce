"""The CRD of a kind, made of its pydantic class: structural, described to the last field, with its rules in CEL.

`python -m lmops.api.crd crds` writes them all. What Kubernetes would not accept raises here, at build time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmops.api.base import FORMS, GROUP, VERSION, Model
from lmops.api.languagemodelservice import LanguageModelService
from lmops.api.quantizejob import QuantizeJob
from lmops.api.trainingjob import TrainingJob

RULES = "x-kubernetes-validations"
Schema = dict[str, Any]


class Column(NamedTuple):
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


class Kind(NamedTuple):
    """A kind as Kubernetes lists it."""

    model: type[Model]
    plural: str
    short: str
    mutable: frozenset[str] | None
    """The fields of its spec that may change; all of them where this is `None`."""
    columns: tuple[Column, ...]


KINDS = (
    Kind(
        model=TrainingJob,
        plural="trainingjobs",
        short="tj",
        mutable=frozenset({"suspend"}),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.display.progress"),
            Column("Metric", ".status.display.metric"),
            Column("Nodes", ".status.display.nodes"),
            Column("Reason", ".status.display.reason"),
            Column("Model", ".status.model.uri", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
    Kind(
        model=QuantizeJob,
        plural="quantizejobs",
        short="qj",
        mutable=frozenset({"suspend"}),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.display.progress"),
            Column("Method", ".status.display.method"),
            Column("Size", ".status.display.size"),
            Column("Speedup", ".status.display.speedup"),
            Column("Quality", ".status.display.quality"),
            Column("Verdict", ".status.display.verdict"),
            Column("Reason", ".status.display.reason"),
            Column("Model", ".status.model.uri", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
    Kind(
        model=LanguageModelService,
        plural="languagemodelservices",
        short="lms",
        mutable=None,
        columns=(
            Column("Phase", ".status.phase"),
            Column("Model", ".status.display.model"),
            Column("Replicas", ".status.display.replicas"),
            Column("Load", ".status.display.load"),
            Column("URL", ".status.url"),
            Column("Reason", ".status.display.reason"),
            Column("Source", ".status.model.name", priority=1),
            Column("Place", ".status.model.uri", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
)


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind."""
    name = kind.model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": ["lmops"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": resource_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_printer_column(column) for column in kind.columns],
                }
            ],
        },
    }


def resource_schema(kind: Kind) -> Schema:
    """The schema of a resource: Kubernetes' own metadata, our spec and our status."""
    schema = structural(kind.model.model_json_schema(by_alias=True))
    name = {"type": "string", "maxLength": 36, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
    schema["properties"] |= {
        "apiVersion": {"type": "string", "description": schema["properties"]["apiVersion"]["description"]},
        "kind": {"type": "string", "description": schema["properties"]["kind"]["description"]},
        "metadata": {"type": "object", "properties": {"name": name}},
    }
    spec = schema["properties"]["spec"]
    fixed = [] if kind.mutable is None else [field for field in spec["properties"] if field not in kind.mutable]
    rules = [*spec.get(RULES, ()), *(_immutable(field, field in spec.get("required", ())) for field in fixed)]
    if rules:
        spec[RULES] = rules
    schema["required"] = ["spec"]
    schema["properties"]["status"].pop("default", None)
    return schema


def structural(schema: Schema) -> Schema:
    """JSON Schema as pydantic writes it, turned into Kubernetes' structural form."""
    return _Structural(schema.get("$defs", {})).convert({k: v for k, v in schema.items() if k != "$defs"}, "")


class _Structural:
    """One conversion, with the definitions that `$ref` points to."""

    DROPPED = (
        "title",
        "additionalProperties",
        "propertyNames",
        "anyOf",
        "$ref",
        "const",
        "exclusiveMinimum",
        "exclusiveMaximum",
    )
    KEPT = [
        "type",
        "description",
        "default",
        "enum",
        "format",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "properties",
        "items",
        "required",
        RULES,
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
    ]

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self.definitions = definitions

    def convert(self, schema: Schema, path: str) -> Schema:
        merged = self._merged(schema, path)
        if unknown := sorted(set(merged) - {*self.DROPPED, *self.KEPT}):
            raise ValueError(f"{path or '.'}: Kubernetes has no {', '.join(unknown)}")
        result = {key: merged[key] for key in self.KEPT if key in merged}
        if "const" in merged:
            result["enum"] = [merged["const"]]
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if exclusive in merged:
                result |= {bound: merged[exclusive], exclusive: True}
        if "properties" in merged:
            result["properties"] = {k: self.convert(v, f"{path}.{k}") for k, v in merged["properties"].items()}
        if "items" in merged:
            result["items"] = self.convert(merged["items"], f"{path}[]")
        if isinstance(values := merged.get("additionalProperties"), dict):
            result["additionalProperties"] = self.convert(values, f"{path}.*")
        # in a list of lists the rule would cost more than an API server allows
        if path.count("[]") < 2 and (words := FORMS.get(result.get("pattern", ""))):
            result[RULES] = [*result.get(RULES, ()), _formed(result.pop("pattern"), words, "type" in result)]
        if "default" in result:
            result["default"] = _without_nulls(result["default"])
            if result["default"] is None:
                del result["default"]
        if "type" not in result and "x-kubernetes-int-or-string" not in result:
            raise ValueError(f"{path or '.'}: no type")
        return result

    def _merged(self, schema: Schema, path: str) -> Schema:
        """The schema with its `$ref` inlined and its null branch dropped; what stands beside wins, rules add up."""
        branches = [b for b in schema.get("anyOf", ()) if b.get("type") != "null"]
        if len(branches) > 1 and "x-kubernetes-int-or-string" not in schema:
            raise ValueError(f"{path}: a union; write siblings and a rule that one of them is set")
        base: Schema = branches[0] if len(branches) == 1 else {}
        if "$ref" in schema:
            base = self.definitions[schema["$ref"].rpartition("/")[2]]
        if not base:
            return schema
        inner, outer = self._merged(base, path), {k: v for k, v in schema.items() if k not in ("anyOf", "$ref")}
        rules = [*inner.get(RULES, ()), *outer.get(RULES, ())]
        return {**inner, **outer, **({RULES: rules} if rules else {})}


def _formed(pattern: str, words: str, is_text: bool) -> Schema:
    """A pattern as a rule: an API server would show the pattern itself to whoever missed it."""
    matches = f"self.matches(r'{pattern}')"
    return {"rule": matches if is_text else f"type(self) == int || {matches}", "message": f"this is not {words}"}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _immutable(field: str, required: bool) -> Schema:
    same = f"self.{field} == oldSelf.{field}"
    guard = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return {
        "rule": same if required else guard,
        "message": f"{field} cannot change once the job exists: give the new settings a new name, or delete the job first",
    }


def _printer_column(column: Column) -> Schema:
    written = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**written, "priority": column.priority} if column.priority else written


class _WithoutAliases(yaml.SafeDumper):
    """YAML that spells the same thing out wherever it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def document(kind: Kind) -> str:
    """A kind's CRD as YAML."""
    return yaml.dump(crd(kind), Dumper=_WithoutAliases, sort_keys=False, width=120, allow_unicode=True)


def write(folder: Path) -> list[Path]:
    """Writes every CRD into the folder and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in KINDS:
        files.append(folder / f"{GROUP}_{kind.plural}.yaml")
        files[-1].write_text(f"# Generated from lmops.api by `make crds`; do not edit.\n{document(kind)}")
    return files


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*write(Path(name)), sep="\n")
