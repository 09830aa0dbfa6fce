"""SequenceClassification: the class of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lmops.api.dataset import Dataset
from lmops.api.trainingjob import TrainingSettings
from lmops_trainer.tasks import Batch, Collator, Tally
from lmops_trainer.tasks.batches import column, padded, tensors


class SequenceClassification:
    """The loss has one part, over rows."""

    name = "SequenceClassification"
    metrics: Sequence[str] = ("f1", "accuracy", "precision", "recall", "mcc", "loss")

    def examples(
        self,
        rows: Iterable[Any],
        tokenizer: Any,
        dataset: Dataset,
        training: TrainingSettings,
        max_length: int,
        labels: list[str],
    ) -> Iterator[dict[str, Any]]:
        """One example a row, or several windows of a long one."""
        from lmops_trainer.data.examples import classification_examples

        return classification_examples(rows, tokenizer, dataset, training, max_length, labels)

    def auto_class(self) -> Any:
        """The class of `transformers` that loads such models."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def collator(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> Collator:
        """Pads; the class becomes `labels`."""
        pad = tokenizer.pad_token_id

        def collate(examples: Sequence[Mapping[str, Any]]) -> Batch:
            batch = padded(examples, pad, multiple)
            if "label" in examples[0]:
                batch["labels"] = column(examples, "label")
            return tensors(batch)

        return collate

    def targets(self, batch: Batch) -> dict[str, int]:
        """Every row is one."""
        return {"loss": len(batch["labels"])}

    def losses(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy of the classes."""
        return {"loss": cross_entropy(outputs.logits.float(), batch["labels"], reduction="sum")}

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[int]]:
        """The class of each row, and the most probable one."""
        return batch["labels"].tolist(), outputs.logits.argmax(-1).tolist()

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """Loss, accuracy, and precision, recall and F1 as macro averages."""
        from lmops_trainer.scores import classification_scores

        return {"loss": tally.mean("loss")} | classification_scores(tally.labels, tally.predictions, None, labels)
