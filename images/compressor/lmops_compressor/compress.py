"""The stage compress: the steps, then both models measured on the same rows, the verdict, and the model published."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from lmops.api import Compression, Result
from lmops.api.compression import Step, words
from lmops.api.compressionreport import Change, CompressionReport, SearchReport
from lmops.api.status import ModelReport
from lmops_compressor import methods, rows
from lmops_compressor.methods import Subject, Tell, part
from lmops_compressor.passport import passport
from lmops_compressor.source import Source
from lmops_trainer import publish, uris
from lmops_trainer.endings import scratch
from lmops_trainer.log import log, quiet_libraries
from lmops_trainer.progress import Progress

COMPRESSED, MEASURED = 50, 95
"""Percent of the run that is done then."""
SEARCHED = 40
"""And once the steps are found, where they are searched for."""
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.jinja",
)


def compress(run: Compression, progress: Progress) -> Result:
    """Compresses, measures, judges, publishes. The source is only ever read; what is half done is never a model."""
    from lmops_compressor.measure import measured, settings
    from lmops_compressor.search import searched

    quiet_libraries()
    progress.post(0)
    source = Source.open(run)
    settings(run, source)  # what cannot be timed is refused before anything is done
    draw = cache(partial(rows.calibration, run, source))
    with _workplace() as folder:
        steps, began = run.spec.steps or [], 0
        found: SearchReport | None = None
        if run.spec.search:
            steps, found = searched(run, source, folder, part(progress.post, 0, SEARCHED))
            began = SEARCHED
        made = applied(run, source, steps, draw, folder / "compressed", part(progress.post, began, COMPRESSED))
        report = measured(run, source, made, words(steps), part(progress.post, COMPRESSED, MEASURED))
        log.info("%s", report.sentence)
        model = _published(run, source, made, report, found)
    progress.post(100)
    return Result(model=model, report=report, search=found)


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
    run: Compression, source: Source, steps: list[Step], draw: rows.Draw, target: Path, tell: Tell
) -> Compressed:  # fmt: skip
    """The steps, in order, on a model of their own; the result in `target`, which is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    subject = Subject(source, source.model())
    if torch.cuda.is_available() and any(step.prune for step in steps):
        subject.model.to("cuda")  # type: ignore[arg-type]
    changes, is_written, counted = [], False, (0, 0)
    for number, step in enumerate(steps):
        log.info("%s", step.words)
        told = part(tell, number / len(steps), (number + 1) / len(steps))
        if step.prune:
            recovery, pruned = step.prune.recovery, part(told, 0, 0.5 if step.prune.recovery else 1)
            changes.append(methods.pruner(step.prune.method).prune(subject, step.prune, draw, pruned))
            if recovery:
                from lmops_compressor.methods.recovery import recover

                learned = rows.training(run, source, recovery.steps * recovery.batch_size)
                recover(subject, recovery, learned, run.spec.calibration.seed, part(told, 0.5, 1))
        counted = _counted(subject)
        if step.quantize:
            subject.model.cpu()  # what is written is made there
            method = methods.quantizer(step.quantize.method)
            changes.append(method.quantize(subject, step.quantize, draw, target, told))
            is_written = True
        log.info("%s: %d layers, %s", changes[-1].step, changes[-1].layers, changes[-1].detail)
    if not is_written:
        subject.model.save_pretrained(target)
    del subject
    torch.cuda.empty_cache()  # the models that are measured need the room; without a GPU it does nothing
    for glob in (*TOKENIZER, *(() if not is_written else ("config.json", "generation_config.json"))):
        for file in source.folder.glob(glob):
            if not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    notes = tuple(note for step in steps if step.quantize and (note := methods.note(step.quantize.method)))
    return Compressed(target, tuple(changes), *counted, notes)


def _counted(subject: Subject) -> tuple[int, int]:
    """Parameters, and those that are not zero; shared ones count once."""
    found = list(subject.model.parameters())
    return sum(p.numel() for p in found), sum(int(p.count_nonzero()) for p in found)


def _published(
    run: Compression, source: Source, made: Compressed, report: CompressionReport, search: SearchReport | None
) -> ModelReport:
    """Puts the model and what belongs beside it into its folder; one that has not passed is there to be looked at."""
    from lmops_compressor.report import page
    from lmops_compressor.search import tried

    found = publish.fingerprint(made.folder)
    output = run.spec.output.uri.rstrip("/")
    model = ModelReport(
        uri=f"{output}/{found.short}", digest=found.digest, size_bytes=found.size, parameters=made.parameters
    )
    beside: dict[str, str | Path] = {
        "report.html": page(run, model, report, search, tried(run) if search else ()),
        "report.json": json.dumps(report.manifest(), indent=1, ensure_ascii=False),
    }
    about = passport(run, source, model, found.files, report)
    publish.publish(found, uris.path(output), f"{run.run.uid}-{run.run.attempt}", about, beside)
    log.info("published %s, %s", model.uri, model.digest)
    return model


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        yield Path(folder)
