"""Models to compress, changed copies of them, and runs that compress, as the measurement's tests like to say them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lmops.api import Compression
from lmops.api.compressionreport import CompressionReport
from lmops.api.trainingstatus import EvaluationReport
from lmops_compressor.measure import measured
from lmops_compressor.source import Source
from lmops_compressor.steps import Compressed
from lmops_trainer.evaluate import evaluate
from trained import SILENT, documents, trained
from volumes import Volume

TASKS = ("SequenceClassification", "CausalLM", "MaskedLM")
PRUNED = [{"prune": {"method": "Magnitude"}}]
QUICK = {"repeats": 5, "lengths": [8]}
Change = Callable[[torch.nn.Module], None]


class Models:
    """Published models, each made once, and copies of them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.volume, self._copies = Volume(root, monkeypatch), 0
        self.of = cache(self._published)

    def _published(
        self, task: str = "SequenceClassification", metric: str | None = None
    ) -> tuple[str, EvaluationReport]:
        """The URI of a model of ours, and what its TrainingJob reported."""
        job: dict[str, Any] = {"output": {"uri": f"pvc://data/{task}-{metric}".lower()}}
        if task != "SequenceClassification":
            job["train"] = {"uri": self.volume.write("rows.txt", documents(120)), "format": "text"}
        if metric:
            job["evaluation"] = {"metric": metric}
        architecture = "gpt2" if task == "CausalLM" else "bert"
        result = evaluate(trained(self.volume, task, architecture=architecture, **job), SILENT)
        assert result.model
        assert result.evaluation
        return result.model.uri, result.evaluation

    def copy(self, source: Source, change: Change = lambda _: None) -> Compressed:
        """A copy of the model, changed."""
        self._copies += 1
        return made(source, self.volume.root / f"copy-{self._copies}", change)

    def measured(self, uri: str, change: Change = lambda _: None, **spec: Any) -> CompressionReport:
        """The report on a changed copy."""
        job = run(uri, **spec)
        source = Source.open(job)
        return measured(job, source, self.copy(source, change), "Half", lambda _: None).report


def run(uri: str, evaluation: dict[str, Any] | None = None, **spec: Any) -> Compression:
    """A run of the stage compress."""
    what = {} if "search" in spec else {"steps": PRUNED}
    document = {
        "model": {"from": {"uri": uri}},
        "evaluation": QUICK | (evaluation or {}),
        "output": {"uri": "pvc://data/small"},
        **what,
        **spec,
    }
    identity = {"job": "smaller", "uid": "q-1", "stage": "compress"}
    return Compression.model_validate({"spec": document, "run": identity, "source": {"uri": uri}})


def made(source: Source, target: Path, change: Change = lambda _: None) -> Compressed:
    """A copy of the model, changed, in a folder."""
    model = source.model()
    with torch.no_grad():
        change(model)
    model.save_pretrained(target)
    counts = [(weight.numel(), int(weight.count_nonzero())) for weight in model.parameters()]
    return Compressed(target, (), sum(size for size, _ in counts), sum(left for _, left in counts))


def halved(model: torch.nn.Module) -> None:
    """Sets the smaller half of every matrix of the encoder to zero."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
            weight[weight.abs() <= weight.abs().median()] = 0


def shaken(strength: float) -> Change:
    """Adds noise to all weights."""

    def shake(model: torch.nn.Module) -> None:
        torch.manual_seed(5)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * strength)

    return shake
