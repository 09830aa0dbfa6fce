"""An API server on a loopback port, for faults only: a store behind HTTP, with discovery, watches and bad weather."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from aiohttp import web

from faults import NONE, Fault, Request
from lmops.cluster import RESOURCES, RefusedError, Resource
from lmops.plan import Manifest
from store import Change, Store, is_chosen, is_selected

KINDS = {
    **RESOURCES,
    "Namespace": Resource("v1", "namespaces", namespaced=False),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False),
}
CUSTOM = ("TrainingJob", "PyTorchJob")
"""The kinds that are there only as long as their CRDs are."""
METHODS = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}


class Place(NamedTuple):
    """What a path names."""

    kind: str
    namespace: str
    name: str
    part: str


class Asked(NamedTuple):
    """A request that was answered."""

    who: str
    verb: str
    kind: str
    name: str
    status: int


class FakeApi:
    """Serves a store; its requests meet `faults`. `stop` and `start` take it away and bring it back."""

    def __init__(self, store: Store, bookmarks: float = 60) -> None:
        self.store, self.bookmarks, self.faults = store, bookmarks, NONE
        self.port, self.requests = 0, 0
        self.asked: list[Asked] = []
        self.lagging = set[str]()
        """Kinds whose CRDs are there, and that are not served yet."""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeApi:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the same port as before."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Ends all connections, and takes no others."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, folder: Path, who: str = "operator") -> Path:
        """A file for KUBECONFIG; its token is the name under which requests are noted."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": who, "user": {"token": who}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": who, "namespace": "default"}}],
        }
        file = folder / f"{who}.kubeconfig"
        file.write_text(yaml.safe_dump(document))
        return file

    def install(self, *kinds: str) -> None:
        """Creates the CRDs of kinds."""
        for kind in kinds:
            (group, version), plural = KINDS[kind].group_version, KINDS[kind].plural
            spec = {"group": group, "names": {"kind": kind, "plural": plural}, "versions": [{"name": version}]}
            self.store.put_new({
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.{group}"},
                "spec": {**spec, "scope": "Namespaced"},
                "status": {"conditions": [{"type": "Established", "status": "True"}]},
            })  # fmt: skip

    def uninstall(self, kind: str) -> None:
        """Deletes a CRD, and all objects of its kind."""
        for manifest in self.store.of(kind):
            self.store.remove(manifest)
        self.store.remove(self.store.objects[_crd(kind)])

    def writes(self, who: str = "operator", *kinds: str) -> list[Asked]:
        """The writes that somebody did, of some kinds or of all but Leases, Events and the endpoint's Secret."""
        return [
            asked
            for asked in self.asked
            if asked.who == who and asked.verb not in ("get", "list", "watch") and asked.status < 300
            if (asked.kind in kinds if kinds else asked.kind not in ("Lease", "Event", "Secret"))
        ]  # fmt: skip

    def serves(self, kind: str) -> bool:
        """Whether a kind is known."""
        return kind not in CUSTOM or (_crd(kind) in self.store.objects and kind not in self.lagging)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        place = self._place(request.path)
        if place is None:
            return self._discovery(request.path)
        self.requests += 1
        asked = Request(self.requests, _verb(request, place), place.kind, place.namespace)
        if fault := self.faults.hit(asked, "delay"):
            await asyncio.sleep(fault.seconds)
        try:
            fault = self.faults.hit(asked, "answer", "reset")
            if fault and fault.does == "reset":
                return _abort(request)
            if fault:
                raise RefusedError(fault.status, fault.reason, "a fault", fault.retry_after)
            if not self.serves(place.kind):
                raise RefusedError(404, "NotFound", "the server could not find the requested resource")
            if asked.verb == "watch":
                return await self._watch(request, place, asked)
            answer = web.json_response(await self._act(request, place, asked.verb))
        except RefusedError as refusal:
            answer = _refused(refusal)
        who = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.asked.append(Asked(who, asked.verb, place.kind, place.name, answer.status))
        return _abort(request) if self.faults.hit(asked, "lose") else answer

    async def _act(self, request: web.Request, place: Place, verb: str) -> Manifest:
        query, store = request.query, self.store
        body = await request.json() if request.can_read_body else {}
        name, manager = (place.kind, place.namespace, place.name), query.get("fieldManager", "unknown")
        match verb:
            case "get":
                return self._whole(place.kind, store.get(*name))
            case "list":
                return self._page(place, query.get("labelSelector", ""), query)
            case "create":
                done = store.create({**body, "kind": place.kind}, manager)
            case "replace":
                done = store.replace({**body, "kind": place.kind}, place.part, manager)
            case "patch":
                done = store.patch(name, body, place.part, manager)
            case "apply":
                done = store.apply(name, body, manager, query.get("force") == "true")
            case _:
                asks = body.get("preconditions") or {}
                foreground = body.get("propagationPolicy") == "Foreground"
                done = store.delete(name, asks.get("uid", ""), asks.get("resourceVersion", ""), foreground)
        return self._whole(place.kind, done)

    def _page(self, place: Place, selector: str, query: Mapping[str, str]) -> Manifest:
        """A part of a list; `continue` is the number of the objects that were told, and the version they had."""
        after, _, version = query.get("continue", "").partition("@")
        limit = int(query.get("limit", 0))
        if version and int(version) < self.store.forgotten:
            raise RefusedError(410, "Expired", "the continue token is too old")
        chosen = self.store.select(place.kind, place.namespace, selector)
        found = [each for each in chosen if is_chosen(each, query.get("fieldSelector", ""))]
        start = int(after or 0)
        end = start + limit if limit else len(found)
        more = f"{end}@{version or self.store.version}" if end < len(found) else ""
        return {
            "apiVersion": KINDS[place.kind].api_version,
            "kind": f"{place.kind}List",
            "metadata": {"resourceVersion": str(self.store.version), "continue": more},
            "items": [{k: v for k, v in m.items() if k not in ("apiVersion", "kind")} for m in found[start:end]],
        }

    async def _watch(self, request: web.Request, place: Place, asked: Request) -> web.StreamResponse:
        """Tells what happens from a version on, until its time is over."""
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        changes = asyncio.Queue[Change]()
        told = int(request.query.get("resourceVersion", 0))
        self.store.listeners.append(changes.put_nowait)
        try:
            await answer.prepare(request)
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 3600))):
                for change in self.store.since(told):
                    changes.put_nowait(change)
                while True:
                    try:
                        async with asyncio.timeout(self.bookmarks):
                            change = await changes.get()
                    except TimeoutError:
                        mark = {"kind": place.kind, "metadata": {"resourceVersion": str(self.store.version)}}
                        await _send(answer, "BOOKMARK", mark)
                    else:
                        if change.version > told:
                            await self._tell(request, answer, place, asked, change)
                        told = max(told, change.version)
        except RefusedError as refusal:
            await _send(answer, "ERROR", _status(refusal))
        except (TimeoutError, ConnectionError, _EndError):
            pass
        finally:
            self.store.listeners.remove(changes.put_nowait)
        return answer

    async def _tell(
        self, request: web.Request, answer: web.StreamResponse, place: Place, asked: Request, change: Change
    ) -> None:
        type_ = _seen(place, request.query.get("labelSelector", ""), change)
        if not type_:
            return
        told = self._whole(place.kind, change.manifest)
        match self.faults.hit(asked, "spoil"):
            case None:
                await _send(answer, type_, told)
            case Fault(stream="error"):
                await _send(answer, "ERROR", _status(RefusedError(500, "InternalError", "etcdserver: no leader")))
            case Fault(stream="gone"):
                await _send(answer, "ERROR", _status(RefusedError(410, "Expired", "too old resource version")))
            case Fault(stream="truncated"):
                await answer.write(json.dumps({"type": type_, "object": told})[:-20].encode())
                raise _EndError
            case Fault(stream="silent"):
                await asyncio.Event().wait()
            case Fault(stream="closed"):
                raise _EndError

    def _whole(self, kind: str, manifest: Manifest) -> Manifest:
        return {"apiVersion": KINDS[kind].api_version, "kind": kind, **manifest}

    def _place(self, path: str) -> Place | None:
        """What is meant by a path; none where it is discovery."""
        core, *parts = path.strip("/").split("/")
        taken = 1 if core == "api" else 2
        version, parts = "/".join(parts[:taken]), parts[taken:]
        if not parts:
            return None
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        for kind, resource in KINDS.items():
            if (resource.api_version, resource.plural) == (version, parts[0]):
                return Place(kind, namespace, *[*parts[1:], "", ""][:2])
        raise web.HTTPNotFound

    def _discovery(self, path: str) -> web.Response:
        versions: dict[str, set[str]] = {}
        for kind, resource in KINDS.items():
            if self.serves(kind):
                versions.setdefault(resource.group_version[0], set()).add(resource.group_version[1])
        match path.strip("/").split("/"):
            case ["version"]:
                return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.3"})
            case ["api"]:
                return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                groups = [
                    {"name": group, "versions": [{"version": v} for v in known], "preferredVersion": {"version": v}}
                    for group, known in versions.items() if group for v in sorted(known)
                ]  # fmt: skip
                return web.json_response({"kind": "APIGroupList", "groups": groups})
            case [_, *rest]:
                return self._resources("/".join(rest))
        raise web.HTTPNotFound

    def _resources(self, api_version: str) -> web.Response:
        kinds = [kind for kind, resource in KINDS.items() if resource.api_version == api_version and self.serves(kind)]
        if not kinds:
            return _refused(RefusedError(404, "NotFound", "the server could not find the requested resource"))
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        found = [
            {"name": KINDS[kind].plural, "singularName": kind.lower(), "kind": kind, "verbs": verbs,
             "namespaced": KINDS[kind].namespaced}
            for kind in kinds
        ]  # fmt: skip
        return web.json_response({"kind": "APIResourceList", "groupVersion": api_version, "resources": found})


class _EndError(Exception):
    """A watch ends."""


def _crd(kind: str) -> tuple[str, str, str]:
    return "CustomResourceDefinition", "", f"{KINDS[kind].plural}.{KINDS[kind].group_version[0]}"


def _verb(request: web.Request, place: Place) -> str:
    if request.method == "GET" and not place.name:
        return "watch" if request.query.get("watch") in ("true", "1") else "list"
    return "apply" if "apply-patch" in request.headers.get("Content-Type", "") else METHODS[request.method]


def _seen(place: Place, selector: str, change: Change) -> str:
    """What a change is to a watch with a selector: an object that stops to be selected is gone."""
    kind, metadata = change.manifest["kind"], change.manifest["metadata"]
    if kind != place.kind or place.namespace not in ("", metadata.get("namespace", "")):
        return ""
    is_in, was_in = is_selected(change.manifest, selector), bool(change.before and is_selected(change.before, selector))
    if change.type == "MODIFIED" and is_in != was_in:
        return "ADDED" if is_in else "DELETED"
    return change.type if is_in else ""


async def _send(answer: web.StreamResponse, type_: str, manifest: Manifest) -> web.StreamResponse:
    await answer.write(json.dumps({"type": type_, "object": manifest}).encode() + b"\n")
    return answer


def _abort(request: web.Request) -> web.Response:
    """The connection is gone."""
    if request.transport:
        request.transport.abort()
    return web.Response(status=500)


def _status(refusal: RefusedError) -> Manifest:
    said = {"code": refusal.status, "reason": refusal.reason, "message": refusal.message}
    return {"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", **said}


def _refused(refusal: RefusedError) -> web.Response:
    wait = {"Retry-After": str(int(refusal.retry_after))} if refusal.retry_after else {}
    return web.json_response(_status(refusal), status=refusal.status, headers=wait)
