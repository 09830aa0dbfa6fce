"""SequenceClassification: the class of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lmops_trainer.tasks import Batch, Collator, Tally
from lmops_trainer.tasks.batches import column, padded, probabilities, tensors


class SequenceClassification:
    """The loss has one part, over rows."""

    name = "SequenceClassification"
    metrics: Sequence[str] = ("f1", "accuracy", "precision", "recall", "mcc", "loss")

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

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[list[float]]]:
        """The class of each example, and the probability of each class."""
        return batch["labels"].tolist(), probabilities(outputs.logits)

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """Loss, accuracy, and precision, recall and F1 as macro averages, all over rows and not over their windows."""
        from lmops_trainer.scores import averaged, classification_scores

        _, first, positions = np.unique(tally.rows, return_index=True, return_inverse=True)
        told = averaged(tally.probabilities, positions, len(first))
        return classification_scores(np.asarray(tally.labels)[first], told.argmax(axis=1), told, labels)
