"""The only way to Kubernetes: reads and writes of single objects, and what a server can answer instead."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from pydantic_core import from_json

from lmops.plan import Manifest

MANAGER = "lmops"
"""The field manager of all that we write."""
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
CONNECTIONS = 32
PAGE = 100
"""Objects in one answer to a list: a small Job is 30 KB once it is parsed."""


Pairs = list[tuple[str, str]]


class Resource(NamedTuple):
    """Where the API server keeps a kind."""

    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def group_version(self) -> tuple[str, str]:
        """Its API group, empty for the core, and its version."""
        group, _, version = self.api_version.rpartition("/")
        return group, version

    @property
    def root(self) -> str:
        """The path of its API group's version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of a collection, an object, or a part of one."""
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return self.root + scope + f"/{self.plural}" + "".join(f"/{part}" for part in (name, subresource) if part)


RESOURCES = {
    "TrainingJob": Resource("lmops.dev/v1alpha1", "trainingjobs"),
    "QuantizeJob": Resource("lmops.dev/v1alpha1", "quantizejobs"),
    "LanguageModelService": Resource("lmops.dev/v1alpha1", "languagemodelservices"),
    "InferenceService": Resource("serving.kserve.io/v1beta1", "inferenceservices"),
    "PodMonitor": Resource("monitoring.coreos.com/v1", "podmonitors"),
    "PrometheusRule": Resource("monitoring.coreos.com/v1", "prometheusrules"),
    "Ingress": Resource("networking.k8s.io/v1", "ingresses"),
    "HTTPRoute": Resource("gateway.networking.k8s.io/v1", "httproutes"),
    "PyTorchJob": Resource("kubeflow.org/v1", "pytorchjobs"),
    "Job": Resource("batch/v1", "jobs"),
    "Pod": Resource("v1", "pods"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Secret": Resource("v1", "secrets"),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims"),
    "Event": Resource("events.k8s.io/v1", "events"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "TokenReview": Resource("authentication.k8s.io/v1", "tokenreviews", namespaced=False),
}
"""The kinds that the operator reads or writes."""


class RefusedError(Exception):
    """The server understood, and said no."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

    @property
    def is_missing(self) -> bool:
        """The object is not there, or its kind is not installed."""
        return self.status == 404

    @property
    def is_taken(self) -> bool:
        """An object of that name is there already."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_stale(self) -> bool:
        """The object has changed since it was read."""
        return self.status == 409 and not self.is_taken

    @property
    def is_final(self) -> bool:
        """To send the same again would bring the same answer."""
        return self.status == 422


class UnreachableError(Exception):
    """No answer: whether the server has done what it was asked is not known."""


class NowhereError(Exception):
    """Nothing says where the cluster is."""


class Cluster(Protocol):
    """What the operator does with an API server. All raise `RefusedError` and `UnreachableError`."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """One object, as it is now."""

    def list(self, kind: str, namespace: str = "", selector: str = "", fields: str = "") -> AsyncIterator[Manifest]:
        """All objects of a kind, in a namespace or in all of them, one by one: there may be very many.

        `selector` chooses by labels, `fields` by the few fields that the server knows for that.
        """

    async def document(self, path: str) -> Manifest:
        """A document that the server publishes, as its OpenID configuration."""

    async def create(self, manifest: Manifest) -> Manifest:
        """A new object, as the server keeps it."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """An object, as the server keeps it, whose fields are those written here, and those that others have set."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """An object in place of the version that it carries."""

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Manifest, version: str) -> Manifest:
        """An object of that version with a merge patch of its status."""

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Asks for an object's deletion in the foreground, if it is still the one of that UID."""


class Kubernetes:
    """A cluster behind the official client."""

    def __init__(
        self,
        api: client.ApiClient,
        permit: Callable[[], None] = lambda: None,
        sent: Callable[[str, int], None] = lambda method, status: None,
    ) -> None:
        """`permit` raises where nothing may be written; `sent` is told each request's method and answer."""
        self.api, self.permit, self.sent = api, permit, sent

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        return await self._ask("GET", RESOURCES[kind].path(namespace, name))

    async def list(
        self, kind: str, namespace: str = "", selector: str = "", fields: str = ""
    ) -> AsyncIterator[Manifest]:
        path, more = RESOURCES[kind].path(namespace), ""
        while True:
            query = [("limit", str(PAGE)), ("labelSelector", selector), ("fieldSelector", fields), ("continue", more)]
            page = await self._ask("GET", path, query=[(name, value) for name, value in query if value])
            for item in page["items"]:
                yield {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **item}
            if not (more := page["metadata"].get("continue", "")):
                return

    async def create(self, manifest: Manifest) -> Manifest:
        path = RESOURCES[manifest["kind"]].path(manifest["metadata"].get("namespace", ""))
        return await self._ask("POST", path, manifest, query=[("fieldManager", MANAGER)])

    async def apply(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        path = RESOURCES[manifest["kind"]].path(metadata["namespace"], metadata["name"])
        query = [("fieldManager", MANAGER), ("force", "true")]
        return await self._ask("PATCH", path, manifest, query=query, content_type="application/apply-patch+yaml")

    async def document(self, path: str) -> Manifest:
        return await self._ask("GET", path, accept="application/json, application/jwk-set+json")

    async def replace(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        path = RESOURCES[manifest["kind"]].path(metadata["namespace"], metadata["name"])
        return await self._ask("PUT", path, manifest, query=[("fieldManager", MANAGER)])

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Manifest, version: str) -> Manifest:
        body = {"metadata": {"resourceVersion": version}, "status": patch}
        path = RESOURCES[kind].path(namespace, name, "status")
        merge = "application/merge-patch+json"
        return await self._ask("PATCH", path, body, query=[("fieldManager", MANAGER)], content_type=merge)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        await self._ask("DELETE", RESOURCES[kind].path(namespace, name), body)

    async def serves(self, kind: str) -> bool:
        """Whether a kind is installed."""
        try:
            found = await self._ask("GET", RESOURCES[kind].root)
        except RefusedError as refusal:
            if refusal.is_missing:
                return False
            raise
        return any(resource["name"] == RESOURCES[kind].plural for resource in found["resources"])

    async def _ask(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        query: Pairs | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Manifest:
        """One request. Nothing is repeated here: the queue comes back to what failed."""
        if method != "GET" and "/leases" not in path and "/tokenreviews" not in path:
            self.permit()
        headers = {"Accept": accept, "Content-Type": content_type}
        await self.api.update_params_for_auth(headers, None, ["BearerToken"], path, method, body)
        url = self.api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        send: Any = self.api.rest_client.request
        try:
            answer = await send(method, url, headers=headers, body=body, _request_timeout=TIMEOUT)
            text = await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.sent(method, 0)
            raise UnreachableError(f"{method} {path}: {error or type(error).__name__}") from error
        self.sent(method, answer.status)
        if 200 <= answer.status <= 299:
            return _object(text)
        raise _refusal(answer.status, text, answer.getheader("Retry-After"))


def _object(text: bytes) -> Manifest:
    try:
        found: Manifest = from_json(text)
    except ValueError as error:
        raise UnreachableError("the answer was cut short") from error
    return found


def _refusal(status: int, text: bytes, retry_after: str | None) -> RefusedError:
    try:
        told = json.loads(text)
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    wait = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
    message = told.get("message") or text.decode(errors="replace").strip()[:300]
    return RefusedError(status, told.get("reason") or f"Http{status}", message, wait)


@asynccontextmanager
async def connected() -> AsyncIterator[client.ApiClient]:
    """A client for the cluster that this process runs in, or that KUBECONFIG names."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        file = os.environ.get("KUBECONFIG")
        try:
            await config.load_kube_config(file, client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            where = f"KUBECONFIG={file}" if file else "~/.kube/config"
            raise NowhereError(f"this is no pod, and {where} names no cluster: {error}") from error
    settings.connection_pool_maxsize = CONNECTIONS
    settings.client_session_kwargs = {"trust_env": False}  # it would ask .netrc and for proxies before every request
    async with client.ApiClient(settings) as api:
        yield api
