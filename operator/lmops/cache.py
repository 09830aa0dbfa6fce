"""What was last seen of each resource, its children and their pods: as little of it as a reconcile reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from sys import intern
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from lmops.api.base import GROUP
from lmops.plan import Key, Manifest, Observed, Ref
from lmops.trimming import controller, owners, trimmed, trimmed_owner

SELECTOR = f"{GROUP}/kind"
"""The label that all children and their pods carry."""


class Standing(NamedTuple):
    """Where a resource stands, by its own status."""

    phase: str
    reason: str
    """Why it is in trouble, or was."""
    ended: str
    """When it ended, empty where it has not."""
    refusal: str = ""
    """Why the latest model that did not pass its gate did not."""
    refused: str = ""
    """When that was."""
    accelerator_use: float | None = None
    """Of its first process, 0 to 1, as far as it tells."""

    @classmethod
    def of(cls, manifest: Manifest) -> Standing:
        """What its status says."""
        status = manifest.get("status") or {}
        phase, failure = status.get("phase") or "Pending", status.get("failure") or {}
        refused = (status.get("refused") or [{}])[-1]
        return cls(
            intern(phase),
            intern(failure.get("reason") or ""),
            status.get("completionTime") or "",
            intern(refused.get("reason") or ""),
            refused.get("at") or "",
            (status.get("metrics") or {}).get("acceleratorUse"),
        )


class _Owner:
    """A resource in as few bytes as possible: thousands of them have ended, and are never read again."""

    __slots__ = ("standing", "text", "uid", "version")

    def __init__(self, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        self.uid, self.version = metadata["uid"], _number(metadata["resourceVersion"])
        self.standing = Standing.of(manifest)
        self.text = to_json(trimmed_owner(manifest))


class _Rest(NamedTuple):
    """A pod of a resource that has ended, in as few bytes as possible."""

    uid: str
    run: str
    has_ended: bool

    @classmethod
    def of(cls, pod: Manifest) -> _Rest:
        """What is kept of a pod."""
        run = (pod["metadata"].get("labels") or {}).get(f"{GROUP}/run", "")
        return cls(pod["metadata"]["uid"], run, pod.get("status", {}).get("phase") in ("Succeeded", "Failed"))

    def pod(self) -> Manifest:
        """What it was kept for: that the run's pod had ended."""
        metadata = {"name": self.uid, "uid": self.uid, "labels": {f"{GROUP}/run": self.run}}
        return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": "Failed"}}


class Listing:
    """A list while it is read: a snapshot of its beginning, which knows nothing of what watches tell meanwhile."""

    def __init__(self, cache: Cache, kind: str, known: dict[str, str]) -> None:
        self.cache, self.kind, self.known = cache, kind, known
        self.listed, self.gone = set[str](), set[str]()
        """The UIDs that it has, and those that were called gone since it began."""

    def take(self, manifest: Manifest) -> Key | None:
        """Keeps what was listed. What has gone meanwhile does not come back with a later page."""
        uid = manifest["metadata"]["uid"]
        self.listed.add(uid)
        return None if uid in self.gone else self.cache.take(manifest)

    def is_stray(self, manifest: Manifest) -> bool:
        """Whether a whole list does not have what was there when it began, and of which nothing was heard since."""
        metadata = manifest["metadata"]
        uid = metadata["uid"]
        return uid not in self.listed and self.known.get(uid) == metadata["resourceVersion"]


class Cache:
    """Takes what watches and writes tell, in any order, and answers with the key of the resource that it concerns.

    `reports` are the fields of each kind's status that no reconcile waits for.
    """

    def __init__(self, reports: dict[str, frozenset[str]]) -> None:
        self.reports = reports
        self.doubtful: dict[Key, set[Ref]] = {}
        """Children that a watch calls gone. So does one that lost our label: it is asked for before that counts."""
        self._owners: dict[Key, _Owner] = {}
        self._parts: dict[Key, dict[Ref, Manifest]] = {}
        self._settled: dict[Key, tuple[_Rest, ...]] = {}
        self._listings: list[Listing] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._owners))

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, key: Key) -> Manifest | None:
        """The resource, as it was last seen."""
        known = self._owners.get(key)
        found: Manifest | None = from_json(known.text) if known else None
        return found

    def standings(self) -> Iterator[tuple[Key, Standing]]:
        """Where each resource stands."""
        return ((key, known.standing) for key, known in self._owners.items())

    def of_kind(self, kind: str, namespace: str, name: str = "") -> list[Key]:
        """The resources of a kind in a namespace; of one name, where that is said."""
        if name:
            return [Key(kind, namespace, name)]
        return [key for key in self._owners if (key.kind, key.namespace) == (kind, namespace)]

    def observed(self, key: Key) -> Observed:
        """Its children and their pods. A pod that only carries our labels is nobody's."""
        if (owner := self._owners.get(key)) is None:  # it was deleted a moment ago
            return Observed()
        uid, parts = owner.uid, self._parts.get(key, {}).values()
        others = [part for part in parts if part["kind"] != "Pod"]
        pods = [part for part in parts if part["kind"] == "Pod" and _is_of(part, others, uid)]
        ended = [rest.pod() for rest in self._settled.get(key, ()) if rest.has_ended]
        return Observed.of([*(part for part in others if controller(part) == uid), *pods, *ended])

    def children(self) -> Iterator[tuple[Key, Manifest, int]]:
        """Each child with its resource, and the number of the pods of its run."""
        for key, parts in self._parts.items():
            runs = [part["metadata"]["labels"].get(f"{GROUP}/run") for ref, part in parts.items() if ref.kind == "Pod"]
            runs += [rest.run for rest in self._settled.get(key, ())]
            for ref, part in parts.items():
                if ref.kind != "Pod":
                    yield key, part, runs.count(ref.name)

    def take(self, manifest: Manifest) -> Key | None:
        """Keeps what was seen; the key where a reconcile could decide otherwise than before."""
        if manifest["kind"] in self.reports:
            return self._take_owner(manifest)
        key = key_of(manifest)
        if key is None or (manifest["kind"] == "Pod" and _Rest.of(manifest) in self._settled.get(key, ())):
            return None
        ref, parts = Ref.of(manifest), self._parts.setdefault(key, {})
        if (before := parts.get(ref)) and _is_older(manifest, before):
            return None
        parts[ref] = after = trimmed(manifest)
        self.doubtful.get(key, set()).discard(ref)
        return None if before and _same(before, after) else key

    def take_as(self, key: Key, manifest: Manifest) -> None:
        """Keeps a child that was asked for by name. Without our labels no watch will tell of it: it stays doubtful."""
        ref = Ref.of(manifest)
        self._parts.setdefault(key, {})[ref] = trimmed(manifest)
        if key_of(manifest) == key:
            self.doubtful.get(key, set()).discard(ref)
        else:
            self.doubtful.setdefault(key, set()).add(ref)

    def drop(self, manifest: Manifest) -> Key | None:
        """Forgets what a watch or a read calls gone."""
        for listing in self._listings:
            listing.gone.add(manifest["metadata"]["uid"])
        if manifest["kind"] in self.reports:
            key = Key(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
            known = self._owners.get(key)
            if known and known.uid == manifest["metadata"]["uid"]:
                del self._owners[key]
                self.abandon(key)
            return key
        owner, ref = key_of(manifest), Ref.of(manifest)
        before = self._parts.get(owner, {}).get(ref) if owner else None
        if owner is None or before is None or before["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return None
        if manifest["kind"] == "Pod":
            del self._parts[owner][ref]
        else:
            self.doubtful.setdefault(owner, set()).add(ref)
        return owner

    def forget(self, key: Key, ref: Ref) -> None:
        """Forgets a child that is surely gone."""
        if part := self._parts.get(key, {}).pop(ref, None):
            for listing in self._listings:
                listing.gone.add(part["metadata"]["uid"])
        self.doubtful.get(key, set()).discard(ref)

    def abandon(self, key: Key) -> None:
        """Forgets what is left of a resource that is gone: its children still tell of their end."""
        self._parts.pop(key, None)
        self._settled.pop(key, None)
        self.doubtful.pop(key, None)

    def settle(self, key: Key) -> None:
        """Drops the pods of a resource that has ended, as its ledger knows all about them; and takes them no more."""
        parts = self._parts.get(key, {})
        pods = [_Rest.of(parts.pop(ref)) for ref in list(parts) if ref.kind == "Pod"]
        if pods:
            rests = {rest.uid: rest for rest in (*self._settled.get(key, ()), *pods)}
            self._settled[key] = tuple(rests.values())

    @contextmanager
    def listing(self, kind: str, namespace: str = "") -> Iterator[Listing]:
        """While everything of a kind is listed, in one namespace or in all of them."""
        known = {part["metadata"]["uid"]: part["metadata"]["resourceVersion"] for part in self._of(kind, namespace)}
        listing = Listing(self, kind, known)
        self._listings.append(listing)
        try:
            yield listing
        finally:
            self._listings.remove(listing)

    def prune(self, listing: Listing) -> list[Key]:
        """Drops the children or pods that a whole list does not have."""
        strays = [part for part in self._of(listing.kind) if listing.is_stray(part)]
        return [key for part in strays if (key := self.drop(part))]

    def unlisted(self, listing: Listing, namespace: str = "") -> list[Key]:
        """The resources that a list does not have. They may be younger than the list."""
        listed = listing.listed
        mine = ((key, owner) for key, owner in self._owners.items() if key.kind == listing.kind)
        return [key for key, owner in mine if namespace in ("", key.namespace) and owner.uid not in listed]

    def _of(self, kind: str, namespace: str = "") -> list[Manifest]:
        """The children or pods of a kind."""
        return [
            part
            for key, parts in self._parts.items()
            if namespace in ("", key.namespace)
            for ref, part in parts.items()
            if ref.kind == kind
        ]

    def _take_owner(self, manifest: Manifest) -> Key | None:
        metadata = manifest["metadata"]
        key = Key(manifest["kind"], metadata["namespace"], metadata["name"])
        known = self._owners.get(key)
        if known and known.uid == metadata["uid"] and _number(metadata["resourceVersion"]) <= known.version:
            return None
        before = self.owner(key)
        self._owners[key] = _Owner(manifest)
        if before is None or before["metadata"]["uid"] != metadata["uid"]:
            self._settled.pop(key, None)
            return key
        reports = self.reports[key.kind]
        return None if _decisive(before, reports) == _decisive(manifest, reports) else key


def key_of(manifest: Manifest) -> Key | None:
    """The resource that a child or a pod names by our labels."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    kind, job = labels.get(f"{GROUP}/kind"), labels.get(f"{GROUP}/job")
    return Key(kind, metadata["namespace"], job) if kind and job else None


def _decisive(manifest: Manifest, reports: frozenset[str]) -> Any:
    """What a reconcile decides by."""
    metadata = manifest["metadata"]
    status = {name: value for name, value in manifest.get("status", {}).items() if name not in reports}
    return metadata.get("generation"), metadata.get("deletionTimestamp"), manifest.get("spec"), status


def _is_of(pod: Manifest, children: list[Manifest], uid: str) -> bool:
    """Whether the child of its run controls a pod; or did, where that child has gone and its pods have not yet."""
    run = pod["metadata"]["labels"].get(f"{GROUP}/run")
    held = [child for child in children if child["metadata"]["name"] == run]
    if not held:
        return any(owner.get("name", run) == run for owner in owners(pod))
    return any(_controls(child, pod) and controller(child) == uid for child in held)


def _controls(child: Manifest, pod: Manifest) -> bool:
    """Whether a child's controller has made a pod; an InferenceService does by a Deployment and its ReplicaSets."""
    if child["kind"] != "InferenceService":
        return bool(controller(pod) == child["metadata"]["uid"])
    between = f"{child['metadata']['name']}-predictor-"
    return any(owner.get("name", "").startswith(between) for owner in owners(pod))


def _is_older(manifest: Manifest, known: Manifest) -> bool:
    """Whether a later version of the very same object is known."""
    new, old = manifest["metadata"], known["metadata"]
    return bool(new["uid"] == old["uid"] and _number(new["resourceVersion"]) < _number(old["resourceVersion"]))


def _same(before: Manifest, after: Manifest) -> bool:
    """Whether two versions differ in their version alone."""
    one, other = dict(before["metadata"]), dict(after["metadata"])
    one.pop("resourceVersion"), other.pop("resourceVersion")
    return {**before, "metadata": one} == {**after, "metadata": other}


def _number(version: str) -> int:
    """Versions of one server can be compared as numbers (Kubernetes 1.35 says so, and etcd always did)."""
    return int(version) if version.isdigit() else 0
