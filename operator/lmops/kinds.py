"""The kinds that the operator reconciles: a row each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from lmops.api import crd
from lmops.jobs.reconcile import is_settled, reconcile
from lmops.jobs.runs import expected
from lmops.jobs.work import AnyWork
from lmops.plan import Manifest, Observed, Plan, Ref
from lmops.quantization.work import Quantization, sources
from lmops.settings import Settings
from lmops.training.work import Training, shared_claims


def _nothing(resource: Any) -> tuple[Any, ...]:
    return ()


class Kind(NamedTuple):
    """What is needed to run a kind."""

    form: crd.Kind
    work: Callable[[Any, Settings], AnyWork]
    """What only this kind knows of one of its jobs."""
    children: tuple[str, ...]
    """The kinds that it creates."""
    claims: Callable[[Any], tuple[str, ...]] = _nothing
    """The claims whose access modes a resource wants to know."""
    sources: Callable[[Any], tuple[Ref, ...]] = _nothing
    """The resources of its namespace that one waits for; without a name all of a kind."""
    reports: frozenset[str] = frozenset({"progress", "metrics", "display"})
    """The fields of its status that others write, and no reconcile waits for."""

    def reconcile(self, resource: Any, observed: Observed, now: datetime, settings: Settings) -> Plan[Any]:
        """What to do."""
        return reconcile(self.work(resource, settings), observed, now)

    def expected(self, resource: Any, settings: Settings) -> tuple[Ref, ...]:
        """The children that its status says are there."""
        return expected(self.work(resource, settings))

    def is_settled(self, resource: Manifest, observed: Observed, settings: Settings) -> bool:
        """Whether nothing will happen any more, told from the bare manifest: most resources of a cluster have ended."""
        return is_settled(resource, observed, settings)


_FORMS = {form.model.__name__: form for form in crd.KINDS}

KINDS: dict[str, Kind] = {
    "TrainingJob": Kind(_FORMS["TrainingJob"], Training, children=("Job", "PyTorchJob"), claims=shared_claims),
    "QuantizeJob": Kind(_FORMS["QuantizeJob"], Quantization, children=("Job",), sources=sources),
}
