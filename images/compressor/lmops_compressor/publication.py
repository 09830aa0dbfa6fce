"""The compressed model where its job wants it, its passport, card and report beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmops.api import Compression
from lmops.api.compressionreport import CompressionReport, SearchReport
from lmops.api.status import ModelReport
from lmops_compressor.passport import passport
from lmops_compressor.report import card, page
from lmops_compressor.search import tried
from lmops_compressor.source import Source
from lmops_compressor.steps import Compressed
from lmops_trainer import publish, uris
from lmops_trainer.drift import NAME as BASELINE
from lmops_trainer.drift import Baseline
from lmops_trainer.endings import replace
from lmops_trainer.log import log


def published(
    run: Compression,
    source: Source,
    made: Compressed,
    report: CompressionReport,
    search: SearchReport | None,
    picture: Baseline | None,
) -> tuple[ModelReport, CompressionReport]:
    """Puts the model into its folder; one that has not passed is there to be looked at.

    A folder belongs to the job that published it first. Another job that makes the very same model leaves its own
    report there by its own name, and says so.
    """
    found = publish.fingerprint(made.folder)
    output = run.spec.output.uri.rstrip("/")
    model = ModelReport(
        uri=f"{output}/{found.short}", digest=found.digest, size_bytes=found.size, parameters=made.parameters
    )
    home = uris.path(model.uri)
    if other := _of_another(home, run):
        report = report.model_copy(update={"notes": [*report.notes, other]})
    papers = {
        "report.html": page(run, model, report, search, tried(run) if search else ()),
        "report.json": json.dumps(report.manifest(), indent=1, ensure_ascii=False),
    }
    about = passport(run, source, model, found.files, report)
    readme = {"README.md": card(run, source, model, report, made.folder)}
    beside = papers | readme | ({BASELINE: picture.written()} if picture else {})
    publish.publish(found, uris.path(output), f"{run.run.uid}-{run.run.attempt}", about, beside)
    if other:
        for name, text in papers.items():
            replace(home / name.replace("report", f"report-{run.run.job}"), text)
        log.info("%s", other)
    log.info("published %s, %s", model.uri, model.digest)
    return model, report


def _of_another(home: Path, run: Compression) -> str | None:
    """Whose model this is already, in a sentence; None where it is nobody's, or this job's own."""
    if not publish.is_published(home):
        return None
    about: dict[str, Any] = json.loads((home / publish.PASSPORT).read_text("utf-8"))
    owner = about.get("quantizeJob") or about.get("trainingJob") or {}
    if owner.get("uid") == run.run.uid:
        return None
    return (
        f"The very same model was published before, by {owner.get('name', 'another job')}: its passport and report are "
        f"that job's, and the report of this one is report-{run.run.job}.html."
    )
