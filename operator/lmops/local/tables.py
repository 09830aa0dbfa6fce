"""Resources as `kubectl` would print them: tables, YAML, JSON, and the story that `describe` tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import yaml

from lmops.local.display import figures, said
from lmops.local.home import Folder, in_namespace
from lmops.local.idle import STOPPED, seen
from lmops.local.kinds import KINDS
from lmops.local.volumes import Volumes
from lmops.plan import Manifest


def table(resources: list[Manifest], now: datetime, wide: bool = False) -> str:
    """The table of `kubectl get`, with the columns that the CRD declares; one table a kind."""
    tables = []
    for kind, row in KINDS.items():
        mine = [resource for resource in resources if resource["kind"] == kind]
        columns = [column for column in row.crd.columns if wide or not column.priority]
        if mine:
            prefix = f"{kind.lower()}/" if len({resource["kind"] for resource in resources}) > 1 else ""
            rows = [["NAME", *(column.name.upper() for column in columns)]]
            for resource in mine:
                cells = [_cell(resource, column.path, column.type, now) for column in columns]
                rows.append([prefix + resource["metadata"]["name"], *cells])
            tables.append(_aligned(rows))
    return "\n\n".join(tables)


def as_yaml(resources: list[Manifest]) -> str:
    """One resource, or a list of them, as YAML."""
    return yaml.safe_dump(_listed(resources), sort_keys=False, allow_unicode=True, width=120).rstrip()


def as_json(resources: list[Manifest]) -> str:
    """One resource, or a list of them, as JSON."""
    return json.dumps(_listed(resources), indent=2, ensure_ascii=False)


def age(since: str, now: datetime) -> str:
    """A span as kubectl writes it: 45s, 3m, 2h, 5d."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for length, unit, until in ((1, "s", 120), (60, "m", 7200), (3600, "h", 172_800)):
        if seconds < until:
            return f"{seconds // length}{unit}"
    return f"{seconds // 86_400}d"


def described(folder: Folder, resource: Manifest, volumes: Volumes, now: datetime) -> list[Any]:
    """A resource told as a story: what it is, what happened, where it stands, and how it ended. Lines and tables."""
    metadata, status, story = resource["metadata"], resource["status"], KINDS[folder.kind].story
    phase = (seen(folder) or resource)["status"].get("phase", "Pending")
    lines: list[Any] = [
        f"{folder}   {phase}",
        f"  created   {age(metadata['creationTimestamp'], now)} ago, generation {metadata['generation']}",
        f"  engine    {_engine(folder, story.is_over(status))}",
    ]
    lines += ["", f"Conditions{' before it stopped' if phase == STOPPED else ''}", *_rows(_conditions(status))]
    if chapters := story.chapters(status):
        lines += ["", "Runs", *_rows([[c.stage, c.sentence] for c in chapters if c.ended or c is chapters[-1]])]
    if phase == STOPPED:
        lines += ["", "Now", f"  stopped   {story.left(status)}"]
    elif not story.is_over(status):
        moment = story.moment(status)
        told = moment.waiting or said(moment)
        lines += ["", "Now", f"  {moment.stage}   {told}"]
    if events := folder.events():
        lines += ["", "Events", *_rows([[age(e["time"], now), e["type"], e["reason"], e["message"]] for e in events])]
    if story.is_over(status):
        ending = story.ending(str(folder), status, volumes)
        lines += ["", "End", *([figures(ending)] if ending.rows else []), *_rows([list(pair) for pair in ending.lines])]
    return lines


def _engine(folder: Folder, over: bool) -> str:
    if folder.alive:
        return "at work"
    space = in_namespace(folder.namespace)
    return "at rest" if over else f"none is running; `lmops local apply{space}` of the same file goes on from here"


def _conditions(status: Manifest) -> Iterator[list[str]]:
    for condition in status.get("conditions", ()):
        yield [condition["type"], condition["status"], condition["reason"], condition.get("message", "")]


def _rows(rows: Any) -> list[str]:
    text = _aligned([["", *map(str, row)] for row in rows], gap=2)
    return text.splitlines()


def _aligned(rows: list[list[str]], gap: int = 3) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)] if rows else []
    lines = ["".join(cell.ljust(width + gap) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _cell(resource: Manifest, path: str, type_: str, now: datetime) -> str:
    value: Any = resource
    for step in path.strip(".").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None:
        return ""
    return age(value, now) if type_ == "date" else str(value)


def _listed(resources: list[Manifest]) -> Manifest:
    return resources[0] if len(resources) == 1 else {"apiVersion": "v1", "kind": "List", "items": resources}


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)
