"""The pods of a service: which of them answer, which are of the newest revision, and what is wrong with the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from lmops.api import Failure, LanguageModelService, LastWords
from lmops.api.servicestatus import Replicas
from lmops.jobs.failure import AWAY, failure, remains
from lmops.jobs.group import SILENT, Blocked, blocked, placed, pods_of
from lmops.plan import Manifest, Observed
from lmops.serving.inferenceservice import REVISION

PATIENCE = timedelta(minutes=2)
"""How long volumes and networks may take before that is called trouble."""

UNMADE = timedelta(seconds=30)
"""How long pods may take to be made."""


PULLS = ("ImagePullBackOff", "RegistryUnavailable")
"""What the kubelet tries again by itself."""


@dataclass(frozen=True)
class Pods:
    """The pods of a service at one moment, against the revision that is wanted."""

    new: tuple[Manifest, ...]
    old: tuple[Manifest, ...]
    wanted: int

    @classmethod
    def of(cls, service: LanguageModelService, observed: Observed, revision: str) -> Pods:
        """Those that stay: what was evicted has a successor. An autoscaler's wish shows in how many there are."""
        scaling = service.spec.scaling
        found = cls.beside(service.metadata.name, observed, revision)
        wanted = max(scaling.min_replicas, len(found.new)) if scaling.max_replicas else scaling.min_replicas
        return cls(found.new, found.old, wanted)

    @classmethod
    def beside(cls, run: str, observed: Observed, revision: str) -> Pods:
        """Those of a run of one replica."""
        mine = [pod for pod in pods_of(observed, run) if not _goes(pod)]
        new = tuple(pod for pod in mine if pod["metadata"]["labels"].get(REVISION) == revision)
        old = tuple(pod for pod in mine if pod["metadata"]["labels"].get(REVISION) != revision)
        return cls(new, old, 1)

    @property
    def ready(self) -> int:
        """How many answer."""
        return sum(map(is_ready, (*self.new, *self.old)))

    @property
    def updated(self) -> int:
        """How many answer with the newest revision."""
        return sum(map(is_ready, self.new))

    @property
    def is_rolled_out(self) -> bool:
        """Whether all that answers is of the newest revision, and enough of it does."""
        return self.updated >= self.wanted and not any(map(is_ready, self.old))

    def told(self, observed: Observed) -> list[Manifest]:
        """What those that answer have told of their traffic."""
        names = (pod["metadata"]["name"] for pod in (*self.new, *self.old) if is_ready(pod))
        return [observed.figures[name] for name in names if name in observed.figures]

    def report(self) -> Replicas:
        """Their numbers."""
        return Replicas(wanted=self.wanted, ready=self.ready, updated=self.updated)

    def failure(self, now: datetime) -> Failure | None:
        """What is wrong with one of those that are to stay: the others go, whatever is wrong with them."""
        return next(filter(None, (trouble(pod, now) for pod in self.new)), None)

    def patience(self, now: datetime) -> timedelta | None:
        """When a pod that only seems slow has to be looked at again."""
        silent = (found.since + PATIENCE - now for pod in self.new if (found := _silent(pod)))
        return min((left for left in silent if left > timedelta(0)), default=None)


def _goes(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Manifest) -> bool:
    """Whether it is asked."""
    conditions = pod["status"].get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def trouble(pod: Manifest, now: datetime) -> Failure | None:
    """Why a pod does not answer; `None` where it does, or where it may only need its time."""
    if is_ready(pod):
        return None
    if end := _last_end(pod):
        return _words(end) or remains(_ended(pod, end))
    found = blocked(pod)
    return None if found is None or (found.failure.reason == SILENT and now < found.since + PATIENCE) else found.failure


def has_crashed(why: Failure) -> bool:
    """Whether the pod had its chance: what waits for a node or a volume has not begun."""
    return why.class_ not in ("Unschedulable", "Volume")


def fetches(pod: Manifest, now: datetime) -> datetime | None:
    """Since when a pod asks for its image or its model in vain, if it does: a registry or a hub may be back soon."""
    if found := blocked(pod):
        return found.since if found.failure.reason in PULLS else None
    end, why = _last_end(pod), trouble(pod, now)
    if why is None or not end or why.reason not in AWAY:
        return None
    status = pod["status"]["containerStatuses"][0]
    if "running" in status.get("state", {}):  # it is at it again
        return now
    first = end.get("finishedAt") if not status.get("restartCount") else None  # a download may itself take long
    return datetime.fromisoformat(first) if first else placed(pod)


def without_pods(child: Manifest, now: datetime) -> Failure | None:
    """Why KServe has made no pods for long, in its own words."""
    conditions = child.get("status", {}).get("conditions") or ()
    told = [c for c in conditions if c["status"] == "False" and c.get("message") and c["type"] != "Stopped"]
    false = [c for c in told if now >= datetime.fromisoformat(c["lastTransitionTime"]) + UNMADE]
    return failure("Settings", false[0].get("reason") or "NotReady", false[0]["message"]) if false else None


def _last_end(pod: Manifest) -> dict[str, Any]:
    """How the container of a pod ended last, `{}` where it never did."""
    status = (pod["status"].get("containerStatuses") or [{}])[0]
    state, last = status.get("state") or {}, status.get("lastState") or {}
    found: dict[str, Any] = state.get("terminated") or last.get("terminated") or {}
    return found


def _words(end: dict[str, Any]) -> Failure | None:
    """What the server itself said at its end."""
    try:
        return LastWords.model_validate(json.loads(end.get("message", ""))).failure
    except (ValueError, ValidationError):
        return None


def _ended(pod: Manifest, end: dict[str, Any]) -> Manifest:
    """The pod as if its container had ended only now."""
    return {**pod, "status": {**pod["status"], "containerStatuses": [{"state": {"terminated": end}}]}}


def _silent(pod: Manifest) -> Blocked | None:
    found = None if is_ready(pod) or _last_end(pod) else blocked(pod)
    return found if found and found.failure.reason == SILENT else None
