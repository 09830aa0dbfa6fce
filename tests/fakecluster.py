"""A small API server in memory, for faults that only a fake can time: conflicts, lost replies, lost events, crashes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

from lmops.cluster import RefusedError, UnreachableError
from lmops.patches import merged
from lmops.plan import Manifest, Ref

Name = tuple[str, str, str]
"""Kind, namespace, name."""


class FakeCluster:
    """A `lmops.cluster.Cluster`. `fault(n, when)` is asked before and after the n-th request, and may raise."""

    def __init__(self) -> None:
        self.objects: dict[Name, Manifest] = {}
        self.events: list[tuple[str, Manifest]] = []
        """What a watch would tell, in its order; whoever listens empties it."""
        self.version, self.requests = 0, 0
        self.made = Counter[Ref]()
        """How often each object was created."""
        self.writes = Counter[str]()
        self.fault: Callable[[int, str], None] = lambda request, when: None

    # What the operator does

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        return await self._answer("get", lambda: self._found(kind, namespace, name))

    async def list(self, kind: str, namespace: str = "", selector: str = "") -> list[Manifest]:
        def found() -> list[Manifest]:
            mine = [m for (k, n, _), m in self.objects.items() if k == kind and namespace in ("", n)]
            return [m for m in mine if not selector or selector in m["metadata"].get("labels", {})]

        return await self._answer("list", found)

    async def create(self, manifest: Manifest) -> Manifest:
        return await self._answer("create", lambda: self.put_new(manifest))

    async def replace(self, manifest: Manifest) -> Manifest:
        def act() -> Manifest:
            metadata = manifest["metadata"]
            self._current(manifest["kind"], metadata["namespace"], metadata["name"], metadata["resourceVersion"])
            return self.put(manifest)

        return await self._answer("replace", act)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Manifest, version: str) -> Manifest:
        def act() -> Manifest:
            found = self._current(kind, namespace, name, version)
            return self.put({**found, "status": merged(found.get("status", {}), patch)})

        return await self._answer("patch_status", act)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        def act() -> None:
            found = self._found(kind, namespace, name)
            if found["metadata"]["uid"] != uid:
                raise RefusedError(409, "Conflict", "the UID in the precondition does not match")
            if "deletionTimestamp" not in found["metadata"]:
                self.put({**found, "metadata": {**found["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}})

        await self._answer("delete", act)

    # What the rest of the cluster does

    def put_new(self, manifest: Manifest) -> Manifest:
        """A new object."""
        metadata = manifest["metadata"]
        ref = Ref.of(manifest)
        if (ref.kind, metadata["namespace"], ref.name) in self.objects:
            raise RefusedError(409, "AlreadyExists", f"{ref.name} already exists")
        self.made[ref] += 1
        born = {"uid": f"uid-{self.version + 1}", "generation": 1, "creationTimestamp": "2026-11-23T12:00:00Z"}
        return self.put({**manifest, "metadata": {**metadata, **born}}, "ADDED")

    def put(self, manifest: Manifest, type_: str = "MODIFIED") -> Manifest:
        """An object in place of what was there."""
        self.version += 1
        manifest = copy.deepcopy(manifest)
        manifest["metadata"]["resourceVersion"] = str(self.version)
        self.objects[self._name(manifest)] = manifest
        self.events.append((type_, copy.deepcopy(manifest)))
        return copy.deepcopy(manifest)

    def remove(self, manifest: Manifest) -> None:
        """An object is gone."""
        del self.objects[self._name(manifest)]
        self.events.append(("DELETED", copy.deepcopy(manifest)))

    def of(self, *kinds: str) -> list[Manifest]:
        """All objects of these kinds."""
        return [manifest for (kind, _, _), manifest in list(self.objects.items()) if kind in kinds]

    async def _answer(self, verb: str, act: Callable[[], Any]) -> Any:
        self.requests += 1
        request = self.requests
        self.fault(request, "before")
        if verb not in ("get", "list"):
            self.writes[verb] += 1
        try:
            return copy.deepcopy(act())
        finally:
            self.fault(request, "after")

    def _found(self, kind: str, namespace: str, name: str) -> Manifest:
        if (kind, namespace, name) not in self.objects:
            raise RefusedError(404, "NotFound", f"{kind} {name} not found")
        return self.objects[kind, namespace, name]

    def _current(self, kind: str, namespace: str, name: str, version: str) -> Manifest:
        found = self._found(kind, namespace, name)
        if found["metadata"]["resourceVersion"] != version:
            raise RefusedError(409, "Conflict", "the object has been modified")
        return found

    @staticmethod
    def _name(manifest: Manifest) -> Name:
        return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


class CrashError(BaseException):
    """The operator's process is gone."""


def crash(at: int, when: str) -> Callable[[int, str], None]:
    """The process ends before its n-th request is sent, or after it was carried out."""

    def fault(request: int, moment: str) -> None:
        if (request, moment) == (at, when):
            raise CrashError

    return fault


def lose_reply(at: int) -> Callable[[int, str], None]:
    """The n-th request is carried out, and its answer never comes."""

    def fault(request: int, moment: str) -> None:
        if (request, moment) == (at, "after"):
            raise UnreachableError("connection reset")

    return fault
