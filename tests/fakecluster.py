"""An API server in this process, for faults that only a fake can time: conflicts, lost replies, crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from faults import NONE, Request
from lmops.cluster import MANAGER, RefusedError, UnreachableError
from lmops.plan import Manifest
from store import Store, is_chosen

T = TypeVar("T")


class CrashError(BaseException):
    """The operator's process is gone."""


class FakeCluster:
    """A `lmops.cluster.Cluster` in front of a store; its requests meet `faults`."""

    def __init__(self, store: Store) -> None:
        self.store, self.faults = store, NONE
        self.missing = set[str]()
        """Kinds that are not installed."""
        self.requests = 0
        self.documents: dict[str, Manifest] = {}
        """What is there besides the store's objects, by its path."""
        self.writes = Counter[str]()

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        return self._answer("get", kind, lambda: self.store.get(kind, namespace, name))

    async def list(
        self, kind: str, namespace: str = "", selector: str = "", fields: str = ""
    ) -> AsyncIterator[Manifest]:
        for manifest in self._answer("list", kind, lambda: self.store.select(kind, namespace, selector), namespace):
            if is_chosen(manifest, fields):
                yield manifest

    async def document(self, path: str) -> Manifest:
        def found() -> Manifest:
            if path not in self.documents:
                raise RefusedError(404, "NotFound", "the server could not find the requested resource")
            return self.documents[path]

        return self._answer("get", path, found)

    async def create(self, manifest: Manifest) -> Manifest:
        return self._answer("create", manifest["kind"], lambda: self.store.create(manifest, MANAGER))

    async def apply(self, manifest: Manifest) -> Manifest:
        name = (manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return self._answer("apply", manifest["kind"], lambda: self.store.apply(name, manifest, MANAGER, force=True))

    async def replace(self, manifest: Manifest) -> Manifest:
        return self._answer("replace", manifest["kind"], lambda: self.store.replace(manifest, manager=MANAGER))

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Manifest, version: str) -> Manifest:
        body = {"metadata": {"resourceVersion": version}, "status": patch}
        return self._answer("patch", kind, lambda: self.store.patch((kind, namespace, name), body, "status", MANAGER))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._answer("delete", kind, lambda: self.store.delete((kind, namespace, name), uid, foreground=True))

    async def serves(self, kind: str) -> bool:
        """Whether it is installed here."""
        return kind not in self.missing

    def _answer(self, verb: str, kind: str, act: Callable[[], T], namespace: str = "") -> T:
        self.requests += 1
        request = Request(self.requests, verb, kind, namespace)
        match self.faults.hit(request, "crash", "answer", "reset"):
            case None:
                pass
            case fault if fault.does == "crash":
                raise CrashError
            case fault if fault.does == "reset":
                raise UnreachableError("connection reset")
            case fault:
                raise RefusedError(fault.status, fault.reason, "the server is not well", fault.retry_after)
        if kind in self.missing:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        if verb not in ("get", "list"):
            self.writes[verb] += 1
        try:
            return act()
        finally:
            if fault := self.faults.hit(request, "lose", "crash after"):
                raise UnreachableError("connection reset") if fault.does == "lose" else CrashError
