"""Charts as inline SVG that takes its colours from the page, so that one chart serves light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Point = tuple[float, float]

POINTS = 400
"""The most points a line is drawn with: more cannot be told apart at this size."""
# Colours that matplotlib writes into the SVG and that the page's own variables then replace.
INK, GRID = "#010203", "#010204"
SERIES = ("#010205", "#010206", "#010207")
VARIABLES = {INK: "--muted", GRID: "--line"} | {color: f"--series-{i + 1}" for i, color in enumerate(SERIES)}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lmops",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Line:
    """One series: what it is called, and its value at each step."""

    name: str
    points: Sequence[Point]
    marked: bool = False
    """Whether each point is marked: for values that are few."""


def chart(name: str, title: str, lines: Sequence[Line], from_zero: bool = False) -> str:
    """An `<svg>` element, or nothing where there is nothing to draw. `name` keeps its ids apart from other charts'."""
    drawn = [line for line in (_finite(line) for line in lines) if line.points]
    if not drawn:
        return ""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for line, color in zip(drawn, SERIES, strict=False):
            x, y = zip(*line.points, strict=True)
            marker = "o" if line.marked or len(x) == 1 else None
            axes.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=4.5, label=line.name)
        axes.set_xlabel("step")
        axes.margins(y=0.08)
        if from_zero:  # else noise looks like news
            axes.set_ylim(0, 1.1 * max(value for line in drawn for _, value in line.points) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: spelled(value)))
        if len(drawn) > 1:
            figure.legend(loc="outside upper right", ncols=len(drawn), handlelength=1.2)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
    return _inlined(written.getvalue(), name, f"{title}. {_told(drawn)}")


@dataclass(frozen=True)
class Spot:
    """One thing in a scatter: where it stands, how large it is, and which kind of thing it is."""

    name: str
    x: float
    y: float
    size: float
    """Its area, as a share of that of the largest."""
    kind: str


def scatter(name: str, title: str, spots: Sequence[Spot], x: str, y: str) -> str:
    """An `<svg>` element with an area a spot, a colour a kind (of three at most); `x` and `y` name the axes."""
    shown = [spot for spot in spots if all(map(math.isfinite, (spot.x, spot.y, spot.size)))]
    if not shown:
        return ""
    kinds = list(dict.fromkeys(spot.kind for spot in shown))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.grid()
        axes.set_axisbelow(True)
        for kind, color in zip(kinds, SERIES, strict=False):
            of_kind = [spot for spot in shown if spot.kind == kind]
            areas = [30 + 600 * max(0.0, spot.size) for spot in of_kind]
            axes.scatter([s.x for s in of_kind], [s.y for s in of_kind], areas, color, alpha=0.75, label=kind, lw=0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(0.14)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: spelled(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: spelled(value)))
        legend = figure.legend(loc="outside upper right", ncols=len(kinds), handlelength=1.2)
        for handle in legend.legend_handles:
            handle.set_sizes([30.0])  # type: ignore[union-attr]
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
    told = " ".join(f"{spot.name}: {x} {spelled(spot.x)}, {y} {spelled(spot.y)}." for spot in shown)
    return _inlined(written.getvalue(), name, f"{title}. {told}")


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A moving average over a twentieth of the points, so that the trend shows through the noise."""
    width = max(1, len(points) // 20)
    values = [value for _, value in points]
    return [
        (step, sum(values[max(0, i + 1 - width) : i + 1]) / len(values[max(0, i + 1 - width) : i + 1]))
        for i, (step, _) in enumerate(points)
    ]


def spelled(value: float) -> str:
    """A number in few characters: 12k, 0.25, 3e-05."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"


def _finite(line: Line) -> Line:
    points = [(step, value) for step, value in line.points if math.isfinite(value)]
    stride = max(1, math.ceil(len(points) / POINTS))
    kept = points[::stride] + ([points[-1]] if points and (len(points) - 1) % stride else [])
    return Line(line.name, kept, line.marked)


def _told(lines: Sequence[Line]) -> str:
    """The chart in words, for those who cannot see it: where each line begins and ends."""
    ends = [(line.name, dict.fromkeys((line.points[0], line.points[-1]))) for line in lines]
    return " ".join(
        f"{name}: {', '.join(f'{spelled(value)} at step {step:g}' for step, value in points)}." for name, points in ends
    )


def _inlined(svg: str, name: str, description: str) -> str:
    """Only the element itself, in the page's colours: no namespaces or style, and ids that no other chart has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:xlink)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="|url\(#|href="#', lambda found: f"{found.group()}{name}-", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"\n\s*", "\n", svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)).strip()
