"""Where a reference to a model leads: to what a job of the namespace has published, or to what is waited for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lmops.api.reference import JobReference, ModelSource, ResolvedModel
from lmops.plan import Manifest, Ref


class Waiting(NamedTuple):
    """What is not there yet, and what would end the wait."""

    reason: str
    message: str


def reference(source: ModelSource) -> tuple[str, JobReference] | None:
    """The kind of the job that it may wait for, and which one."""
    named = {"TrainingJob": source.training_job, "QuantizeJob": source.quantize_job}
    return next(((kind, wanted) for kind, wanted in named.items() if wanted), None)


def jobs_of(source: ModelSource) -> tuple[Ref, ...]:
    """The job that it may wait for, or all jobs of a kind."""
    found = reference(source)
    return (Ref(found[0], found[1].name or ""),) if found else ()


def published(source: ModelSource, jobs: Iterable[Manifest]) -> list[ResolvedModel]:
    """Every model that the reference could lead to, the newest first."""
    if (found := reference(source)) is None:
        return []
    kind, wanted = found
    of_kind = [job for job in jobs if job["kind"] == kind and _fits(job, wanted)]
    return list(filter(None, map(_of, _newest_first(of_kind))))


def resolved(source: ModelSource, jobs: Iterable[Manifest]) -> ResolvedModel | Waiting:
    """What the reference leads to; or what it waits for, and what would end the wait."""
    if (found := reference(source)) is None:
        return ResolvedModel(uri=str(source.uri))
    kind, wanted = found
    of_kind = [job for job in jobs if job["kind"] == kind]
    return _named(kind, wanted, of_kind) if wanted.name else _newest(kind, wanted, of_kind)


def _named(kind: str, wanted: JobReference, jobs: list[Manifest]) -> ResolvedModel | Waiting:
    job = next((job for job in jobs if _fits(job, wanted)), None)
    if job is None:
        return Waiting("SourceMissing", f"{kind} {wanted.name} is not there: apply it in this namespace.")
    return _of(job) or Waiting(*_lacks(job))


def _newest(kind: str, wanted: JobReference, jobs: list[Manifest]) -> ResolvedModel | Waiting:
    fitting = [job for job in jobs if _fits(job, wanted)]
    if found := next(filter(None, map(_of, _newest_first(fitting))), None):
        return found
    named = ", ".join(f"{key}={value}" for key, value in _labels(wanted).items())
    if not fitting:
        return Waiting("SourceMissing", f"There is no {kind} with the labels {named}: apply one in this namespace.")
    names = ", ".join(sorted(job["metadata"]["name"] for job in fitting)[:3])
    return Waiting("SourceNotReady", f"No {kind} with the labels {named} has come to a good end yet: {names}.")


def _labels(wanted: JobReference) -> dict[str, str]:
    return wanted.selector.match_labels if wanted.selector else {}


def _fits(job: Manifest, wanted: JobReference) -> bool:
    """Whether a job has the name or the labels that are wanted."""
    if wanted.name:
        return bool(job["metadata"]["name"] == wanted.name)
    return _labels(wanted).items() <= (job["metadata"].get("labels") or {}).items()


def _newest_first(jobs: list[Manifest]) -> list[Manifest]:
    return sorted(jobs, key=lambda job: str(job.get("status", {}).get("completionTime", "")), reverse=True)


def _of(job: Manifest) -> ResolvedModel | None:
    """What a job has published, once it has come to a good end."""
    status, metadata = job.get("status", {}), job["metadata"]
    model = status.get("model", {})
    if status.get("phase") != "Succeeded" or not model:
        return None
    dataset = status.get("dataset", {}).get("uri") or status.get("source", {}).get("dataset")
    return ResolvedModel(
        uri=model["uri"],
        digest=model.get("digest"),
        format=_format(job),
        task=_task(job),
        dataset=dataset,
        kind=job["kind"],
        name=metadata["name"],
        uid=metadata.get("uid"),
        completed_at=status.get("completionTime"),
    )


def _format(job: Manifest) -> str | None:
    """What a job has stored its model as: training knows one form."""
    if job["kind"] == "TrainingJob":
        return "safetensors"
    compressed = (job.get("status", {}).get("report") or {}).get("compressed") or {}
    return str(compressed["format"]) if "format" in compressed else None


def _task(job: Manifest) -> str | None:
    """What a job has trained its model for: one that compresses leaves that to the passport."""
    task = job.get("spec", {}).get("model", {}).get("task") if job["kind"] == "TrainingJob" else None
    return str(task) if task else None


def _lacks(job: Manifest) -> tuple[str, str]:
    """Why a job has no model to take."""
    this, status = f"{job['kind']} {job['metadata']['name']}", job.get("status", {})
    phase, display = status.get("phase"), status.get("display", {})
    if phase == "Failed":
        why = str(display.get("reason", "")).rstrip(".")
        return "SourceFailed", f"{this} has failed: {why}. A new one of that name is waited for."
    if phase == "Succeeded":
        return "SourceWithoutModel", f"{this} has published no model of ours: name its folder with model.from.uri."
    return "SourceNotReady", f"{this} is not done yet: {phase or 'Pending'}."
