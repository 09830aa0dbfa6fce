"""Both models measured: the same rows, the same threads, the same minutes, each in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from lmops.api import Compression
from lmops.api.compression import Step
from lmops.api.compressionreport import CompressionReport, Latency, ModelFigures
from lmops_compressor import bootstrap, runners
from lmops_compressor.comparison import Answers, Scored, metric_of
from lmops_compressor.machine import processor
from lmops_compressor.methods import Tell
from lmops_compressor.process import ModelProcess
from lmops_compressor.rows import Rows, scored
from lmops_compressor.source import Source
from lmops_compressor.steps import Compressed
from lmops_compressor.verdict import Figures, change, judged, sentence
from lmops_trainer import models
from lmops_trainer.endings import scratch
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log

LENGTH = 128
"""Tokens of a timed row, unless it is said or the model is given fewer."""
WARM = 3
"""Calls that are not timed, at each size."""
ENERGY = 2.0
"""Seconds over which energy is counted."""
CONFIDENCE = 0.95
TIMED = 0.4
"""The share of the time that goes into timing; the rest goes into scoring."""
Setting = tuple[int, int]
"""Rows of a call, and tokens of a row."""


@dataclass(frozen=True)
class Usage:
    """What one model takes."""

    latency: tuple[Latency, ...]
    load_seconds: float
    memory: int
    joules: float | None
    note: str
    """On energy."""


@dataclass(frozen=True)
class Measured:
    """What measuring has found."""

    report: CompressionReport
    rows: Rows
    """The rows that both models were scored on."""
    answers: Answers
    """What the compressed model says of them."""


def measured(run: Compression, source: Source, made: Compressed, method: str, tell: Tell) -> Measured:
    """Both models side by side, and the verdict. A model that dies or answers no numbers is a Refusal."""
    rows, chosen = scored(run, source), run.spec.evaluation
    timed, notes = settings(run, source), []
    if chosen.lengths is None and timed[0][1] < LENGTH:
        notes.append(f"Latency is at {timed[0][1]} tokens: the model is given no more.")
    device = "cuda" if torch.cuda.is_available() and runners.format_of(made.folder) == "safetensors" else "cpu"
    with workplace() as folder:
        told = Scored.written(rows, folder / "rows")
        with (
            started("original", source.folder, run, source, told, timed[0], device) as original,
            started("compressed", made.folder, run, source, told, timed[0], device) as compressed,
        ):
            used = usage(original, compressed, timed, chosen.repeats, lambda share: tell(TIMED * share))
            counted, gpu = original.ask("count"), original.ask("device")["name"]
            said = told.by_both(original, compressed, lambda share: tell(TIMED + (1 - TIMED) * share))
    weights = (counted["parameters"], counted["non_zero"]), (made.parameters, made.non_zero)
    folders = source.folder, made.folder
    notes += [f"Both models ran on one {gpu}, and memory is its memory."] if gpu else []
    notes += [note for note in dict.fromkeys((*made.notes, *(one.note for one in used))) if note]
    notes += [rows.note] if rows.note else []
    if rows.name == "validation":
        notes.append("There were no test rows: these rows also chose the checkpoint of the original.")
    models_ = [_figures(*each) for each in zip(folders, weights, used, said, strict=True)]
    return Measured(_reported(run, source, made, method, told, said, models_, notes), rows, said[1])


def settings(run: Compression, source: Source) -> list[Setting]:
    """The calls that are timed. A length that was not asked for is never longer than what the model is given."""
    chosen = run.spec.evaluation
    most, why = _most(run, source)
    lengths = chosen.lengths or [min(LENGTH, source.max_length)]
    if most and max(lengths) > most:
        raise Refusal(
            "Settings",
            "LengthTooLong",
            f"evaluation.lengths: {max(lengths)} tokens are more than the {most} that {why}.",
            f"Ask for {most} at most.",
        )
    return [(size, length) for size in chosen.batch_sizes for length in lengths]


def _most(run: Compression, source: Source) -> tuple[int | None, str]:
    """The longest row that both models can read, and why."""
    if run.spec.steps and any(step.quantize and step.quantize.method == "Mobile" for step in run.spec.steps):
        return source.max_length, "a program for phones is made for, as the model's own job cut its rows"
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=source.trust_remote_code)
    return models.window(config), "the model has room for"


def threads(run: Compression) -> int:
    """Of both models."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return run.spec.evaluation.threads or (int(told) if told.isdigit() and int(told) else 1)


def device_of(steps: Iterable[Step]) -> str:
    """Where a model and what these steps make of it are measured: on a GPU if there is one and both can run there."""
    on_processor = any(step.quantize and step.quantize.method != "FP8" for step in steps)
    return "cuda" if torch.cuda.is_available() and not on_processor else "cpu"


def started(
    name: str, folder: Path, run: Compression, source: Source, told: Scored, first: Setting, device: str = "cpu"
) -> ModelProcess:  # fmt: skip
    """The process of a model."""
    return ModelProcess(name, folder, source.task, threads(run), told.batches, first, source.trust_remote_code, device)


def usage(
    original: ModelProcess, compressed: ModelProcess, timed: list[Setting], repeats: int, tell: Tell
) -> tuple[Usage, Usage]:
    """What both take. Memory is that of loading and of these calls alone: scoring would add scores of its own."""
    both, latencies = (original, compressed), []
    for number, setting in enumerate(timed):
        latencies.append(latency(both, setting, repeats))
        tell((number + 1) / len(timed))
    memory = [process.ask("memory")["bytes"] for process in both]
    size, length = timed[0]
    energy = [process.ask("energy", batch_size=size, length=length, seconds=ENERGY) for process in both]
    first, second = (
        Usage(
            tuple(pair[i] for pair in latencies),
            both[i].load_seconds,
            memory[i],
            energy[i]["joules"],
            energy[i]["note"],
        )
        for i in range(2)
    )
    return first, second


def latency(processes: Sequence[ModelProcess], setting: Setting, repeats: int) -> list[Latency]:
    """All in turn, there and back again, so that what else the machine does falls on each of them alike."""
    size, length = setting
    seconds: dict[ModelProcess, list[float]] = {process: [] for process in processes}
    for process in seconds:
        process.ask("time", batch_size=size, length=length, calls=WARM)
    for turn in range(repeats):
        for process in processes if turn % 2 == 0 else reversed(processes):
            seconds[process] += process.ask("time", batch_size=size, length=length)["seconds"]
    return [_latency(setting, taken) for taken in seconds.values()]


def ratio(compressed: float | None, original: float | None) -> float | None:
    """The compressed model's figure as a share of the original's, to four digits; None where there is none."""
    return round(compressed / original, 4) if compressed and original else None


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder of scratch for what the processes share."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        yield Path(folder)


def _latency(setting: Setting, seconds: list[float]) -> Latency:
    half, most = np.percentile(seconds, [50, 95])
    return Latency(
        batch_size=setting[0],
        length=setting[1],
        p50_milliseconds=round(1e3 * float(half), 4),
        p95_milliseconds=round(1e3 * float(most), 4),
        rows_per_second=round(setting[0] / float(half), 2),
    )


def _figures(folder: Path, weights: tuple[int, int], used: Usage, said: Answers) -> ModelFigures:
    """Without the metrics, which need a task and names."""
    return ModelFigures(
        format=runners.format_of(folder),
        size_bytes=runners.weights(folder),
        parameters=weights[0],
        non_zero_parameters=weights[1],
        latency=list(used.latency),
        load_seconds=round(used.load_seconds, 3),
        peak_memory_bytes=used.memory,
        joules_per_row=used.joules,
    )


def _reported(
    run: Compression,
    source: Source,
    made: Compressed,
    method: str,
    told: Scored,
    said: tuple[Answers, Answers],
    measured: list[ModelFigures],
    notes: list[str],
) -> CompressionReport:
    if not said[0].targets.sum():
        raise nothing_to_tell(told)
    accept = run.spec.accept
    confidence = (accept.confidence if accept else None) or CONFIDENCE
    every = [answers.figures(source.task, source.labels) for answers in said]
    metric = metric_of(run, source)
    values = every[0][metric], every[1][metric]
    log.info("%s of the original %.6g, of the compressed model %.6g", metric, *values)
    original, compressed = (
        model.model_copy(update={"metrics": _short(figures, metric)})
        for model, figures in zip(measured, every, strict=True)
    )
    compressed.metrics["klDivergence"] = round(said[1].mean_divergence, 6)
    figures = Figures(
        size_ratio=round(original.size_bytes / compressed.size_bytes, 4),
        latency_ratio=ratio(compressed.latency[0].p50_milliseconds, original.latency[0].p50_milliseconds),
        memory_ratio=ratio(compressed.peak_memory_bytes, original.peak_memory_bytes),
        quality=bootstrap.difference(metric, *said, values, source.labels, confidence),
        agreement=bootstrap.agreement(*said, confidence),
    )
    search = run.spec.search  # its limits chose on other rows: they hold on these, or were a promise
    verdict, checks = judged([some for some in (accept, search and search.limits) if some], figures, metric)
    return CompressionReport(
        method=method,
        changes=list(made.changes),
        split=told.rows.name,
        rows=told.count,
        threads=threads(run),
        processor=processor(),
        metric=metric,
        original=original,
        compressed=compressed,
        **vars(figures),
        confidence=confidence,
        verdict=verdict,
        checks=checks,
        change=change(metric, *values),
        notes=notes,
        sentence=sentence(figures, metric, values, f"{told.count:,} {told.rows.name} rows", verdict, checks),
    )


def nothing_to_tell(told: Scored) -> Refusal:
    """Rows of one token have no next one."""
    return Refusal(
        "Data",
        "NothingToScore",
        f"The {told.rows.name} rows hold nothing that the model could tell: they are too few or too short.",
        "Name longer rows in evaluation.from.",
    )


def _short(figures: dict[str, float], metric: str) -> dict[str, float]:
    """As a TrainingJob reports them: six digits, and of single classes the one that is the metric."""
    kept = {name: value for name, value in figures.items() if not name.startswith("f1:") or name == metric}
    return {name: round(value, 6) for name, value in kept.items()}
