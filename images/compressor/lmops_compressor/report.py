"""The report of a compression as one HTML page, and the card of its model.

The page has both models side by side, each limit, and what a search has tried; the card says how the model is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from markupsafe import Markup

from lmops.api import Compression
from lmops.api.compressionreport import CompressionReport, Interval, SearchReport, Trial
from lmops.api.status import ModelReport
from lmops.api.wording import count, times
from lmops_compressor.source import Source
from lmops_trainer.heads import PRUNED
from lmops_trainer.plots import Spot, scatter, spelled
from lmops_trainer.publish import versions
from lmops_trainer.report import MEANINGS as FIGURES
from lmops_trainer.report import PIPELINES, figure, size, templates
from lmops_trainer.scores import LOWER_IS_BETTER

RUNTIMES = {"safetensors": "transformers", "onnx": "ONNX Runtime", "executorch": "ExecuTorch"}
LIBRARIES = {"safetensors": "transformers", "onnx": "onnxruntime", "executorch": "executorch"}
"""The packages that bring them."""
MEANINGS = FIGURES | {"klDivergence": "how far its probabilities are from the original's, in nats"}


class Line(NamedTuple):
    """One figure of both models."""

    name: str
    original: str
    compressed: str
    comparison: str = ""
    meaning: str = ""
    leads: bool = False


def page(
    run: Compression,
    model: ModelReport,
    report: CompressionReport,
    search: SearchReport | None = None,
    tried: Sequence[Trial] = (),
) -> str:
    """The report, as one file that needs no other. `tried`: every point of a search, not only those of its table."""
    points = list(tried) or (search.trials if search else [])
    return (
        templates(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            run=run,
            model=model,
            report=report,
            search=search,
            tried=points,
            takes=list(_takes(report)),
            says=list(_says(report)),
            plot=Markup(plot(report, points)),
            spec=yaml.safe_dump(run.spec.manifest(), sort_keys=False, allow_unicode=True),
            versions=versions(),
            times=times,
            lower=LOWER_IS_BETTER,
        )
    )


def card(run: Compression, source: Source, model: ModelReport, report: CompressionReport, folder: Path) -> str:
    """The model card, with the front matter that model hubs read. `folder` holds the model, wherever it will lie."""
    form = report.compressed.format
    config = json.loads((folder / "config.json").read_text("utf-8"))
    own = form == "safetensors" and PRUNED in config  # no configuration of transformers tells of heads that are gone
    packages = list(dict.fromkeys((LIBRARIES[form], "transformers", *(["torch"] if form == "safetensors" else []))))
    if config.get("quantization_config") and form == "safetensors":
        packages.append("compressed-tensors")
    front = {"library_name": LIBRARIES[form], "pipeline_tag": PIPELINES[source.task], "tags": ["lmops"]}
    return (
        templates(Path(__file__).parent)
        .get_template("card.md.j2")
        .render(
            front=yaml.safe_dump(front, sort_keys=False).strip(),
            run=run,
            source=source,
            model=model,
            report=report,
            lines=[*_takes(report), *_says(report)],
            own=own,
            runtime=RUNTIMES[form],
            packages=packages,
            folder=model.uri.rsplit("/", 1)[-1],
            file=next((file.name for file in folder.glob("*") if file.suffix in (".onnx", ".pte")), ""),
        )
    )


def plot(report: CompressionReport, tried: Sequence[Trial] = ()) -> str:
    """Size, latency and quality of both models and of what a search has tried: right is slower, large is large."""
    if report.latency_ratio is None:
        return ""
    ours = Spot(report.method, report.latency_ratio, report.quality.value, 1 / report.size_ratio, "compressed")
    spots = [Spot("original", 1.0, 0.0, 1.0, "original"), ours]
    for trial in tried:
        if trial.latency_ratio is None or trial.quality is None or not trial.size_ratio or trial.outcome == "Chosen":
            continue
        spots.append(Spot(trial.method, trial.latency_ratio, trial.quality, 1 / trial.size_ratio, "tried"))
    unit = "share" if report.metric in LOWER_IS_BETTER else "points"
    title = "Size, latency and quality"
    return scatter("plot", title, spots, "latency, as a share of the original's", f"gain in {report.metric}, {unit}")


def _takes(report: CompressionReport) -> Iterator[Line]:
    one, other = report.original, report.compressed
    yield Line("runs in", RUNTIMES[one.format], RUNTIMES[other.format])
    smaller = times(report.size_ratio, "smaller")
    yield Line("weights on disk", size(one.size_bytes), size(other.size_bytes), smaller)
    fewer = times(one.parameters / max(1, other.parameters), "fewer") if one.parameters != other.parameters else ""
    yield Line("parameters", count(one.parameters), count(other.parameters), fewer)
    zeros = [1 - model.non_zero_parameters / max(1, model.parameters) for model in (one, other)]
    yield Line("of these zero", f"{zeros[0]:.1%}", f"{zeros[1]:.1%}")
    for before, after in zip(one.latency, other.latency, strict=True):
        name = f"{before.batch_size} x {before.length} tokens"
        faster = times(before.p50_milliseconds / after.p50_milliseconds, "faster")
        yield Line(f"latency, {name}", _ms(before.p50_milliseconds), _ms(after.p50_milliseconds), faster, "median")
        yield Line("", _ms(before.p95_milliseconds), _ms(after.p95_milliseconds), "", "one call in twenty takes longer")
        yield Line("rows a second", spelled(before.rows_per_second), spelled(after.rows_per_second))
    if one.load_seconds and other.load_seconds:
        sooner = times(one.load_seconds / other.load_seconds, "faster")
        told = "from an empty process to the first answer"
        yield Line("load time", f"{one.load_seconds:.2f} s", f"{other.load_seconds:.2f} s", sooner, told)
    if one.peak_memory_bytes and other.peak_memory_bytes:
        less = times(one.peak_memory_bytes / other.peak_memory_bytes, "less")
        told = "of a fresh process that loads it and answers"
        yield Line("peak memory", size(one.peak_memory_bytes), size(other.peak_memory_bytes), less, told)
    if one.joules_per_row is not None and other.joules_per_row is not None:
        less = times(one.joules_per_row / other.joules_per_row, "less") if other.joules_per_row else ""
        yield Line("energy of a row", f"{one.joules_per_row:.3g} J", f"{other.joules_per_row:.3g} J", less)


def _says(report: CompressionReport) -> Iterator[Line]:
    one, other = report.original.metrics, report.compressed.metrics
    for name in sorted({*one, *other}, key=lambda name: name != report.metric):
        leads = name == report.metric
        before, after = (figure(given[name]) if name in given else "" for given in (one, other))
        change = _interval(report.quality, "+z.4f") if leads else _change(one.get(name), other.get(name))
        less = "; less is better" if name in LOWER_IS_BETTER else ""
        yield Line(name, before, after, change, MEANINGS.get(name, "") + less, leads)
    same = _interval(report.agreement, ".4f")
    yield Line("same predictions", "", f"{report.agreement.value:.2%}", same, "share, of rows or of next tokens")


def _interval(found: Interval, form: str) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{after - before:+z.4f}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds:,.0f} ms"
