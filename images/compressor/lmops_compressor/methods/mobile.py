"""Mobile: an int8 program of ExecuTorch, which a phone runs with XNNPACK and no Python.

Weights are int8 by output channel, embeddings uint8 by row, and the input of each layer is quantized as it comes (PT2E,
`XNNPACKQuantizer`): no range is fixed beforehand, so that the rows only serve to try the written program. Ranges fixed
by 64 calibration rows are further from the model: on 200 reviews, a BERT of six layers was off by a KL divergence of
0.0013 with this, of 0.011 with static ranges for its linear layers, and of 0.046 with static ranges throughout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor import program
from lmops_compressor.linearize import linearize
from lmops_compressor.methods import Subject, Tell, quantizable, unchanged
from lmops_compressor.rows import Draw, Rows
from lmops_compressor.runners import Array
from lmops_compressor.runners.executorch import INPUTS, ExecutorchRunner
from lmops_trainer import models
from lmops_trainer.failures import Refusal
from lmops_trainer.log import log

FILE = "model.pte"
TRIED = 8
"""Rows that the written program is run on."""
APART = 0.3
"""How far its scores may be from those of its graph, as a share of how far these are from each other."""


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Writes `model.pte`, and runs it; the model itself is changed too."""
    step = f"{how.method} {how.weight_bits:g} bit"
    chosen, rows = _chosen(subject, how), draw()
    linearize(subject.model)
    names = [name for name in INPUTS if name in models.inputs(subject.model)]
    traced = program.traced(subject.model, len(names), subject.source.max_length)
    tell(0.1)
    graph = program.quantized(traced, chosen)
    found = program.counted(graph)
    if found.linears != len(chosen) or found.embeddings != found.tables:
        raise unchanged(step, len(chosen) + found.tables, found.linears + found.embeddings)
    tell(0.2)
    lowered = program.lowered(graph, len(names), subject.source.max_length)
    if lowered.left:
        raise unchanged(f"{step} for XNNPACK", len(chosen), max(0, len(chosen) - lowered.left))
    tell(0.9)
    (target / FILE).write_bytes(lowered.content)
    _tried(graph, names, rows.first(TRIED), target)
    return Change(
        step=step,
        layers=found.linears + found.embeddings,
        detail=f"int8 weights in {found.linears} linear layers and {found.embeddings} embeddings; "
        f"XNNPACK runs {lowered.delegated} of {lowered.operations} operations",
    )


def _chosen(subject: Subject, how: Quantize) -> set[str]:
    """The layers that become int8: those of the encoder or decoder, and a language model's output.

    A classifier and a pooler are a hundredth of the weights and stay as they are.
    """
    head = subject.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    heads = {name for name, module in subject.model.named_modules() if head is not None and module is head}
    return set(quantizable(subject.model, how)) | heads


@torch.inference_mode()
def _tried(graph: torch.fx.GraphModule, names: list[str], rows: Rows, target: Path) -> None:
    """Opens the written program, and runs it on rows; what it says is what its graph says."""
    runner, said, meant = ExecutorchRunner(target, 1), [], []
    for example in rows.examples:
        [(_, batch)] = Rows(rows.name, rows.task, (example,), rows.collator).batches()
        given = {name: batch.get(name, torch.zeros_like(batch["input_ids"])) for name in names}
        meant.append(graph(*given.values()).flatten(0, -2).numpy())
        scores = runner.logits({name: values.numpy() for name, values in given.items()})
        said.append(scores.reshape(-1, scores.shape[-1]))
    apart = _apart(np.concatenate(said), np.concatenate(meant))
    log.info("the program beside its graph: %.3f apart on %d rows", apart, len(rows))
    if not apart <= APART:
        raise Refusal(
            "Model",
            "ProgramWrong",
            f"The ExecuTorch program runs, but says something other than the model: it is off by {apart:.0%} on "
            f"{len(rows)} rows.",
            "Take another method for this architecture.",
        )


def _apart(said: Array, meant: Array) -> float:
    """The error of scores ([answers, scores each]) as a share of their spread about what is common to all answers.

    Of a model that says nearly the same to everything a twentieth of what it says counts as spread.
    """
    common = meant.mean(0) if len(meant) > 1 else meant.mean()
    spread = max(np.linalg.norm(meant - common), np.linalg.norm(meant) / 20)
    return float(np.linalg.norm(said - meant) / spread)
