"""What keeps children from their pods, in the words of others: of the controllers that make pods, and of Kueue."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from lmops.cache import Cache
from lmops.cluster import Cluster, RefusedError, UnreachableError
from lmops.jobs.backends import end_of, is_held, wanted_pods
from lmops.parts import QUEUE
from lmops.plan import Key, Manifest, Ref, Refusal

OFTEN = 15.0
"""Seconds between two looks."""
LONG, LONG_QUEUED = timedelta(seconds=10), timedelta(seconds=60)
"""How long a child may be without its pods, or a queue may hold it back, before somebody is asked why."""
WORDS = {"Job": "FailedCreate", "PyTorchJob": "FailedCreatePod", "InferenceService": "FailedCreate"}
"""The reason of the event with which the controller of a kind tells that it could not create a pod."""
RECENT = timedelta(minutes=20)
"""How old the words on a ReplicaSet may be: its controller says them again at least that often."""
PREDICTOR = "-predictor-"
"""What stands between the name of an InferenceService and the rest of its ReplicaSets' names."""
KUEUE = "/apis/kueue.x-k8s.io"
OPENING = re.compile(r'^Error creating: (pods? "[^"]*" is forbidden: )?')
"""How every such event begins; the name of a pod that never was is another each time."""

log = logging.getLogger("lmops")


class Obstacles:
    """What was heard at the last look. Events stand in no index of the API server, so a look asks once a namespace."""

    def __init__(self, cluster: Cluster, cache: Cache, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.cluster, self.cache, self.now = cluster, cache, now
        self.heard: dict[Key, dict[Ref, Refusal]] = {}
        """The word and the sentence for each child, by its resource."""

    async def look(self, changed: Callable[[Key], None]) -> None:
        """Asks about all children that lack pods for long; `changed` is told of whom there is something new to say."""
        found = defaultdict[Key, dict[Ref, Refusal]](dict)
        for children in self._without_pods().values():
            for key, ref, said in await self._told_by_events(children):
                found[key][ref] = said
        for (namespace, queue), children in self._queued().items():
            if why := await self._told_by_kueue(namespace, queue):
                for key, child in children:
                    found[key][Ref.of(child)] = why
        for key in self.heard.keys() | found.keys():
            before, after = self.heard.get(key, {}), found.get(key, {})
            for ref in before.keys() & after.keys():  # counts and amounts in it change: that is no news
                if before[ref].says_the_same(after[ref]):
                    after[ref] = before[ref]
            if before != after:
                changed(key)
        self.heard.clear()
        self.heard.update(found)

    def _lacking(self, held: bool, longer_than: timedelta) -> Iterator[tuple[Key, Manifest]]:
        """The children that have fewer pods than they want for so long."""
        with_pods = (row for row in self.cache.children() if row[1]["kind"] in WORDS)
        for key, child, pods in with_pods:
            if pods < _wanted(child) and _is_held(child) == held and not _has_ended(child):
                born = child["metadata"].get("creationTimestamp")
                if born and self.now() - datetime.fromisoformat(born) >= longer_than:
                    yield key, child

    def _without_pods(self) -> dict[tuple[str, str], list[tuple[Key, Manifest]]]:
        """By namespace and kind."""
        found = defaultdict[tuple[str, str], list[tuple[Key, Manifest]]](list)
        for key, child in self._lacking(held=False, longer_than=LONG):
            found[key.namespace, child["kind"]].append((key, child))
        return found

    def _queued(self) -> dict[tuple[str, str], list[tuple[Key, Manifest]]]:
        """By namespace and queue."""
        found = defaultdict[tuple[str, str], list[tuple[Key, Manifest]]](list)
        for key, child in self._lacking(held=True, longer_than=LONG_QUEUED):
            if queue := child["metadata"]["labels"].get(QUEUE):
                found[key.namespace, queue].append((key, child))
        return found

    async def _told_by_events(self, children: list[tuple[Key, Manifest]]) -> list[tuple[Key, Ref, Refusal]]:
        """The last word on each of these children, which are of one kind and namespace."""
        [namespace, kind] = children[0][0].namespace, children[0][1]["kind"]
        last: dict[str, tuple[str, str]] = {}
        try:
            async for event in self.cluster.list("Event", namespace, fields=f"reason={WORDS[kind]}"):
                whose = self._subject(event)
                last[whose] = max(last.get(whose, ("", "")), (_when(event), event.get("note") or ""))
        except (RefusedError, UnreachableError) as error:
            log.debug("the events of %s could not be read: %s", namespace, error)
        said = {whose: Refusal("FailedCreate", OPENING.sub("", note)) for whose, (_, note) in last.items()}
        mine = ((key, child, _name_in_events(child)) for key, child in children)
        return [(key, Ref.of(child), said[name]) for key, child, name in mine if name in said]

    def _subject(self, event: Manifest) -> str:
        """Whom an event is about: a child's UID; or the name of the InferenceService that a ReplicaSet belongs to."""
        regarding = event.get("regarding", {})
        if regarding.get("kind") != "ReplicaSet":
            return str(regarding.get("uid", ""))
        when = _when(event)
        is_old = not when or self.now() - datetime.fromisoformat(when) > RECENT
        return "" if is_old else str(regarding.get("name", "")).rpartition(PREDICTOR)[0] + PREDICTOR

    async def _told_by_kueue(self, namespace: str, queue: str) -> Refusal | None:
        """Why nobody may be serving a queue; `None` where it is served."""
        try:
            group = await self.cluster.document(KUEUE)
            version = group["preferredVersion"]["groupVersion"]
        except RefusedError as refusal:
            return Refusal("KueueMissing", "Kueue is not installed") if refusal.is_missing else None
        except UnreachableError:
            return None
        try:
            found = await self.cluster.document(f"/apis/{version}/namespaces/{namespace}/localqueues/{queue}")
        except RefusedError as refusal:
            if refusal.is_missing:
                return Refusal("QueueMissing", f"there is no LocalQueue {queue} in namespace {namespace}")
            return Refusal("Queued", f"kubectl get localqueue {queue} -n {namespace} shows whether it is served")
        except UnreachableError:
            return None
        conditions = found.get("status", {}).get("conditions") or ()
        idle: Manifest = next((c for c in conditions if (c["type"], c["status"]) == ("Active", "False")), {})
        return Refusal("QueueInactive", f"it takes nothing: {idle.get('message')}") if idle else None


def _serves(child: Manifest) -> bool:
    return bool(child["kind"] == "InferenceService")


def _wanted(child: Manifest) -> int:
    return int(child["spec"]["predictor"].get("minReplicas", 1)) if _serves(child) else wanted_pods(child)


def _is_held(child: Manifest) -> bool:
    return not _serves(child) and is_held(child)


def _has_ended(child: Manifest) -> bool:
    return not _serves(child) and bool(end_of(child))


def _name_in_events(child: Manifest) -> str:
    """By what the words on a child are found: those on a service's pods are on a ReplicaSet that nobody knows here."""
    return f"{child['metadata']['name']}{PREDICTOR}" if _serves(child) else str(child["metadata"]["uid"])


def _when(event: Manifest) -> str:
    """When an event was told last, as a text that can be compared."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("eventTime") or event.get("deprecatedLastTimestamp") or "")
