"""The kinds that the operator reconciles: a row each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from lmops.api import crd
from lmops.plan import Manifest, Observed, Plan, Ref
from lmops.settings import Settings
from lmops.training import policies, status
from lmops.training import reconcile as training

Reconcile = Callable[[Any, Observed, datetime, Settings], Plan[Any]]


class Kind(NamedTuple):
    """What is needed to run a kind."""

    form: crd.Kind
    reconcile: Reconcile
    """(resource, what is there, now, settings) -> what to do."""
    children: tuple[str, ...]
    """The kinds that it creates."""
    expected: Callable[[Any], tuple[Ref, ...]]
    """The children that its status says are there."""
    is_settled: Callable[[Manifest, Observed, Settings], bool]
    """Whether nothing will happen any more, told from the bare manifest: most resources of a cluster have ended."""
    claims: Callable[[Any], tuple[str, ...]]
    """The claims whose access modes it wants to know."""
    reports: frozenset[str]
    """The fields of its status that others write, and no reconcile waits for."""


_FORMS = {form.model.__name__: form for form in crd.KINDS}

KINDS: dict[str, Kind] = {
    "TrainingJob": Kind(
        _FORMS["TrainingJob"],
        training.reconcile,
        children=("Job", "PyTorchJob"),
        expected=status.expected,
        is_settled=training.is_settled,
        claims=policies.shared_claims,
        reports=frozenset({"progress", "metrics", "display"}),
    ),
}
