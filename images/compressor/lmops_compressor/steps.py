"""The steps of a compression, done in order to a model of their own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lmops.api import Compression
from lmops.api.compression import Step
from lmops.api.compressionreport import Change
from lmops_compressor import methods, rows
from lmops_compressor.methods import Subject, Tell, part
from lmops_compressor.rows import Draw, Learn, Rows
from lmops_compressor.runners.torch import weights
from lmops_compressor.source import Source
from lmops_trainer import files
from lmops_trainer.log import log


@dataclass(frozen=True)
class Compressed:
    """A compressed model in a folder of scratch."""

    folder: Path
    changes: tuple[Change, ...]
    parameters: int
    """Of the model after pruning, whatever the bits."""
    non_zero: int
    notes: tuple[str, ...] = ()
    """What a reader of its figures has to know."""


def applied(
    run: Compression,
    source: Source,
    steps: Sequence[Step],
    draw: Draw,
    target: Path,
    tell: Tell,
    learn: Learn | None = None,
) -> Compressed:
    """The steps, in order, on a model of their own; the result in `target`, which is made anew.

    Whoever does this again and again gives a `learn` that remembers its rows.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    subject = Subject(source, source.model())
    if torch.cuda.is_available() and any(step.prune for step in steps):
        subject.model.to("cuda")  # type: ignore[arg-type]
    changes, is_written, counted, notes = [], False, (0, 0), list[str]()

    def shown() -> Rows:
        found = draw()
        notes.append(found.note)
        return found

    for number, step in enumerate(steps):
        log.info("%s", step.words)
        told = part(tell, number / len(steps), (number + 1) / len(steps))
        if step.prune:
            recovery, pruned = step.prune.recovery, part(told, 0, 0.5 if step.prune.recovery else 1)
            changes.append(methods.pruner(step.prune.method).prune(subject, step.prune, shown, pruned))
            if recovery:
                from lmops_compressor.methods.recovery import recover

                learned = (learn or partial(rows.training, run, source))(recovery.steps * recovery.batch_size)
                recover(subject, recovery, learned, run.spec.calibration.seed, part(told, 0.5, 1))
        counted = weights(subject.model)
        if step.quantize:
            subject.model.cpu()  # what is written is made there
            method = methods.quantizer(step.quantize.method)
            changes.append(method.quantize(subject, step.quantize, shown, target, told))
            is_written = True
        log.info("%s: %d layers, %s", changes[-1].step, changes[-1].layers, changes[-1].detail)
    if not is_written:
        subject.model.save_pretrained(target)
    del subject
    torch.cuda.empty_cache()  # the models that are measured need the room; without a GPU it does nothing
    _completed(target, source.folder)
    notes += [methods.note(step.quantize.method) for step in steps if step.quantize]
    return Compressed(target, tuple(changes), *counted, tuple(note for note in dict.fromkeys(notes) if note))


def _completed(target: Path, source: Path) -> None:
    """Adds what a method leaves out: the tokenizer, the configuration, and the code that it names."""
    for form in (*files.CONFIG, *files.TOKENIZER):
        for file in source.glob(form):
            place = target / file.relative_to(source)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
