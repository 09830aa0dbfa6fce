"""The model that a QuantizeJob starts from: resolved once, to what a job of its namespace has published."""

from __future__ import annotations

from collections.abc import Iterable

from lmops.api.reference import JobReference, ModelSource, ResolvedModel
from lmops.jobs.work import Standing
from lmops.plan import Manifest


def reference(source: ModelSource) -> tuple[str, JobReference] | None:
    """The kind of the job that it may wait for, and which one."""
    named = {"TrainingJob": source.training_job, "QuantizeJob": source.quantize_job}
    return next(((kind, wanted) for kind, wanted in named.items() if wanted), None)


def resolved(source: ModelSource, jobs: Iterable[Manifest]) -> ResolvedModel | Standing:
    """What the reference leads to; or what it waits for, and what would end the wait."""
    if (found := reference(source)) is None:
        return ResolvedModel(uri=str(source.uri))
    kind, wanted = found
    of_kind = [job for job in jobs if job["kind"] == kind]
    return _named(kind, wanted.name, of_kind) if wanted.name else _newest(kind, wanted, of_kind)


def _named(kind: str, name: str, jobs: list[Manifest]) -> ResolvedModel | Standing:
    job = next((job for job in jobs if job["metadata"]["name"] == name), None)
    if job is None:
        return _waiting("SourceMissing", f"{kind} {name} is not there: apply it in this namespace.")
    return _of(job) or _waiting(*_lacks(job))


def _newest(kind: str, wanted: JobReference, jobs: list[Manifest]) -> ResolvedModel | Standing:
    labels = wanted.selector.match_labels.items() if wanted.selector else {}.items()
    fitting = [job for job in jobs if labels <= (job["metadata"].get("labels") or {}).items()]
    newest_first = sorted(fitting, key=lambda job: str(job.get("status", {}).get("completionTime", "")), reverse=True)
    if found := next(filter(None, map(_of, newest_first)), None):
        return found
    named = ", ".join(f"{key}={value}" for key, value in labels)
    if not fitting:
        return _waiting("SourceMissing", f"There is no {kind} with the labels {named}: apply one in this namespace.")
    names = ", ".join(sorted(job["metadata"]["name"] for job in fitting)[:3])
    return _waiting("SourceNotReady", f"No {kind} with the labels {named} has come to a good end yet: {names}.")


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
        dataset=dataset,
        kind=job["kind"],
        name=metadata["name"],
        uid=metadata.get("uid"),
    )


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


def _waiting(reason: str, message: str) -> Standing:
    return Standing("Pending", reason, message, display=f"{reason}: {message}")
