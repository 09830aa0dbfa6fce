"""What a model can learn: one module a task, each saying how rows become examples, batches, losses and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Batch = dict[str, torch.Tensor]
Collator = Callable[[Sequence[Mapping[str, Any]]], Batch]


@dataclass
class Tally:
    """What an evaluation adds up: each part of the loss, its targets, and what was told of each example's class."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    targets: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rows: list[int] = field(default_factory=list)
    """The row that each example is a window of, where there are classes."""
    labels: list[int] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)
    """Of each class, for each example."""

    def add(self, other: Tally) -> None:
        """Takes in what another process, or another batch, has counted."""
        for part, value in other.sums.items():
            self.sums[part] += value
        for part, count in other.targets.items():
            self.targets[part] += count
        self.rows += other.rows
        self.labels += other.labels
        self.probabilities += other.probabilities

    def mean(self, part: str) -> float:
        """The mean loss of one target."""
        return self.sums[part] / self.targets[part] if self.targets[part] else float("nan")


class Task(Protocol):
    """One thing to learn. A loss has parts, each a sum over its targets, to be averaged over any split of a batch."""

    name: str
    metrics: Sequence[str]
    """The figures that can choose the best checkpoint."""

    def auto_class(self) -> Any:
        """The class of `transformers` that loads such models."""

    def collator(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> Collator:
        """Puts examples into a batch as wide as its longest, in steps of `multiple`."""

    def targets(self, batch: Batch) -> dict[str, int]:
        """How many targets each part of the loss has in this batch."""

    def losses(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The sum of each part of the loss over its targets."""

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[list[float]]]:
        """The true class of each example and the probability of each class, where there are any."""

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """The figures of an evaluation."""


def _tasks() -> dict[str, Task]:
    from lmops_trainer.tasks.bert_pretraining import BertPreTraining
    from lmops_trainer.tasks.causal_lm import CausalLM
    from lmops_trainer.tasks.masked_lm import MaskedLM
    from lmops_trainer.tasks.sequence_classification import SequenceClassification

    tasks: list[Task] = [SequenceClassification(), CausalLM(), MaskedLM(), BertPreTraining()]
    return {task.name: task for task in tasks}


TASKS = _tasks()


def metrics(task: str, labels: Sequence[str]) -> list[str]:
    """The figures of a task on data of these classes: any of them can be its metric."""
    found = TASKS[task].metrics
    return [*found, *(f"f1:{name}" for name in labels if "f1" in found)]
