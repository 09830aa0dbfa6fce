"""The stage prepare: raw files become prepared data, or those that an earlier job has prepared are found again.

By hand: LMOPS_VOLUMES=folder python -m lmops_trainer prepare "$(cat run.json)"
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lmops.api import Result, Run
from lmops.api.dataset import Source
from lmops.api.trainingjob import RecipeSpec
from lmops.api.trainingstatus import DatasetReport, SplitReport
from lmops_trainer.data.assemble import Assembled, Assembly, Texts
from lmops_trainer.data.configs import ModelConfig, longest, model_config
from lmops_trainer.data.examples import Batch, examples
from lmops_trainer.data.prepared import FORMAT, MARKER, SPLITS, Prepared, write_examples, write_marker, write_rows
from lmops_trainer.data.sources import fingerprint, sha256, size, sources
from lmops_trainer.data.tokenizers import tokenizer, tokenizer_files
from lmops_trainer.endings import scratch
from lmops_trainer.progress import Progress
from lmops_trainer.uris import mounted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("lmops")
READ, TOKENISED = 40.0, 95.0
"""Percent of the stage after which the rows are read, and the examples made."""
ABANDONED = 2 * 86400
"""Seconds after which a folder under construction was left by a job that is gone."""


def prepare(run: Run, progress: Progress) -> Result:
    """Prepares the data of the job, unless it is prepared already."""
    spec = run.spec
    config = model_config(spec.model)
    max_length = longest(spec.dataset.max_length, config)
    digest = content_hash(spec, config, max_length)
    uri = f"{spec.workspace_uri.rstrip('/')}/data/{digest[:16]}"
    target = mounted(uri)
    if (target / MARKER).is_file():
        return Result(dataset=_reused(target, uri))
    with _under_construction(target) as folder:
        report = _build(spec, config, max_length, folder, progress)
        report = report.model_copy(update={"uri": uri, "hash": f"sha256:{digest}"})
        labels = sorted(report.train.labels) if report.train else []
        write_marker(folder, report, labels, max_length, spec.model.task)
        won = _publish(folder, target)
    return Result(dataset=report if won else _reused(target, uri))


def content_hash(spec: RecipeSpec, config: ModelConfig, max_length: int) -> str:
    """sha256 over all that decides what the prepared data is; equal hashes mean equal data."""
    declared = spec.dataset.model_dump(mode="json", by_alias=True, exclude={"max_length"})
    packs = spec.model.task in ("CausalLM", "MaskedLM") and spec.training.packing
    content = {
        "format": FORMAT,
        "task": spec.model.task,
        "seed": spec.training.seed,
        "maxLength": max_length,
        "packing": packs,
        "dataset": declared,
        "sources": [fingerprint(source, where) for source, where in _sources(spec)],
        "tokenizer": spec.model.tokenizer.manifest() if spec.model.tokenizer else None,
        "tokenizerFiles": {file.name: sha256(file) for file in tokenizer_files(spec.model)},
        "model": config.kind,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sources(spec: RecipeSpec) -> Iterator[tuple[Source, str]]:
    dataset = spec.dataset
    yield from ((source, "dataset.train") for source in sources(dataset.train))
    if dataset.test is not None and dataset.test.fraction is None:
        yield from ((source, "dataset.test") for source in sources(dataset.test))
    if dataset.validation.from_ is not None:
        yield dataset.validation.from_, "dataset.validation.from"


def _reused(target: Path, uri: str) -> DatasetReport:
    log.info("data prepared earlier: %s", uri)
    return Prepared.open(target).report.model_copy(update={"uri": uri, "reused": True})


def _build(spec: RecipeSpec, config: ModelConfig, max_length: int, folder: Path, progress: Progress) -> DatasetReport:
    began = time.monotonic()
    total = sum(size(source, where) for source, where in _sources(spec))

    def reading(rows: int, characters: int) -> None:
        progress.post(READ * min(1.0, characters / total) if total else 0.0, rows=rows)

    with tempfile.TemporaryDirectory(dir=scratch()) as spools:
        assembled = Assembly(spec, Path(spools), reading).assemble()
        progress.post(READ, rows=assembled.rows_read)
        made = tokenizer(spec.model, Texts(assembled.splits["train"]), config)
        made.save_pretrained(folder / "tokenizer")
        reports = _write_splits(spec, assembled, made, max_length, folder, Path(spools), progress)
        progress.post(TOKENISED, rows=assembled.rows_read)
    report = DatasetReport(
        uri="-", hash="-", rows_read=assembled.rows_read, dropped=assembled.dropped,
        notes=[note[:1024] for note in [*assembled.notes, *_model_notes(spec)]][:32], **reports,
    )  # fmt: skip
    log.info("%s rows read, %s, in %.1f s", report.rows_read, _summary(report), time.monotonic() - began)
    return report


def _write_splits(
    spec: RecipeSpec,
    assembled: Assembled,
    made: PreTrainedTokenizerFast,
    max_length: int,
    folder: Path,
    spools: Path,
    progress: Progress,
) -> dict[str, SplitReport]:
    make = examples(spec.model.task, spec.training)
    todo = sum(len(part) for part in assembled.splits.values())
    reports: dict[str, SplitReport] = {}
    done = 0
    for split in SPLITS:
        if (part := assembled.splits.get(split)) is None:
            continue
        place = folder / split
        place.mkdir()
        write_rows(place, part.tables())
        batches = make(part.rows(), made, spec.dataset, spec.training, max_length, assembled.labels)
        written = write_examples(place, _watched(batches, progress, done, len(part), todo), spools)
        done += len(part)
        reports[split] = SplitReport(
            rows=len(part),
            examples=written.examples,
            tokens=written.tokens,
            truncated=written.truncated,
            labels=part.labels() if assembled.labels else {},
        )
    return reports


def _watched(batches: Iterable[Batch], progress: Progress, done: int, rows: int, todo: int) -> Iterator[Batch]:
    """The batches, posting how far the last row of each lies."""
    first: int | None = None
    for batch in batches:
        last = batch["row"][-1].as_py()
        first = last if first is None else first
        share = min(1.0, (done + min(rows, last - first)) / todo)
        progress.post(READ + (TOKENISED - READ) * share)
        yield batch


def _model_notes(spec: RecipeSpec) -> Iterator[str]:
    if spec.model.from_.uri and spec.model.tokenizer and spec.model.tokenizer.train:
        yield "The tokenizer was made from the training rows; the embeddings of the model belong to other tokens."


def _summary(report: DatasetReport) -> str:
    dropped = [f"{count} {reason} dropped" for reason, count in report.dropped.items()]
    splits = [f"{part.rows} {name}" for name in SPLITS if (part := getattr(report, name))]
    return ", ".join([*dropped, *splits])


@contextmanager
def _under_construction(target: Path) -> Iterator[Path]:
    """A new folder beside the target, gone again unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for other in target.parent.glob(".*-*"):
        if time.time() - other.stat().st_mtime > ABANDONED:
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    folder.chmod(0o755)  # mkdtemp's 0700 would lock out the pods of other users of the volume
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, target: Path) -> bool:
    """Gives the complete folder its name; False where another job has been faster."""
    if target.is_dir() and not (target / MARKER).is_file():
        shutil.rmtree(target)
    try:
        os.rename(folder, target)
    except OSError:
        if (target / MARKER).is_file():
            return False
        raise
    return True
