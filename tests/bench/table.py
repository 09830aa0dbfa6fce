"""The table of a benchmark: two sides, how they compare, the goal, and whether it was met."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

BEGIN, END = "<!-- training:begin -->", "<!-- training:end -->"
TITLE = "# Benchmarks\n\nEach table is what one command prints.\n"
ABOUT = (
    "Ours against the stock `Trainer` with `DataCollatorWithPadding`, random order and defaults; the same model, rows, "
    "steps, batches, learning rates and threads. Sides are medians over the rounds; the last comparison is "
    "min, median and max of the rounds. A whole process loads, trains, evaluates once and saves; the loop is timed "
    "after its first twentieth."
)
Sides = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """One line: what was measured on both sides."""

    name: str
    ours: float
    stock: float
    compared: str
    goal: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """The line as text."""
        verdict = {None: "", True: "ok", False: "missed"}[self.met]
        return [self.name, f"{self.ours:.4g}", f"{self.stock:.4g}", self.compared, self.goal, verdict]


def ratio(name: str, sides: Sides, at_least: float | None = None, at_most: float | None = None) -> Figure:
    """Ours divided by the stock side's, round by round."""
    each = [ours / stock for ours, stock in zip(*sides, strict=True)]
    middle, compared = median(each), f"{_spread(each, '.2f')} x"
    if at_least is not None:
        return Figure(name, *map(median, sides), compared, f"≥ {at_least:.1f} x", middle >= at_least)
    if at_most is not None:
        return Figure(name, *map(median, sides), compared, f"≤ {at_most:.1f} x", middle <= at_most)
    return Figure(name, *map(median, sides), compared)


def points(name: str, sides: Sides, within: float) -> Figure:
    """Ours less the stock side's, in points."""
    each = [ours - stock for ours, stock in zip(*sides, strict=True)]
    met = abs(median(each)) <= within
    return Figure(name, *map(median, sides), f"{_spread(each, '+.2f')} points", f"within {within:g} point", met)


def share(name: str, sides: Sides, at_least: float) -> Figure:
    """Percent of what is possible; the goal is for our side."""
    ours, stock = map(median, sides)
    return Figure(f"{name} in %", ours, stock, f"{_spread(sides[0], '.1f')} %", f"≥ {at_least:g} %", ours >= at_least)


def page(results: Mapping[str, Sequence[Figure]], notes: Sequence[str], command: Sequence[str]) -> str:
    """The whole table in Markdown, with the command that prints it and the machine."""
    rows = [["job", "figure", "ours", "stock", "ours to stock", "goal", ""], ["---"] * 7]
    rows += [[job, *figure.cells()] for job, figures in results.items() for figure in figures]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    with_command = f"`{shlex.join(command)}` on {machine()}:"
    return "\n\n".join([with_command, table, *notes, ABOUT])


def machine() -> str:
    """Cores, processor, GPU and the libraries that do the work, in one line."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = os.environ["OMP_NUM_THREADS"]
    return f"{os.cpu_count()} cores of {model}{gpu}, {threads} threads, torch {torch.__version__}"


def record(file: Path, table: str) -> None:
    """Puts the table between its marks in a page, in place of the one before."""
    text = file.read_text() if file.exists() else TITLE
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{before.rstrip()}\n\n{BEGIN}\n{table}\n{END}\n{after.lstrip()}".rstrip() + "\n")


def _spread(values: Sequence[float], form: str) -> str:
    """Smallest, middle and largest."""
    return " – ".join(f"{value:{form}}" for value in (min(values), median(values), max(values)))
