"""The kinds that the operator reconciles: a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lmops.api import crd
from lmops.jobs import reconcile as jobs
from lmops.jobs.runs import expected
from lmops.jobs.work import AnyWork
from lmops.plan import Manifest, Observed, Plan, Ref
from lmops.quantization.work import Quantization, sources
from lmops.serving import reconcile as serving
from lmops.serving.exposure import KINDS as ENTRANCES
from lmops.serving.following import sources as followed
from lmops.serving.monitoring import KINDS as MONITORS
from lmops.serving.policies import shared_claims
from lmops.settings import Settings
from lmops.training.work import Training
from lmops.training.work import shared_claims as nodes_claims


def _nothing(resource: Any) -> tuple[Any, ...]:
    return ()


class Kind(NamedTuple):
    """What is needed to run a kind."""

    form: crd.Kind
    children: tuple[str, ...]
    """The kinds that it creates."""
    reconcile: Callable[[Any, Observed, datetime, Settings], Plan[Any]]
    """What to do with a resource."""
    expected: Callable[[Any, Settings], tuple[Ref, ...]]
    """The children that its status says are there."""
    is_settled: Callable[[Manifest, Observed, Settings], bool] = lambda resource, observed, settings: False
    """Whether nothing will happen any more, told from the bare manifest: most resources of a cluster have ended."""
    claims: Callable[[Any, tuple[Manifest, ...]], tuple[str, ...]] = lambda resource, sources: ()
    """The claims whose access modes a resource wants to know, with the resources that it waits for."""
    sources: Callable[[Any], tuple[Ref, ...]] = _nothing
    """The resources of its namespace that one waits for; without a name all of a kind."""
    reports: frozenset[str] = frozenset()
    """The fields of its status that others write, and no reconcile waits for."""


_FORMS = {form.model.__name__: form for form in crd.KINDS}

JOBS: Mapping[str, Callable[[Any, Settings], AnyWork]] = {"TrainingJob": Training, "QuantizeJob": Quantization}
"""The kinds that come to an end, and what only each of them knows of its jobs."""


def _job(name: str, children: tuple[str, ...], **more: Any) -> Kind:
    """The row of a kind of jobs: they are all moved from stage to stage alike."""
    work = JOBS[name]
    return Kind(
        _FORMS[name],
        children,
        reconcile=lambda job, observed, now, settings: jobs.reconcile(work(job, settings), observed, now),
        expected=lambda job, settings: expected(work(job, settings)),
        is_settled=jobs.is_settled,
        reports=frozenset({"progress", "metrics", "display"}),
        **more,
    )


KINDS: dict[str, Kind] = {
    "TrainingJob": _job("TrainingJob", ("Job", "PyTorchJob"), claims=lambda job, sources: nodes_claims(job)),
    "QuantizeJob": _job("QuantizeJob", ("Job",), sources=sources),
    "LanguageModelService": Kind(
        _FORMS["LanguageModelService"],
        ("InferenceService", "Job", *MONITORS, *ENTRANCES),
        reconcile=serving.reconcile,
        expected=serving.expected,
        claims=shared_claims,
        sources=followed,
    ),
}


def kinds(settings: Settings) -> dict[str, Kind]:
    """The kinds as they are run: without dashboards no ConfigMap is looked at, which needs a right less."""
    if settings.monitoring.dashboards:
        return KINDS
    without = {name: tuple(child for child in kind.children if child != "ConfigMap") for name, kind in KINDS.items()}
    return {name: kind._replace(children=without[name]) for name, kind in KINDS.items()}
