"""Who may speak for a run: a pod with a token of its own, whose live owners lead to the job. Labels prove nothing."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from lmops.cluster import RESOURCES, Cluster, RefusedError
from lmops.memory import Memory
from lmops.plan import Key, Manifest
from lmops.progress.endpoint import KINDS, job_of
from lmops.progress.tokens import VALID_FOR, Holder, Verify

WORKLOADS = ("Job", "PyTorchJob")
SPEAKERS = 10_000


class ForeignError(Exception):
    """The pod does not belong to the run that it names."""


class _Place(NamedTuple):
    """The run that a request names."""

    job: Key
    run: str


class Trust:
    """The guard of a cluster. What it has found out it keeps for as long as an answer about a token."""

    def __init__(self, cluster: Cluster, verify: Verify, audience: str) -> None:
        self.cluster, self.verify, self.audience = cluster, verify, audience
        self._owners = Memory[tuple[Holder, _Place], str](VALID_FOR, SPEAKERS)

    async def __call__(self, request: web.Request) -> str:
        """The UID of the job that a request may speak for; it raises 401 or 403 where there is none."""
        holder = await self._holder(request)
        place = _Place(job_of(request), request.match_info["run"])
        owner = self._owners.get((holder, place))
        if owner is None:
            try:
                owner = await owner_of(self.cluster, holder, *place)
            except ForeignError as foreign:
                raise web.HTTPForbidden(text=f"{foreign}\n") from None
            self._owners.put((holder, place), owner)
        return owner

    async def _holder(self, request: web.Request) -> Holder:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("no token: send the pod's ServiceAccount token as Authorization: Bearer")
        holder = await self.verify(token.strip())
        if holder is None:
            raise _unauthorized(f"the token is not valid: it must be a pod's own, for the audience {self.audience}")
        return holder


async def owner_of(cluster: Cluster, holder: Holder, job: Key, run: str) -> str:
    """The UID of the job whose run a pod is; `ForeignError` where the chain is broken, and where it is."""
    if not holder.pod:
        raise ForeignError("the token was given to no pod")
    if holder.namespace != job.namespace:
        raise ForeignError(f"pod {holder.pod} is in namespace {holder.namespace}, and not in {job.namespace}")
    pod = await _live(cluster, "Pod", job.namespace, holder.pod, holder.uid)
    by = _controller(pod, *WORKLOADS)
    child = await _live(cluster, by["kind"], job.namespace, by["name"], by["uid"])
    parent = _controller(child, *KINDS.values())
    if (parent["kind"], parent["name"]) != (job.kind, job.name):
        this = f"{parent['kind']} {parent['name']}"
        raise ForeignError(f"pod {holder.pod} belongs to {this}, and not to {job.kind} {job.name}")
    if by["name"] != run:
        raise ForeignError(f"pod {holder.pod} belongs to run {by['name']}, and not to {run}")
    return str(parent["uid"])


async def _live(cluster: Cluster, kind: str, namespace: str, name: str, uid: str) -> Manifest:
    """An object as it is now, if it is still that of this UID."""
    try:
        found = await cluster.get(kind, namespace, name)
    except RefusedError as refusal:
        if not refusal.is_missing:
            raise
        raise ForeignError(f"{kind} {name} is gone") from None
    if found["metadata"]["uid"] != uid:
        raise ForeignError(f"{kind} {name} is another one of that name")
    return {**found, "kind": kind}


def _controller(manifest: Manifest, *kinds: str) -> Manifest:
    """The reference to an object's controller, which must be of one of our kinds."""
    references = manifest["metadata"].get("ownerReferences", ())
    controller: Manifest = next((reference for reference in references if reference.get("controller")), {})
    kind = controller.get("kind", "")
    if kind not in kinds or _group(controller.get("apiVersion", "")) != _group(RESOURCES[kind].api_version):
        this = f"{manifest['kind']} {manifest['metadata']['name']}"
        raise ForeignError(f"{this} is controlled by no {' or '.join(kinds)}")
    return controller


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _unauthorized(sentence: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text=f"{sentence}\n", headers={"WWW-Authenticate": "Bearer"})
