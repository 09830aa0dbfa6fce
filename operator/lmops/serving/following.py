"""Which model a service is to have: the newest of what it follows, as far as its digest and its strategy allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lmops.api import LanguageModelService
from lmops.api.reference import ModelSource, ResolvedModel
from lmops.plan import Manifest, Ref
from lmops.references import Waiting, jobs_of, published, reference, resolved


class Choice(NamedTuple):
    """The model to serve, `None` while there is none, and what is to be said of it."""

    model: ResolvedModel | None
    reason: str = "Newest"
    message: str = ""
    offered: ResolvedModel | None = None
    """Another model that waits to be approved."""

    @property
    def brief(self) -> str:
        """What is to be said of it where there is little room."""
        if self.offered is None:
            return self.message
        waits = {"AwaitingApproval": "waits to be approved", "SourceMissing": "is older"}.get(self.reason, "is newer")
        return f"{title(self.offered)} {waits}: describe says how to have it"

    @property
    def follows(self) -> bool:
        """Whether the model is the one that the reference leads to."""
        return self.reason == "Newest"


def sources(service: LanguageModelService) -> tuple[Ref, ...]:
    """The jobs whose models it follows."""
    return jobs_of(service.spec.model.from_)


def chosen(service: LanguageModelService, jobs: Iterable[Manifest]) -> Choice:
    """The model to serve now. What is served stays, whatever becomes of the job that made it."""
    model, rollout = service.spec.model, service.status.rollout
    there, current = tuple(jobs), rollout.model if rollout else None
    if model.from_.uri:
        return Choice(ResolvedModel(uri=model.from_.uri, digest=model.digest))
    newest = resolved(model.from_, there)
    if model.digest:
        return _pinned(service, model.digest, [*published(model.from_, there), *_known(service)], newest)
    if isinstance(newest, Waiting):
        return Choice(current, *newest)
    if current and _has_lost_its_job(current, model.from_, there) and _is_older(newest, current):
        made = f"{current.kind} {current.name}"
        return Choice(current, "SourceMissing", f"{made} is gone, its model stays; {_offer(newest)}", offered=newest)
    if current is None or service.spec.rollout.strategy != "Manual" or is_same(newest, current):
        return Choice(newest)
    return Choice(current, "AwaitingApproval", _offer(newest), offered=newest)


def is_same(one: ResolvedModel | None, other: ResolvedModel | None) -> bool:
    """Whether two references lead to the same files."""
    return bool(one and other and (one.uri, one.digest) == (other.uri, other.digest))


def _has_lost_its_job(model: ResolvedModel, source: ModelSource, jobs: Iterable[Manifest]) -> bool:
    """Whether the job that has made it, one of those that labels choose, is gone; of others no job is seen."""
    wanted = reference(source)
    if wanted is None or wanted[0] != model.kind or wanted[1].name:
        return False
    return model.uid not in {job["metadata"].get("uid") for job in jobs}


def _is_older(one: ResolvedModel, other: ResolvedModel) -> bool:
    """Whether one was made before the other: nobody is led back by the loss of a job."""
    return bool(one.completed_at and other.completed_at and one.completed_at < other.completed_at)


def title(model: ResolvedModel) -> str:
    """A model in a word: the beginning of its digest, or its place."""
    return model.digest.removeprefix("sha256:")[:12] if model.digest else model.uri


def _known(service: LanguageModelService) -> list[ResolvedModel]:
    """The models that the service has had, the latest first."""
    rollout = service.status.rollout
    return [*([rollout.model] if rollout else []), *reversed(service.status.history)]


def _pinned(
    service: LanguageModelService, digest: str, known: list[ResolvedModel], newest: ResolvedModel | Waiting
) -> Choice:
    """The model of a digest, made by a job that is there or served before."""
    found = next((model for model in known if model.digest == digest), None)
    if found is None:
        current = service.status.rollout.model if service.status.rollout else None
        why = "no job that it follows has made it, and it was not served before"
        remedy = "Correct model.digest, or name its folder with model.from.uri."
        return Choice(current, "DigestUnknown", f"There is no model of digest {digest[:19]}: {why}. {remedy}")
    if isinstance(newest, ResolvedModel) and not is_same(found, newest):
        return Choice(found, "Pinned", f"model.digest keeps it; {_offer(newest)}", offered=newest)
    return Choice(found, "Newest" if isinstance(newest, ResolvedModel) else "Pinned", "model.digest keeps it.")


def _offer(model: ResolvedModel) -> str:
    made = f" of {model.kind} {model.name}" if model.name else ""
    return f"{title(model)}{made} waits to be approved: set model.digest to {model.digest}"
