"""CausalLM: the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lmops_trainer.tasks import Batch, Collator, Tally
from lmops_trainer.tasks.batches import IGNORED, padded, tensors


class CausalLM:
    """The loss has one part, over tokens. Labels are shifted in the batch: that of a position is the token after it."""

    name = "CausalLM"
    metrics: Sequence[str] = ("loss", "perplexity")

    def auto_class(self) -> Any:
        """The class of `transformers` that loads such models."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def collator(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> Collator:
        """Pads on the right."""
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

        def collate(examples: Sequence[Mapping[str, Any]]) -> Batch:
            batch = padded(examples, pad, multiple)
            following = np.where(batch["attention_mask"] > 0, batch["input_ids"], IGNORED)[:, 1:]
            batch["labels"] = np.pad(following, ((0, 0), (0, 1)), constant_values=IGNORED)
            return tensors(batch)

        return collate

    def targets(self, batch: Batch) -> dict[str, int]:
        """Every token but the first of its row."""
        return {"loss": int((batch["labels"] != IGNORED).sum())}

    def losses(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy of the tokens."""
        return {"loss": cross_entropy(outputs.logits.float().flatten(0, 1), batch["labels"].flatten(), reduction="sum")}

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[list[float]]]:
        """No classes."""
        return [], []

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """Loss and perplexity of a token."""
        from lmops_trainer.scores import language_model_scores

        return language_model_scores(tally.mean("loss"), tally.targets["loss"], masked=False)
