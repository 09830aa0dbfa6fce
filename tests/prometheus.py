"""Prometheus, promtool and Alertmanager, out of Debian's packages: unpacked into the user's cache folder, once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

import debian

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
"""What the metrics of a family are called."""
TEMPLATES = "usr/share/prometheus/alertmanager"
PACKAGES = ("prometheus", "prometheus-alertmanager")
UNTESTED = "ALERTS ARE NOT CHECKED"


def program(name: str) -> Path:
    """`promtool`, `prometheus`, `prometheus-alertmanager` or `amtool`."""
    if name == "prometheus-alertmanager":
        _give_templates()
    return _unpacked() / "usr" / "bin" / name


def check(groups: list[dict[str, Any]], folder: Path) -> None:
    """Raises where Prometheus would not load these groups of rules."""
    file = folder / "checked.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(groups: list[dict[str, Any]], tests: list[dict[str, Any]], folder: Path) -> None:
    """Raises where the rules do not alert as the tests say; see Prometheus' "Unit Testing for Rules"."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def series(metric: str, labels: dict[str, str], values: str) -> dict[str, str]:
    """A series of a test: a value each minute, in promtool's own shorthand."""
    chosen = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{metric}{{{chosen}}}", "values": values}


def metrics(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|on|without|ignoring) *\([^)]*\)', "", expression)
    return {name for name in re.findall(r"\b[a-zA-Z_:][\w:]*\b(?! *\()", bare) if name not in ("and", "or", "unless")}


def labels(expression: str) -> set[str]:
    """The labels by which an expression selects and groups."""
    selected = re.findall(r"([a-zA-Z_]\w*) *(?:=~|!~|!=|=)(?!=) *\"", expression)
    grouped = re.findall(r"\bby *\(([^)]*)\)", expression)
    return {*selected, *(label.strip() for group in grouped for label in group.split(",") if label.strip())}


def exposed(text: str) -> tuple[set[str], set[str]]:
    """The metrics that an exporter has, also those of which nothing happened yet; and the labels that it gives them."""
    names, given = set[str](), set[str]()
    for family in text_string_to_metric_families(text):
        names |= {family.name + suffix for suffix in SUFFIXES.get(family.type, ("",))}
        given |= {label for sample in family.samples for label in sample.labels}
    return names, given


def _unpacked() -> Path:
    """The packages would start services of this machine, were they installed."""
    return debian.unpacked("prometheus", PACKAGES, UNTESTED)


def _give_templates() -> None:
    """Debian's Alertmanager reads its templates at a fixed place."""
    place = Path("/", TEMPLATES)
    if place.exists():
        return
    if os.geteuid() != 0:
        debian.absent(UNTESTED, PACKAGES, f"Alertmanager wants its templates at {place}, where only root may put them")
    shutil.copytree(_unpacked() / TEMPLATES, place)
