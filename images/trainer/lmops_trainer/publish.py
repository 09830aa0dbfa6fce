"""Publication: a model becomes a folder named by its digest, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmops.api.run import Run
from lmops.api.status import ModelReport
from lmops.api.trainingstatus import EvaluationReport
from lmops_trainer import files, uris
from lmops_trainer.checkpoints import flush, flush_all
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.failures import Refusal, disk_full, failure_of

PASSPORT = "lmops.json"
MODEL_FILES = (*files.WEIGHTS, *files.CONFIG, *files.TOKENIZER)
"""What the digest covers: weights, configuration and tokenizer."""
WEIGHTS = (".safetensors", ".onnx", ".pte")
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "scikit-learn",
    "numpy",
    "onnxruntime",
    "executorch",
    "lmops",
)


@dataclass(frozen=True)
class Fingerprint:
    """What a model is, whatever it is called and wherever it lies."""

    folder: Path
    files: Mapping[str, str]
    """The sha256 of each file of the model, by its path in the folder."""
    size: int

    @property
    def digest(self) -> str:
        """sha256 over the sorted lines `<sha256>  <path>`, as `sha256sum` writes them."""
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(self.files.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    @property
    def short(self) -> str:
        """The name of the published folder."""
        return self.digest.removeprefix("sha256:")[:12]


def fingerprint(folder: Path) -> Fingerprint:
    """Reads all files of the model once."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in found.items() if any(fnmatchcase(name, form) for form in MODEL_FILES)}
    if not any(name.endswith(WEIGHTS) for name in files):
        raise Refusal(
            "Model",
            "WeightsMissing",
            f"{folder} holds no weights to publish.",
            "Run the train stage again; it leaves the weights there.",
        )
    hashed = {name: _sha256(path) for name, path in files.items()}
    return Fingerprint(folder, hashed, sum(path.stat().st_size for path in files.values()))


def is_published(folder: Path) -> bool:
    """The folder is a whole model: its passport is the last thing that was written."""
    return (folder / PASSPORT).is_file()


def publish(
    model: Fingerprint, output: Path, run: str, passport: Mapping[str, Any], beside: Mapping[str, str | Path]
) -> Path:
    """Copies the model and the files beside it (texts, or files to copy) under its digest, its passport last.

    A folder that is there already, with its passport, stays as it is: somebody may be serving it.
    """
    home = output / model.short
    if is_published(home):
        return home
    staged = output / f".{model.short}.{run}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        for name in model.files:
            _copy(model.folder / name, staged / name)
        for name, content in beside.items():
            _copy(content, staged / name) if isinstance(content, Path) else _write(staged / name, content)
        flush_all(staged)
        _write(staged / PASSPORT, json.dumps(passport, indent=2, ensure_ascii=False) + "\n")
        flush(staged / PASSPORT)
        flush(staged)
        _appear(staged, home)
        flush(output)
    except OSError as error:
        if failure_of(error).reason == "DiskFull":  # the error names what was read, or nothing
            raise disk_full(home) from error
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return home


def passport(
    run: Run,
    model: ModelReport,
    files: Mapping[str, str],
    prepared: Prepared,
    evaluation: EvaluationReport,
    chosen: Mapping[str, Any],
    sample: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the model came from and what it is worth."""
    return {
        "apiVersion": "lmops.dev/v1alpha1",
        "kind": "Passport",
        **model.manifest(),
        "task": run.spec.model.task,
        "labels": prepared.labels,
        "maxLength": prepared.max_length,
        "createdAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "trainingJob": {"name": run.run.job, "uid": run.run.uid},
        "origin": origin(run),
        "checkpoint": dict(chosen),
        "dataset": prepared.report.manifest(),
        "evaluation": evaluation.manifest(),
        "spec": run.spec.manifest(),
        "files": dict(files),
        "versions": versions(),
        "sample": [dict(row) for row in sample],
    }


def origin(run: Run) -> dict[str, Any]:
    """What the weights were before this job; a model of ours carries its digest on."""
    start = run.spec.model.from_
    found = start.manifest()
    if start.uri and not uris.is_hub(start.uri) and is_published(uris.path(start.uri)):
        parent = json.loads((uris.path(start.uri) / PASSPORT).read_text("utf-8"))
        found |= {name: parent[name] for name in ("digest", "trainingJob", "origin") if name in parent}
    return found


def versions() -> dict[str, str]:
    """The Python and the libraries that this process runs on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # lmops itself, run from its sources
            continue
    return found


def _appear(staged: Path, home: Path) -> None:
    if home.exists() and not is_published(home):
        shutil.rmtree(home)
    try:
        staged.rename(home)
    except OSError:
        if not is_published(home):  # else another run has published the same model meanwhile
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
