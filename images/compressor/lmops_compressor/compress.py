"""The stage compress: the steps, then both models measured on the same rows, the verdict, and the model published."""

from __future__ import annotations

from functools import cache, partial

from lmops.api import Compression, Result
from lmops.api.compression import words
from lmops.api.compressionreport import SearchReport
from lmops_compressor import rows
from lmops_compressor.comparison import metric_of
from lmops_compressor.measure import measured, settings, workplace
from lmops_compressor.methods import part
from lmops_compressor.picture import pictured
from lmops_compressor.publication import published
from lmops_compressor.search import searched
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from lmops_trainer.log import log, quiet_libraries
from lmops_trainer.progress import Progress

COMPRESSED, MEASURED = 50, 95
"""Percent of the run that is done then."""


def compress(run: Compression, progress: Progress) -> Result:
    """Compresses, measures, judges, publishes. The source is only ever read; what is half done is never a model."""
    quiet_libraries()
    progress.post(0)
    source = Source.open(run)
    settings(run, source)  # what cannot be timed or scored is refused before anything is done
    metric_of(run, source)
    rows.scored(run, source)
    tell = part(progress.post, 0, COMPRESSED)
    with workplace() as folder:
        steps = run.spec.steps or []
        found: SearchReport | None = None
        if run.spec.search:
            steps, made, found = searched(run, source, folder, tell)
        else:
            made = applied(
                run, source, steps, cache(partial(rows.calibration, run, source)), folder / "compressed", tell
            )
        done = measured(run, source, made, words(steps), part(progress.post, COMPRESSED, MEASURED))
        log.info("%s", done.report.sentence)
        picture = pictured(source, made, done.rows, done.answers)
        model, report = published(run, source, made, done.report, found, picture)
    progress.post(100)
    return Result(model=model, report=report, search=found)
