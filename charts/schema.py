"""Writes the operator's settings into the chart's values.schema.json, so that `helm install` knows each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmops.settings import Settings

FILE = Path(__file__).parent / "lmops" / "values.schema.json"
ELSEWHERE = {
    "trainerImage", "compressorImage", "serverImage", "vllmImage", "namespaces", "namespace", "port", "progressPort",
    "progressService",
}  # fmt: skip
"""Settings that the chart makes of other values, or takes as they are."""


def settings() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of the value `settings`, and the definitions that it refers to."""
    schema = untitled(Settings.model_json_schema(by_alias=True))
    fields = {name: field for name, field in schema["properties"].items() if name not in ELSEWHERE}
    definitions = schema.pop("$defs", {})
    return {**schema, "properties": fields}, definitions


def untitled(schema: Any) -> Any:
    """A schema without the titles that pydantic makes of the fields' names."""
    if isinstance(schema, list):
        return [untitled(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {k: untitled(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}


if __name__ == "__main__":
    schema = json.loads(FILE.read_text())
    schema["properties"]["settings"], schema["$defs"] = settings()
    FILE.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
