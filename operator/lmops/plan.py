"""Plan: all that one reconcile wants done, as a frozen value; who executes it decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

Status = TypeVar("Status", bound=BaseModel)

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


FIGURES = re.compile(r"\w*\d\w*")
"""Words with a digit in them."""


class Ref(NamedTuple):
    """The name of an object in the namespace of its owner."""

    kind: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> Ref:
        """The reference to an object at hand."""
        return cls(manifest["kind"], manifest["metadata"]["name"])


class Key(NamedTuple):
    """A resource of ours."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Event(NamedTuple):
    """What an owner reads in `kubectl describe`: posted only after the status that it speaks of was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def created(child: Manifest) -> Event:
    """What is told once a child is there, and not when it was only wanted."""
    return Event("Normal", "Created", f"Created {child['kind']} {child['metadata']['name']}")


class Refusal(NamedTuple):
    """Why a child that was wanted could not be created."""

    reason: str
    message: str
    is_final: bool = False
    """Whether to ask for the same again would bring the same answer."""
    retry_after: float = 0.0
    """Seconds that the server wants to be left alone."""

    def says_the_same(self, other: Refusal) -> bool:
        """Whether it says nothing new: ports, counts and names of servers change with every answer."""
        mine, others = (FIGURES.sub("", refusal.message) for refusal in (self, other))
        return (self.reason, self.is_final, mine) == (other.reason, other.is_final, others)


@dataclass(frozen=True)
class Observed:
    """What is there: the children by reference, the pods of them all, the children that were refused, and volumes."""

    children: dict[Ref, Manifest] = field(default_factory=dict)
    pods: tuple[Manifest, ...] = ()
    refused: Mapping[Ref, Refusal] = field(default_factory=dict)
    modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The access modes of the claims that matter and are there."""
    sources: tuple[Manifest, ...] = ()
    """The resources of the same namespace that it may be waiting for."""
    obstacles: Mapping[Ref, Refusal] = field(default_factory=dict)
    """What others say that keeps a child from its pods."""
    absent: frozenset[str] = frozenset()
    """The kinds of children that are not installed here."""
    figures: Mapping[str, Manifest] = field(default_factory=dict)
    """What pods that answer have told of themselves, by their names."""
    since: datetime | None = None
    """Since when all that runs report was heard; before that, silence means nothing."""

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> Observed:
        """Sorts objects into children and pods."""
        known = list(manifests)
        return cls(
            children={Ref.of(m): m for m in known if m["kind"] != "Pod"},
            pods=tuple(m for m in known if m["kind"] == "Pod"),
        )


@dataclass(frozen=True)
class Plan(Generic[Status]):
    """What to create once, to keep as written and to delete; the new status, its events, and when to look again."""

    status: Status
    create: tuple[Manifest, ...] = ()
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    events: tuple[Event, ...] = ()
    again: timedelta | None = None
