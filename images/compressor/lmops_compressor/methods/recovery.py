"""A short fine-tune after pruning, in which every weight that is zero stays exactly zero."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from statistics import fmean

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lmops.api.compression import Recovery
from lmops_compressor import methods
from lmops_compressor.methods import Subject, Tell
from lmops_compressor.methods.masks import matrix
from lmops_compressor.rows import LANGUAGE, TOKENS, Rows
from lmops_trainer.failures import Refusal
from lmops_trainer.inference import batches
from lmops_trainer.log import log
from lmops_trainer.models import inputs
from lmops_trainer.tasks import TASKS, Batch

CLIPPED = 1.0
"""The largest norm of a step's gradient."""
DECAY = 0.01
"""Weight decay of matrices; biases and norms have none."""


def recover(subject: Subject, how: Recovery, rows: Rows, seed: int, tell: Tell) -> list[float]:
    """Trains the model in place by its task's own loss, with AdamW; the learning rate falls linearly to zero.

    Returns the mean loss of a target, step by step. The same seed, rows and threads give the same weights.
    """
    model = subject.model
    kept = {layer: matrix(layer) != 0 for layer in methods.layers(model, []).values()}
    optimizer = _optimizer(model, how.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / how.steps)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        for batch in islice(_drawn(subject, rows, how.batch_size, seed), how.steps):
            losses.append(_backward(subject, batch))
            _finite(losses)
            nn.utils.clip_grad_norm_(model.parameters(), CLIPPED)
            optimizer.step()
            optimizer.zero_grad()
            falling.step()
            for layer, mask in kept.items():
                matrix(layer).mul_(mask)
            tell(len(losses) / how.steps)
    model.eval()  # type: ignore[no-untyped-call]
    some = max(1, how.steps // 10)
    log.info("recovery: loss %.4f, and %.4f after %d steps", fmean(losses[:some]), fmean(losses[-some:]), how.steps)
    return losses


def _optimizer(model: PreTrainedModel, rate: float) -> torch.optim.Optimizer:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.dim() > 1], "weight_decay": DECAY},
        {"params": [weight for weight in trained if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate)


def _drawn(subject: Subject, rows: Rows, size: int, seed: int) -> Iterator[list[Batch]]:
    """Batches without end, each in parts that fit the memory: the rows in a new order in each epoch."""
    task = TASKS[rows.task]
    collator = task.collator(subject.source.tokenizer(), seed, evaluating=False)
    most = TOKENS if rows.task == "SequenceClassification" else LANGUAGE
    order = (i for epoch in count() for i in np.random.default_rng([seed, epoch]).permutation(len(rows)).tolist())
    for step in count():
        examples = [rows.examples[i] for i in islice(order, min(size, len(rows)))]
        if hasattr(collator, "epoch"):  # which tokens are hidden is drawn anew
            collator.epoch = step * len(examples) // len(rows)
        parts = batches([len(example["input_ids"]) for example in examples], most)
        yield [collator([examples[i] for i in part]) for part in parts]


def _backward(subject: Subject, batch: list[Batch]) -> float:
    """Adds up the gradients of the mean loss of a batch; returns that loss."""
    model, task = subject.model, TASKS[subject.source.task]
    targets = max(1, sum(sum(task.targets(part).values()) for part in batch))
    whole = 0.0
    for part in batch:
        part = {name: values.to(model.device) for name, values in part.items()}
        outputs = model(**{name: part[name] for name in inputs(model) if name in part})
        loss = torch.stack([*task.losses(outputs, part).values()]).sum() / targets
        loss.backward()  # type: ignore[no-untyped-call]
        whole += loss.item()
    return whole


def _finite(losses: list[float]) -> None:
    if not math.isfinite(losses[-1]):
        evidence = [f"step {step + 1} loss {loss:.3g}" for step, loss in enumerate(losses)][-6:]
        what = "NaN" if math.isnan(losses[-1]) else "infinite"
        raise Refusal(
            "Diverged",
            "LossNotFinite",
            f"The loss of the recovery became {what} at step {len(losses)}.",
            "Lower recovery.learningRate.",
            evidence,
        )
