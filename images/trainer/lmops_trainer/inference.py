"""Forward passes over many examples: those of like length together, within bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lmops_trainer.models import inputs, load

Array = np.ndarray[Any, Any]
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

TOKENS = {"cpu": 4_096, "cuda": 32_768}
"""Padded tokens of one batch, by device."""
LOGITS = 2**26
"""The most scores over a vocabulary that one batch makes: 256 MiB of them."""


def loaded(folder: Path, task: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A trained model, on the accelerator where there is one, without dropout."""
    model = load(folder, task, trust_remote_code=trust_remote_code)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type, no-any-return]


def batch_tokens(model: PreTrainedModel, over_vocabulary: bool) -> int:
    """How many padded tokens the model takes at a time."""
    most = TOKENS.get(model.device.type, TOKENS["cpu"])
    return max(1, min(most, LOGITS // model.config.vocab_size)) if over_vocabulary else most


def batches(lengths: Sequence[int] | Array, tokens: int) -> Iterator[list[int]]:
    """Positions by length, the longest first, as many together as fit; a longer one stands alone.

    What does not fit the memory then fails at once, and not after an hour.
    """
    batch: list[int] = []
    longest = 0
    for position in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if batch and (len(batch) + 1) * longest > tokens:
            yield batch
            batch = []
        longest = longest if batch else int(lengths[position])
        batch.append(position)
    if batch:
        yield batch


@dataclass(frozen=True)
class Pass:
    """One batch through the model."""

    chosen: list[int]
    """The positions of its examples."""
    batch: dict[str, torch.Tensor]
    logits: torch.Tensor
    following: torch.Tensor | None
    """Scores of whether the second sentence follows the first."""
    hidden: torch.Tensor
    """The last hidden state."""


@torch.inference_mode()
def passes(
    model: PreTrainedModel,
    lengths: Sequence[int] | Array,
    examples: Callable[[list[int]], list[dict[str, Any]]],
    collator: Collator,
    over_vocabulary: bool = False,
) -> Iterator[Pass]:
    """The model's outputs, batch by batch. `examples` fetches those at some positions.

    Labels stay out of the model: the loss is ours to count by row.
    """
    hidden: list[torch.Tensor] = []  # of the last layer alone: to ask for hidden states is to keep those of all layers
    hook = model.base_model.register_forward_hook(lambda _, __, output: hidden.append(output[0]))
    try:
        for chosen in batches(lengths, batch_tokens(model, over_vocabulary)):
            batch = collator(examples(chosen))
            outputs = model(**{name: batch[name].to(model.device) for name in inputs(model) if name in batch})
            scores = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]
            yield Pass(chosen, batch, scores, outputs.get("seq_relationship_logits"), hidden.pop())
    finally:
        hook.remove()


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> Array:
    """The mean of the last hidden state over each example's own tokens."""
    weights = mask.to(hidden.device, torch.float32).unsqueeze(-1)
    mean = (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return mean.double().cpu().numpy()


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[Array, Array]:
    """The summed loss of each example and the tokens it is over. Only labelled positions are looked at."""
    labels = labels.to(logits.device)
    where = labels != -100
    losses = torch.nn.functional.cross_entropy(logits[where].float(), labels[where].long(), reduction="none")
    totals = torch.zeros(len(labels), dtype=torch.float64, device="cpu")
    totals.index_add_(0, where.nonzero()[:, 0].cpu(), losses.double().cpu())
    return totals.numpy(), where.sum(dim=1).cpu().numpy()
