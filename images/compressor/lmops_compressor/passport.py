"""The passport of a compressed model: what it came from, what was done to it, and what that was worth."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lmops.api import Compression
from lmops.api.compressionreport import CompressionReport
from lmops.api.status import ModelReport
from lmops_compressor.source import Source
from lmops_trainer.publish import versions

CARRIED = ("dataset", "spec", "sample")
"""What the passport of the original says that stays true of the compressed model."""


def passport(
    run: Compression, source: Source, model: ModelReport, files: Mapping[str, str], report: CompressionReport
) -> dict[str, Any]:
    """As `lmops_trainer.publish.passport`, with the report in place of the evaluation."""
    origin = {"uri": source.uri, "digest": source.passport.get("digest") or run.source.digest}
    kept = {name: source.passport[name] for name in CARRIED if name in source.passport}
    return {
        "apiVersion": "lmops.dev/v1alpha1",
        "kind": "Passport",
        **model.manifest(),
        "format": report.compressed.format,
        "task": source.task,
        "labels": source.labels,
        "maxLength": source.max_length,
        **kept,
        "createdAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "quantizeJob": {"name": run.run.job, "uid": run.run.uid},
        "origin": {**{k: v for k, v in origin.items() if v}, "origin": source.passport.get("origin", {})},
        "compression": report.manifest(),
        "quantization": run.spec.manifest(),
        "files": dict(files),
        "versions": versions(),
    }
