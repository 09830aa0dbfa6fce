"""The stage evaluate: the best weights on the test rows, beside a linear model on the same; then they are published.

By hand: `LMOPS_VOLUMES=folder python -m lmops_trainer evaluate "$(cat run.json)"`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmops.api.run import Result, Run
from lmops.api.status import ModelReport
from lmops.api.trainingstatus import EvaluationReport
from lmops_trainer import baseline, drift, publish, report, uris
from lmops_trainer.checkpoints import recover
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.endings import job_folder, scratch
from lmops_trainer.failures import Refusal
from lmops_trainer.inference import loaded
from lmops_trainer.log import log, quiet_libraries
from lmops_trainer.progress import Progress
from lmops_trainer.scores import class_reports, classification_scores, confusion, is_better, leading
from lmops_trainer.scoring import Scored, classified, foretold

BEST = "best.json"
"""The last file that training writes into a folder of weights."""
CLASSES = 64
"""The most classes that a report lists one by one."""
WORST = 10
SHOWN = 400
"""How much of a text the report shows."""


def evaluate(run: Run, progress: Progress) -> Result:
    """Scores, compares, publishes; what was published before is left as it is, so that a second try does no harm."""
    weights, chosen = _weights(run)
    prepared = _prepared(run)
    split = "test" if prepared.has("test") else "validation"
    progress.post(0)
    scored, parameters = _scored(run, prepared, split, weights, progress)
    progress.post(80)
    linear = _linear(run, prepared, split, scored)
    progress.post(90)
    evaluation = assessed(run, prepared, split, scored, linear)
    log.info("%s", evaluation.verdict)
    model = _published(run, prepared, weights, chosen, scored, evaluation, parameters)
    progress.post(100, **{f"eval_{name}": value for name, value in evaluation.metrics.items()})
    return Result(model=model, evaluation=evaluation)


def assessed(run: Run, prepared: Prepared, split: str, scored: Scored, linear: Mapping[str, float]) -> EvaluationReport:
    """The figures, and in a sentence what they say."""
    metric = leading(run.spec.model.task, run.spec.evaluation.metric)
    rows = prepared.rows(split).num_rows
    beats = is_better(metric, scored.metrics[metric], linear[metric]) if linear else None
    names = prepared.labels
    told = scored.told if len(names) <= CLASSES else None
    return EvaluationReport(
        split="test" if split == "test" else "validation",
        rows=rows,
        metrics=_reported(scored.metrics, metric),
        classes=class_reports(told.labels, told.predictions, names) if told else {},
        confusion=confusion(told.labels, told.predictions, names) if told else [],
        baseline=_reported(linear, metric),
        beats_baseline=beats,
        verdict=verdict(metric, scored.metrics[metric], linear.get(metric), rows, split),
    )


def verdict(metric: str, value: float, linear: float | None, rows: int, split: str) -> str:
    """What a reader should take home."""
    where = f"{rows:,} {split} rows" + ("" if split == "test" else ", which also chose the checkpoint,")
    if linear is None:
        return f"{metric} {_spelled(value)} on {where.rstrip(',')}"
    beats = is_better(metric, value, linear)
    digits = 3 if f"{value:.3f}" != f"{linear:.3f}" or value == linear else 5
    claim = "beats" if beats else "does not beat"
    return f"{metric} {value:.{digits}f} on {where} {claim} the linear baseline's {linear:.{digits}f}"


def worst(scored: Scored) -> list[dict[str, Any]]:
    """The wrong predictions that the model was surest of; for a language model the texts that surprised it most."""
    table = scored.predictions
    if "prediction" in table.column_names:
        names = [name for name in table.column_names if not name.startswith("probability:")]
        table = table.select(names).filter(pa.compute.not_equal(table["prediction"], table["label"]))
        found = table.sort_by([("confidence", "descending")])
    else:
        enough = max(1, int(np.median(table["tokens"].to_numpy()) // 2))  # a text of one hard token says little
        found = table.filter(pa.compute.greater_equal(table["tokens"], enough)).sort_by([("loss", "descending")])
    return [
        {name: _shown(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in found.slice(0, WORST).to_pylist()
    ]


def pictured(prepared: Prepared, split: str, scored: Scored) -> drift.Baseline:
    """The picture of the rows that live traffic will be held against."""
    rows = prepared.rows(split)
    if scored.seen is None or scored.told is None:
        seen = drift.texts(prepared.tokenizer(), rows["text"].to_pylist(), prepared.max_length)
        return drift.baseline(seen, split, rows.num_rows)
    told = scored.told
    return drift.baseline(scored.seen, split, rows.num_rows, prepared.labels, told.labels, told.probabilities)


def _weights(run: Run) -> tuple[Path, dict[str, Any]]:
    """The folder of the weights to publish, and how they were chosen."""
    name = "last" if run.spec.output.keep == "Last" else "best"
    folder = job_folder(run) / name
    recover(folder, BEST)
    marker = folder / BEST
    if not marker.is_file():
        raise Refusal(
            "Model",
            "WeightsMissing",
            f"There are no finished weights in {folder}: {marker.name} is not there.",
            "Run the train stage to its end; it writes them.",
        )
    return folder, json.loads(marker.read_text("utf-8"))


def _prepared(run: Run) -> Prepared:
    if run.resolved.dataset is None:
        raise Refusal(
            "Settings",
            "DatasetUnresolved",
            "The document does not say where the prepared data lies: resolved.dataset is not set.",
            "Put the dataset of the prepare stage's result there.",
        )
    return Prepared.open(uris.path(run.resolved.dataset.uri))


def _scored(run: Run, prepared: Prepared, split: str, weights: Path, progress: Progress) -> tuple[Scored, int]:
    from lmops_trainer.tasks import TASKS

    quiet_libraries()
    name = run.spec.model.task
    tokenizer = prepared.tokenizer()
    model = loaded(weights, name, run.spec.model.trust_remote_code)
    collator = TASKS[name].collator(tokenizer, run.spec.training.seed, evaluating=True)
    examples = prepared.examples(split)

    def told(share: float) -> None:
        progress.post(80 * share)

    if name == "SequenceClassification":
        rows = prepared.rows(split)
        scored = classified(model, tokenizer, examples, rows, prepared.labels, collator, told)
    else:
        scored = foretold(model, tokenizer, examples, collator, told, masked=name != "CausalLM")
    return scored, model.num_parameters()


def _linear(run: Run, prepared: Prepared, split: str, scored: Scored) -> dict[str, float]:
    """The figures of the linear model, for tasks that have classes."""
    if scored.told is None:
        return {}
    names = {name: i for i, name in enumerate(prepared.labels)}
    train = prepared.rows("train")
    labels = np.asarray([names[label] for label in train["label"].to_pylist()])
    probabilities = baseline.linear(
        _texts(train), labels, _texts(prepared.rows(split)), len(names), run.spec.training.seed
    )
    return classification_scores(scored.told.labels, probabilities.argmax(axis=1), probabilities, prepared.labels)


def _published(
    run: Run,
    prepared: Prepared,
    weights: Path,
    chosen: Mapping[str, Any],
    scored: Scored,
    evaluation: EvaluationReport,
    parameters: int,
) -> ModelReport:
    """Puts the model and all that belongs beside it into its folder."""
    found = publish.fingerprint(weights)
    output = run.spec.output.uri.rstrip("/")
    model = ModelReport(
        uri=f"{output}/{found.short}", digest=found.digest, size_bytes=found.size, parameters=parameters
    )
    rows = prepared.rows(evaluation.split)
    sample = baseline.sample(rows, run.spec.training.seed)
    passport = publish.passport(run, model, found.files, prepared, evaluation, chosen, sample)
    story = report.Story(run, model, evaluation, prepared.report, worst(scored), _history(run), passport)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        predictions = Path(folder) / "predictions.parquet"
        pq.write_table(scored.predictions, predictions, compression="zstd")
        beside: dict[str, str | Path] = {
            "README.md": report.card(story),
            "report.html": report.page(story),
            drift.NAME: pictured(prepared, evaluation.split, scored).written(),
            "predictions.parquet": predictions,
        }
        logged = (job_folder(run) / name for name in ("metrics.jsonl", "train.log"))
        beside |= {file.name: file for file in logged if file.is_file()}
        publish.publish(found, uris.path(output), f"{run.run.uid}-{run.run.attempt}", passport, beside)
    log.info("published %s, %s", model.uri, model.digest)
    return model


def _history(run: Run) -> list[dict[str, Any]]:
    """What training logged; a line that was cut short says nothing."""
    file = job_folder(run) / "metrics.jsonl"
    return report.history(file.read_text("utf-8").splitlines()) if file.is_file() else []


def _texts(rows: pa.Table) -> list[tuple[str, str | None]]:
    return list(zip(rows["text"].to_pylist(), rows["pair"].to_pylist(), strict=True))


def _reported(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """What the status has room for: the figures of single classes have their own place there."""
    kept = {name: value for name, value in metrics.items() if not name.startswith("f1:") or name == metric}
    return {name: round(value, 6) for name, value in kept.items()}


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _spelled(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
