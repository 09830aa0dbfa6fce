"""The table of a benchmark: two sides, how they compare, the goal, and whether it was met."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lmops_compressor.machine import processor

TITLE = "# Benchmarks\n\nEach table is what one command prints.\n"
Sides = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """One line: what was measured on both sides."""

    name: str
    ours: float
    other: float
    compared: str
    goal: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """The line as text."""
        verdict = {None: "", True: "ok", False: "missed"}[self.met]
        return [self.name, f"{self.ours:.4g}", f"{self.other:.4g}", self.compared, self.goal, verdict]


def ratio(name: str, sides: Sides, at_least: float | None = None, at_most: float | None = None) -> Figure:
    """Ours divided by the other side's, round by round."""
    each = [ours / other for ours, other in zip(*sides, strict=True)]
    middle, compared = median(each), f"{_spread(each, '.2f')} x"
    if at_least is not None:
        return Figure(name, *map(median, sides), compared, f"≥ {at_least:.1f} x", middle >= at_least)
    if at_most is not None:
        return Figure(name, *map(median, sides), compared, f"≤ {at_most:.1f} x", middle <= at_most)
    return Figure(name, *map(median, sides), compared)


def points(name: str, sides: Sides, within: float) -> Figure:
    """Ours less the other side's, in points."""
    each = [ours - other for ours, other in zip(*sides, strict=True)]
    met = abs(median(each)) <= within
    return Figure(name, *map(median, sides), f"{_spread(each, '+.2f')} points", f"within {within:g} point", met)


def share(name: str, sides: Sides, at_least: float) -> Figure:
    """Percent of what is possible; the goal is for our side."""
    ours, stock = map(median, sides)
    return Figure(f"{name} in %", ours, stock, f"{_spread(sides[0], '.1f')} %", f"≥ {at_least:g} %", ours >= at_least)


def limit(name: str, sides: Sides, at_most: float | None = None) -> Figure:
    """A number by itself; the goal is for our side."""
    ours, other = map(median, sides)
    if at_most is None:
        return Figure(name, ours, other, "")
    return Figure(name, ours, other, "", f"≤ {at_most:g}", ours <= at_most)


def page(other: str, results: Mapping[str, Sequence[Figure]], notes: Sequence[str], command: str) -> str:
    """The whole table in Markdown, under a line that says where which command has printed it."""
    rows = [["job", "figure", "ours", other, f"ours to {other}", "goal", ""]]
    rows += [[job, *figure.cells()] for job, figures in results.items() for figure in figures]
    return "\n\n".join([command, grid(rows), *notes])


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its header."""
    header, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *others])


def processors() -> str:
    """Cores and processor, in a few words."""
    return f"{os.cpu_count()} cores of {processor()}"


def record(file: Path, name: str, table: str) -> None:
    """Puts a table between its marks in a page, in place of the one before."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = file.read_text() if file.exists() else TITLE
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{before.rstrip()}\n\n{begin}\n{table}\n{end}\n\n{after.lstrip()}".rstrip() + "\n")


def _spread(values: Sequence[float], form: str) -> str:
    """Smallest, middle and largest; one that is alone says it once."""
    shown = (min(values), median(values), max(values)) if len(values) > 1 else values
    return " – ".join(f"{value:{form}}" for value in shown)
