"""The report of a job as one HTML page, and the card of its model: what a person wants to see of both."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from lmops.api.run import Run
from lmops.api.status import ModelReport
from lmops.api.trainingstatus import DatasetReport, EvaluationReport
from lmops.api.wording import count
from lmops_trainer.plots import Line, Point, chart, smoothed, spelled
from lmops_trainer.scores import LOWER_IS_BETTER, leading

PIPELINES = {
    "SequenceClassification": "text-classification",
    "CausalLM": "text-generation",
    "MaskedLM": "fill-mask",
    "BertPreTraining": "fill-mask",
}
MEMORY = {"process": "memory", "accelerator": "accelerator_memory"}
MEANINGS = {
    "loss": "mean surprise, in nats",
    "perplexity": "so many tokens seemed equally likely",
    "maskedPerplexity": "so many tokens seemed equally likely for a hidden one; not comparable with perplexity",
    "accuracy": "share of rows that are right; of pairs of sentences, of their orders",
    "precision": "share of what was called a class that is, mean over classes",
    "recall": "share of a class that was found, mean over classes",
    "f1": "harmonic mean of both, mean over classes",
    "mcc": "Matthews correlation: 0 is chance, 1 is perfect",
}


@dataclass(frozen=True)
class Story:
    """All that the report and the card tell."""

    run: Run
    model: ModelReport
    evaluation: EvaluationReport
    dataset: DatasetReport
    worst: Sequence[dict[str, Any]]
    """The worst errors, worst first."""
    history: Sequence[dict[str, Any]]
    """What training logged, step by step."""
    passport: dict[str, Any]

    @property
    def metric(self) -> str:
        """The figure that decides."""
        return leading(self.run.spec.model.task, self.run.spec.evaluation.metric)


def page(story: Story) -> str:
    """The report, as one file that needs no other."""
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            story=story,
            charts=[(title, Markup(svg)) for title, svg in charts(story.history, story.metric)],
            spec=yaml.safe_dump(story.run.spec.manifest(), sort_keys=False, allow_unicode=True),
            splits=_splits(story.dataset),
            most=max((max(row) for row in story.evaluation.confusion), default=0),
            meanings=MEANINGS,
            lower=LOWER_IS_BETTER,
        )
    )


def card(story: Story) -> str:
    """The model card, with the front matter that model hubs read."""
    front = {"library_name": "transformers", "pipeline_tag": PIPELINES[story.run.spec.model.task], "tags": ["lmops"]}
    return (
        templates()
        .get_template("card.md.j2")
        .render(story=story, front=yaml.safe_dump(front, sort_keys=False).strip(), splits=_splits(story.dataset))
    )


def history(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`: without lines that were cut short, and a step that was run again only once."""
    records: dict[tuple[bool, int], dict[str, Any]] = {}
    for line in lines:
        try:
            record = json.loads(line)
            records[(_is_evaluation(record), int(record["step"]))] = record
        except (ValueError, KeyError, TypeError):
            continue
    return [record for _, record in sorted(records.items(), key=lambda item: item[0][1])]


def charts(records: Sequence[dict[str, Any]], metric: str) -> list[tuple[str, str]]:
    """The curves of a training run, by title."""

    def points(name: str, unit: float = 1.0) -> list[Point]:
        return [(record["step"], record[name] / unit) for record in records if _is_number(record.get(name))]

    losses = [Line("training", smoothed(points("loss"))), Line("validation", points("eval_loss"), marked=True)]
    memory = [Line(name, points(f"{column}_bytes", 1e9)) for name, column in MEMORY.items()]
    wanted = [
        ("Loss", losses, False),
        (f"{metric} on the validation rows", [Line(metric, points(f"eval_{metric}"), marked=True)], False),
        ("Learning rate", [Line("learning rate", points("learning_rate"))], True),
        ("Norm of the gradient", [Line("norm", smoothed(points("grad_norm")))], True),
        ("Tokens per second", [Line("tokens per second", smoothed(points("tokens_per_second")))], True),
        ("Memory, GB", memory, True),
    ]
    if metric == "loss":
        del wanted[1]
    drawn = [(title, chart(f"c{i}", title, lines, zero)) for i, (title, lines, zero) in enumerate(wanted)]
    return [(title, svg) for title, svg in drawn if svg]


@cache
def templates(*folders: Path) -> jinja2.Environment:
    """Templates of these folders and of this one, which has the style of all pages. What a page shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "size": size, "spelled": spelled, "count": count}
    return environment


def figure(value: float) -> str:
    """A metric as a table shows it."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def size(value: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_evaluation(record: dict[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in record)


def _splits(dataset: DatasetReport) -> list[tuple[str, Any]]:
    found = [(name, getattr(dataset, name)) for name in ("train", "validation", "test")]
    return [(name, split) for name, split in found if split is not None]
