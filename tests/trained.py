"""Jobs whose weights wait to be evaluated, and models that were published, as the trainer's tests like to say them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmops.api import Result, Run
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.endings import job_folder
from lmops_trainer.evaluate import evaluate
from lmops_trainer.models import start
from lmops_trainer.prepare import prepare
from lmops_trainer.progress import Progress
from lmops_trainer.uris import path
from volumes import Volume

BERT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 16, "initializer_range": "0.5",
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "initializer_range": "0.5"}
TRAIN = {"uri": "pvc://data/rows.csv"}
SILENT = Progress()


def reviews(count: int = 60) -> str:
    """A csv of short reviews; a word tells the class."""
    said = [("good", "very bright"), ("bad", "not so dull")]
    lines = [
        f'"the film {number} was {"so " * (number % 5)}{said[number % 2][0]} {said[number % 2][1]}",{number % 2}'
        for number in range(count)
    ]
    return "\n".join(["text,label", *lines])


def documents(count: int = 12) -> str:
    """Documents of three sentences, one a line."""
    return "\n\n".join(
        f"The film is good.\nIt was long.\nThe act {number} was not so bright." for number in range(count)
    )


def trained(
    volume: Volume,
    task: str = "SequenceClassification",
    train: dict[str, Any] | None = None,
    architecture: str = "bert",
    **spec: Any,
) -> Run:
    """A run of the stage evaluate: the data is prepared, and the weights are as random as they were at the start."""
    config = GPT2 if architecture == "gpt2" else BERT
    trainer = {"train": {"vocabularySize": 300}} if architecture == "gpt2" else {"uri": volume.bert()}
    if train is None:
        volume.write("rows.csv", reviews())
    dataset = {"train": train or TRAIN, **spec.pop("dataset", {"test": {"fraction": 0.2}})}
    document = {
        "model": {
            "from": {"architecture": {"name": architecture, "config": config}},
            "tokenizer": trainer,
            "task": task,
        },
        "dataset": dataset,
        "output": {"uri": "pvc://data/models"},
        **spec,
    }
    run = Run.model_validate({"spec": document, "run": {"job": "reviews", "uid": "u-1", "stage": "evaluate"}})
    report = prepare(run, SILENT).dataset
    assert report is not None
    prepared = Prepared.open(path(report.uri))
    run = run.model_copy(update={"resolved": run.resolved.model_copy(update={"dataset": report})})
    folder = job_folder(run) / ("last" if run.spec.output.keep == "Last" else "best")
    start(run.spec.model, prepared.tokenizer(), prepared.labels, seed=1).save_pretrained(folder)
    prepared.tokenizer().save_pretrained(folder)
    (folder / "best.json").write_text(json.dumps({"step": 20, "metric": "f1", "value": 0.5}))
    logged = [{"step": 10, "loss": 0.7, "learning_rate": 1e-4}, {"step": 20, "loss": 0.6}, {"step": 20, "eval_f1": 0.5}]
    (job_folder(run) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    return run


def published(volume: Volume, task: str = "SequenceClassification", **job: Any) -> Path:
    """The folder of a published model."""
    return folder(evaluate(trained(volume, task, **job), SILENT))


def folder(result: Result) -> Path:
    """Where the result's model was published."""
    assert result.model is not None
    return path(result.model.uri)
