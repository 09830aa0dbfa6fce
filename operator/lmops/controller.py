"""One reconcile of one resource: what was seen becomes a plan, and the plan is carried out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from lmops import events
from lmops.cache import SELECTOR, Cache
from lmops.cluster import Cluster, RefusedError
from lmops.figures import Figures
from lmops.kinds import Kind
from lmops.obstacles import Obstacles
from lmops.patches import difference
from lmops.plan import Key, Manifest, Observed, Plan, Ref, Refusal, created
from lmops.settings import Settings

UNWATCHED = 10.0

log = logging.getLogger("lmops")


def _now() -> datetime:
    return datetime.now(UTC)


class Controller:
    """Carries out what the kinds' reconciles decide."""

    def __init__(
        self, kinds: Mapping[str, Kind], cluster: Cluster, settings: Settings, now: Callable[[], datetime] = _now
    ) -> None:
        self.kinds, self.cluster, self.settings, self.now = kinds, cluster, settings, now
        self.cache = Cache({name: kind.reports for name, kind in kinds.items()})
        self.refused: dict[Key, dict[Ref, Refusal]] = {}
        """What the server would not create, and in what words."""
        self.waiting: dict[Key, tuple[Ref, ...]] = {}
        """The resources that each waits for; without a name all of a kind."""
        self.changed: Callable[[Key], None] = lambda key: None
        """Told of a resource that something it waits for has changed."""
        self.obstacles = Obstacles(cluster, self.cache, now)
        """What others say that keeps children from their pods."""
        self.figures = Figures()
        """What servers say of their traffic."""
        self.since: datetime | None = None
        """Since when the cluster was there without a break: whoever reports could be heard."""
        self.absent: set[str] = set()
        """The kinds of children that are not installed, as the last list told."""
        self.forbidden: dict[str, str] = {}
        """The namespaces that may not be read, and the server's words for that: nothing is decided there."""

    async def reconcile(self, key: Key) -> float | None:
        """Moves a resource one step on; the seconds after which it wants to be looked at again."""
        if key.namespace in self.forbidden:
            return None
        owner = self.cache.owner(key)
        if owner is None:
            self.cache.abandon(key)
        if owner is None or "deletionTimestamp" in owner["metadata"]:
            self.refused.pop(key, None)
            self.waiting.pop(key, None)
            return None
        kind = self.kinds[key.kind]
        if kind.is_settled(owner, self.cache.observed(key), self.settings):
            self.waiting.pop(key, None)
            self.cache.settle(key)
            return None
        try:
            resource = kind.form.model.model_validate(owner)
        except ValidationError as error:
            await self._tell(key, owner, unreadable(owner, error, self.now()))
            return None
        observed = await self._observed(key, kind, resource)
        plan = kind.reconcile(resource, observed, self.now(), self.settings)
        try:
            refused = await self._carry_out(key, owner, observed, plan)
        except RefusedError as refusal:
            if not (refusal.is_stale or refusal.is_missing) or not await self._look(key):
                raise
            return 0  # somebody was faster: decide again on what is there now
        if refused and self._is_news(key, refused):
            return 0
        if refused:
            raise NotCreatedError(next(iter(refused.values())))
        if self.refused.pop(key, None) is not None and (plan.create or plan.apply):
            return 0  # what was refused is there now: the status still says why it was not
        if self.cache.doubtful.get(key):  # a child that no watch shows any more is looked at from time to time
            return min(UNWATCHED, plan.again.total_seconds() if plan.again else UNWATCHED)
        return None if plan.again is None else plan.again.total_seconds()

    def _is_news(self, key: Key, refused: dict[Ref, Refusal]) -> bool:
        """Keeps what was refused; whether to tell it at once. Other words for it are told when it was tried again."""
        before = self.refused.get(key, {})
        kept = {
            ref: old if (old := before.get(ref)) and old.says_the_same(new) else new for ref, new in refused.items()
        }
        self.refused[key] = kept
        return any(ref not in before or new.is_final > before[ref].is_final for ref, new in kept.items())

    async def resync(
        self, namespaces: tuple[str, ...] = ("",), changed: Callable[[Key], None] = lambda key: None
    ) -> None:
        """Lists everything there is: what watches have missed, or never said is gone.

        `changed` is told each key at once: what was taken from one list is not new any more if the next one fails.
        A namespace that may not be read, as one that was deleted with its rights, is left out until it may; where no
        namespace may be read, `RefusedError` is raised.
        """
        refusals: dict[str, RefusedError] = {}
        for where in namespaces:
            try:
                await self._list_all(where, changed)
            except RefusedError as refusal:
                if refusal.status != 403:
                    raise
                refusals[where] = refusal
        if refusals.keys() >= set(namespaces):
            raise next(iter(refusals.values()))
        again = self.forbidden.keys() - refusals.keys()
        self.forbidden = {where: refusal.message for where, refusal in refusals.items()}
        for key in self.cache:
            if key.namespace in again:
                changed(key)

    async def _list_all(self, namespace: str, changed: Callable[[Key], None]) -> None:
        """Lists all kinds in a namespace, resources last: a child is seen before anybody could miss it."""
        wanted = {child: SELECTOR for kind in self.kinds.values() for child in (*kind.children, "Pod")}
        for name in (*wanted, *self.kinds):
            await self._list(name, namespace, wanted.get(name, ""), changed)

    async def _list(self, kind: str, namespace: str, selector: str, changed: Callable[[Key], None]) -> None:
        """Lists a kind; what a whole list does not have is gone."""
        with self.cache.listing(kind, namespace) as listing:
            try:
                async for manifest in self.cluster.list(kind, namespace, selector):
                    if key := listing.take(manifest):
                        changed(key)
            except RefusedError as refusal:
                if not refusal.is_missing:  # a kind that is not installed has no objects
                    raise
                self._installed(kind, False, changed)
                return
        self._installed(kind, True, changed)
        if kind in self.kinds:
            gone = [key for key in self.cache.unlisted(listing, namespace) if await self._look(key)]
        else:
            gone = self.cache.prune(listing)
        for key in gone:
            changed(key)

    def _installed(self, kind: str, is_there: bool, changed: Callable[[Key], None]) -> None:
        """Keeps whether a kind is installed; those who could have children of it are told when that changes."""
        if is_there != (kind in self.absent):
            return
        self.absent ^= {kind}
        for key in self.cache:
            if kind in self.kinds[key.kind].children:
                changed(key)

    async def _observed(self, key: Key, kind: Kind, resource: Any) -> Observed:
        """What is there. A child that should be there and was not seen is asked for: its absence would end a run."""
        seen = self.cache.observed(key)
        missing = [ref for ref in kind.expected(resource, self.settings) if ref not in seen.children]
        for ref in {*missing, *self.cache.doubtful.get(key, ())}:
            found = await self._read(ref.kind, key.namespace, ref.name)
            if found is None:
                self.cache.forget(key, ref)
            else:
                self.cache.take_as(key, found)
        sources = self._sources(key, kind.sources(resource))
        modes = await self._modes(key.namespace, kind.claims(resource, sources))
        there = self.cache.observed(key)
        return replace(
            there,
            figures=await self.figures.of(there.pods),
            refused=self.refused.get(key, {}),
            obstacles=self.obstacles.heard.get(key, {}),
            modes=modes,
            sources=sources,
            absent=frozenset(self.absent.intersection(kind.children)),
            since=self.since,
        )

    def _sources(self, key: Key, wanted: tuple[Ref, ...]) -> tuple[Manifest, ...]:
        """The resources that one waits for, as they were last seen. It will be told of their changes."""
        if not wanted:
            self.waiting.pop(key, None)
            return ()
        self.waiting[key] = wanted
        keys = (other for ref in wanted for other in self.cache.of_kind(ref.kind, key.namespace, ref.name))
        return tuple(owner for other in keys if (owner := self.cache.owner(other)))

    async def _modes(self, namespace: str, claims: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """The access modes of the claims that are there."""
        found = {claim: await self._read("PersistentVolumeClaim", namespace, claim) for claim in claims}
        return {claim: tuple(there["spec"].get("accessModes", ())) for claim, there in found.items() if there}

    async def _carry_out(self, key: Key, owner: Manifest, observed: Observed, plan: Plan[Any]) -> dict[Ref, Refusal]:
        """The status first: it is written only onto the version that the plan was made for: a stale plan does nothing.

        Then what is to go, what is to come, and the events. Returns what the server would not create.
        """
        told = await self._tell(key, owner, plan.status.manifest())
        if not told and (plan.create or plan.apply or plan.delete):
            await self._confirm(key, owner)
        for ref in plan.delete:
            await self._delete(key, ref, observed)
        refused, news = {}, list(plan.events if told else ())
        for manifest in plan.create:
            if refusal := await self._create(key, owner, manifest):
                refused[Ref.of(manifest)] = refusal
            else:
                news.append(created(manifest))
        for manifest in plan.apply:
            if refusal := await self._apply(key, owner, manifest):
                refused[Ref.of(manifest)] = refusal
        for event in news:
            await events.post(self.cluster, owner, event, self.now())
        return refused

    async def _tell(self, key: Key, owner: Manifest, status: Manifest) -> bool:
        """Writes the status if it is another; whether it was."""
        patch = difference(owner.get("status", {}), status)
        if not patch:
            return False
        written = await self.cluster.patch_status(*key, patch, owner["metadata"]["resourceVersion"])
        self.cache.take(written)
        for other, wanted in self.waiting.items():
            if other.namespace == key.namespace and {Ref(key.kind, key.name), Ref(key.kind, "")} & set(wanted):
                self.changed(other)
        if (line := _line(status)) != _line(owner.get("status", {})):
            log.info("%s: %s", key, line, extra={"resource": key._asdict()})
        return True

    async def _confirm(self, key: Key, owner: Manifest) -> None:
        """A plan that changes no status has no version to fail on: what it was made for is read again."""
        live = await self.cluster.get(*key)
        if live["metadata"]["resourceVersion"] != owner["metadata"]["resourceVersion"]:
            raise RefusedError(409, "Conflict", f"{key} has changed since it was read")

    async def _create(self, key: Key, owner: Manifest, manifest: Manifest) -> Refusal | None:
        """Creates a child, once. `None` when it is there."""
        ref = Ref.of(manifest)
        try:
            self.cache.take(await self.cluster.create(manifest))
        except RefusedError as refusal:
            if refusal.is_taken:
                return await self._is_ours(key, owner, ref)
            return _told(ref, refusal)
        log.info("%s: created %s %s", key, *ref, extra={"resource": key._asdict()})
        return None

    async def _apply(self, key: Key, owner: Manifest, manifest: Manifest) -> Refusal | None:
        """Writes a child as it should be. What has its name and was not seen as ours is looked at first."""
        ref = Ref.of(manifest)
        try:
            if "uid" not in manifest["metadata"] and (found := await self._read(ref.kind, key.namespace, ref.name)):
                if refusal := _held_by_another(key, owner, ref, found):
                    return refusal
                manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": found["metadata"]["uid"]}}
            self.cache.take(await self.cluster.apply(manifest))
        except RefusedError as refusal:
            return _told(ref, refusal)
        log.info("%s: wrote %s %s", key, *ref, extra={"resource": key._asdict()})
        return None

    async def _is_ours(self, key: Key, owner: Manifest, ref: Ref) -> Refusal | None:
        """Who holds a name that we wanted."""
        found = await self._read(ref.kind, key.namespace, ref.name)
        if found is None:
            return Refusal("Leaving", f"{ref.kind} {ref.name} has just been deleted.")
        if refusal := _held_by_another(key, owner, ref, found):
            return refusal
        self.cache.take_as(key, found)
        return None

    async def _delete(self, key: Key, ref: Ref, observed: Observed) -> None:
        child = observed.children.get(ref)
        if child is None or "deletionTimestamp" in child["metadata"]:
            return
        try:
            await self.cluster.delete(ref.kind, key.namespace, ref.name, child["metadata"]["uid"])
        except RefusedError as refusal:
            if not (refusal.is_missing or refusal.is_stale):
                raise
            self.cache.forget(key, ref)
        log.info("%s: deleted %s %s", key, *ref, extra={"resource": key._asdict()})

    async def _look(self, key: Key) -> bool:
        """Reads a resource anew; whether it is another than before."""
        before, found = self.cache.owner(key), await self._read(*key)
        if found is not None:
            self.cache.take(found)
        elif before is not None:
            self.cache.drop(before)
        return before != self.cache.owner(key)

    async def _read(self, kind: str, namespace: str, name: str) -> Manifest | None:
        try:
            return await self.cluster.get(kind, namespace, name)
        except RefusedError as refusal:
            if refusal.is_missing:
                return None
            raise


class NotCreatedError(Exception):
    """The server would not create a child; it is asked again later."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.retry_after = refusal.retry_after


def unreadable(owner: Manifest, error: ValidationError, now: datetime) -> Manifest:
    """The status of a resource that is not of this version's form, as one that an older CRD has let in."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = f"{where}: {first['msg']}. Delete the resource and create it anew in the form of this version."
    status, generation = owner.get("status", {}), owner["metadata"].get("generation", 1)
    before: Manifest = next((c for c in status.get("conditions", ()) if c["type"] == "Accepted"), {})
    since = before.get("lastTransitionTime") if before.get("status") == "False" else None
    refused = {
        "type": "Accepted",
        "status": "False",
        "reason": "Unreadable",
        "message": message[:4096],
        "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "observedGeneration": generation,
    }
    others = [c for c in status.get("conditions", ()) if c["type"] != "Accepted"]
    shown = {**status.get("display", {}), "reason": f"Unreadable: {message}"}
    return {**status, "conditions": [refused, *others], "display": shown, "observedGeneration": generation}


def _held_by_another(key: Key, owner: Manifest, ref: Ref, found: Manifest) -> Refusal | None:
    """Why an object of a name that we wanted is not ours; `None` where it is."""
    metadata = found["metadata"]
    holder: Manifest = next((o for o in metadata.get("ownerReferences", ()) if o.get("controller")), {})
    if holder.get("uid") == owner["metadata"]["uid"]:
        return None
    if "deletionTimestamp" in metadata or (holder.get("kind"), holder.get("name")) == (key.kind, key.name):
        return Refusal("Leaving", f"{ref.kind} {ref.name} of an earlier {key.kind} {key.name} is still leaving.")
    return Refusal(
        "NameConflict",
        f"{ref.kind} {ref.name} is there already and is not ours: delete it, or give the {key.kind} another name.",
    )


def _told(ref: Ref, refusal: RefusedError) -> Refusal:
    """A refusal that is told to the owner of a resource; any other is raised."""
    if refusal.status >= 500 or refusal.status in (400, 403, 404, 422):
        return Refusal(refusal.reason, _explained(ref, refusal), refusal.is_final, refusal.retry_after)
    raise refusal


def _line(status: Manifest) -> str:
    """A status in a line of the log: its reason, or its phase where there is none; both where a job has failed."""
    phase, reason = status.get("phase", ""), status.get("display", {}).get("reason", "")
    return ": ".join(filter(None, (phase, reason))) if phase == "Failed" or not reason else reason


def _explained(ref: Ref, refusal: RefusedError) -> str:
    """A refusal in a sentence that says what to do."""
    if refusal.status == 404 and ref.kind == "PyTorchJob":
        return "PyTorchJobs are unknown here: install Kubeflow's training operator (1.9)."
    if refusal.status == 404 and ref.kind == "InferenceService":
        return "InferenceServices are unknown here: install KServe (0.20)."
    if refusal.status == 404 and ref.kind in ("PodMonitor", "PrometheusRule"):
        return f"{ref.kind}s are unknown here: install Prometheus' operator."
    if refusal.status == 403 and "exceeded quota" in refusal.message:
        return f"{ref.kind} {ref.name} does not fit the namespace's quota: {refusal.message}"
    return f"Kubernetes refused {ref.kind} {ref.name}: {refusal.message}"
