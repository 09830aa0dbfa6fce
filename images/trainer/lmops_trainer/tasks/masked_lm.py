"""MaskedLM: the tokens that were hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lmops_trainer.failures import Refusal
from lmops_trainer.tasks import Batch, Tally
from lmops_trainer.tasks.batches import IGNORED, Masking, column, padded, tensors


class MaskingCollator:
    """Pads and hides tokens, anew in every epoch; for an evaluation always the same ones."""

    def __init__(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> None:
        if tokenizer.mask_token_id is None:
            raise Refusal(
                "Model",
                "NoMaskToken",
                "The tokenizer has no mask token, which a masked language model needs.",
                "Take a tokenizer of BERT's kind, or train one on the data with an architecture of that kind.",
            )
        self.masking = Masking(tokenizer, seed)
        self.pad: int = tokenizer.pad_token_id
        self.multiple = multiple
        self.evaluating = evaluating
        self.epoch = 0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        batch = padded(examples, self.pad, self.multiple)
        # -1 is no epoch of training: the tokens of an evaluation are never those of a training epoch.
        hidden = self.masking.hide(batch, column(examples, "row"), -1 if self.evaluating else self.epoch)
        if "label" in examples[0]:
            hidden["next_sentence_label"] = column(examples, "label")
        return tensors(hidden)


def masked_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross entropy of the hidden tokens."""
    if logits.device.type == "cpu":  # picking them out saves most of the work, but would make a GPU wait
        hidden = labels != IGNORED
        return cross_entropy(logits[hidden].float(), labels[hidden], reduction="sum")
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


class MaskedLM:
    """The loss has one part, over hidden tokens."""

    name = "MaskedLM"
    metrics: Sequence[str] = ("loss", "maskedPerplexity")

    def auto_class(self) -> Any:
        """The class of `transformers` that loads such models."""
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def collator(self, tokenizer: Any, seed: int, evaluating: bool, multiple: int = 1) -> MaskingCollator:
        """Pads and hides."""
        return MaskingCollator(tokenizer, seed, evaluating, multiple)

    def targets(self, batch: Batch) -> dict[str, int]:
        """Every hidden token."""
        return {"loss": int((batch["labels"] != IGNORED).sum())}

    def losses(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross entropy of the hidden tokens."""
        return {"loss": masked_loss(outputs.logits, batch["labels"])}

    def told(self, outputs: Any, batch: Batch) -> tuple[list[int], list[list[float]]]:
        """No classes."""
        return [], []

    def scores(self, tally: Tally, labels: Sequence[str]) -> dict[str, float]:
        """Loss and pseudo-perplexity of a hidden token."""
        from lmops_trainer.scores import language_model_scores

        return language_model_scores(tally.mean("loss"), tally.targets["loss"], masked=True)
