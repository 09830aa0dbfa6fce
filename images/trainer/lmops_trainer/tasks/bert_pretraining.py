"""BertPreTraining: the tokens that were hidden, and whether the second sentence follows the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lmops_trainer.tasks import Batch, Tally
from lmops_trainer.tasks.batches import IGNORED, probabilities
from lmops_trainer.tasks.masked_lm import MaskingCollator, masked_loss


class BertPreTraining:
    """The loss has two parts: over hidden tokens, and over pairs of sentences."""

    name = "BertPreTraining"
    metrics: Sequence[str] = ("loss", "maskedPerplexity", "accuracy")

    def auto_class(self) -> Any:
        """The class of `transformers` that loads such models."""
        from transformers import AutoModelForPreTraining

        return AutoModelForPreTraining

    def collator(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> MaskingCollator:
        """Pads and hides; the order of the sentences becomes `next_sentence_label`."""
        return MaskingCollator(tokenizer, seed, evaluating, multiple)

    def targets(self, batch: Batch) -> dict[str, int]:
        """Every hidden token, and every pair."""
        hidden = int((batch["labels"] != IGNORED).sum())
        return {"masked": hidden, "nextSentence": len(batch["next_sentence_label"])}

    def losses(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy of both."""
        following = outputs.seq_relationship_logits.float()
        return {
            "masked": masked_loss(outputs.prediction_logits, batch["labels"]),
            "nextSentence": cross_entropy(following, batch["next_sentence_label"], reduction="sum"),
        }

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[list[float]]]:
        """0 where the second sentence follows the first, 1 where it does not."""
        return batch["next_sentence_label"].tolist(), probabilities(outputs.seq_relationship_logits)

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """The sum of both losses, the pseudo-perplexity of a hidden token, and how often the order was told rightly."""
        from lmops_trainer.scores import language_model_scores, next_sentence_scores

        masked = language_model_scores(tally.mean("masked"), tally.targets["masked"], masked=True)
        order = next_sentence_scores(tally.labels, np.asarray(tally.probabilities).argmax(axis=1))
        return masked | order | {"loss": tally.mean("masked") + tally.mean("nextSentence")}
