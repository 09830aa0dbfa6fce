"""What an API server keeps: objects with versions and field managers, their history, and the rules of writing."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lmops.cluster import RefusedError
from lmops.patches import difference, merged
from lmops.plan import Manifest, Ref

Name = tuple[str, str, str]
"""Kind, namespace, name."""
Path = tuple[str, ...]
Manager = tuple[str, str]
"""A field manager, and whether it updates or applies."""
BORN = "2026-11-23T12:00:00Z"
CHILDREN_FIRST = "foregroundDeletion"


class Change(NamedTuple):
    """What a watch tells."""

    version: int
    type: str
    manifest: Manifest
    before: Manifest | None = None


class Store:
    """Objects by name. Every rule that is broken raises the `RefusedError` of a real server."""

    def __init__(self) -> None:
        self.objects: dict[Name, Manifest] = {}
        self.history: list[Change] = []
        self.version, self.forgotten = 0, 0
        """The newest version; and the one up to which the history is forgotten: who watches from there is told 410."""
        self.made = Counter[Ref]()
        """How often each object was created."""
        self.listeners: list[Callable[[Change], None]] = []
        self._born = itertools.count(1)
        self._fields: dict[str, dict[Manager, set[Path]]] = defaultdict(lambda: defaultdict(set))

    # Reads

    def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """One object."""
        if (kind, namespace, name) not in self.objects:
            raise RefusedError(404, "NotFound", f"{kind} {name} not found")
        return copied(self.objects[kind, namespace, name])

    def select(self, kind: str, namespace: str = "", selector: str = "") -> list[Manifest]:
        """All objects of a kind, in a namespace or in all of them, in the order of their names."""
        mine = sorted(name for name in self.objects if name[0] == kind and namespace in ("", name[1]))
        return [copied(self.objects[name]) for name in mine if is_selected(self.objects[name], selector)]

    def of(self, *kinds: str) -> list[Manifest]:
        """All objects of these kinds."""
        return [manifest for (kind, _, _), manifest in list(self.objects.items()) if kind in kinds]

    def since(self, version: int) -> list[Change]:
        """What has happened after a version."""
        if version < self.forgotten:
            raise RefusedError(410, "Expired", f"too old resource version: {version} ({self.version})")
        return [change for change in self.history if change.version > version]

    def forget(self) -> None:
        """The history is lost, as after a compaction."""
        self.history.clear()
        self.forgotten = self.version

    # Writes under a server's rules

    def create(self, manifest: Manifest, manager: str = "unknown") -> Manifest:
        """A new object; its status is not the creator's to say."""
        self._own(manifest, {}, born := self._uid(), (manager, "Update"))
        return self.put_new({k: v for k, v in manifest.items() if k != "status"}, born)

    def replace(self, manifest: Manifest, part: str = "", manager: str = "unknown") -> Manifest:
        """An object, or its status alone, in place of the version that it carries."""
        name = _name(manifest)
        return self._changed(self.get(*name), manifest, part, manager)

    def patch(self, name: Name, patch: Manifest, part: str = "", manager: str = "unknown") -> Manifest:
        """A merge patch of an object, or of its status alone."""
        found = self.get(*name)
        return self._changed(found, merged(found, patch), part, manager)

    def apply(self, name: Name, intent: Manifest, manager: str, force: bool = False) -> Manifest:
        """A server-side apply: what this manager no longer says goes, and what another one says is a conflict."""
        expected = intent["metadata"].get("uid")
        if expected and expected != self.objects.get(name, {}).get("metadata", {}).get("uid"):
            raise RefusedError(409, "Conflict", f"uid mismatch: the provided object specified uid {expected}")
        if name not in self.objects:
            uid = self._uid()
            self._own(intent, {}, uid, (manager, "Apply"))
            return self.put_new(intent, uid)
        found, me = self.get(*name), (manager, "Apply")
        said, owners = dict(_leaves(intent)), self._fields[found["metadata"]["uid"]]
        live = dict(_leaves(found))
        for other, paths in owners.items():
            taken = {path for path in said if other != me and path in paths and said[path] != live.get(path)}
            if taken and not force:
                where = ", ".join(".".join(path) for path in sorted(taken))
                raise RefusedError(409, "Conflict", f'conflict with "{other[0]}": {where}')
            paths -= taken
        kept = {path for other, paths in owners.items() if other != me for path in paths}
        gone = owners[me] - set(said) - kept
        owners[me] = set(said)
        after = merged(_without(found, gone), intent)
        return found if after == found else self.put(_counted(found, after))

    def delete(self, name: Name, uid: str = "", version: str = "", foreground: bool = False) -> Manifest:
        """Removes an object, or marks it where finalizers or its children are to go first."""
        found = self.get(*name)
        metadata = found["metadata"]
        if (uid and uid != metadata["uid"]) or (version and version != metadata["resourceVersion"]):
            raise RefusedError(409, "Conflict", "the precondition does not match")
        if foreground and CHILDREN_FIRST not in metadata.get("finalizers", ()):
            metadata["finalizers"] = [*metadata.get("finalizers", ()), CHILDREN_FIRST]
        if not metadata.get("finalizers"):
            self.remove(found)
            return found
        return found if "deletionTimestamp" in metadata else self.put(_deleted(found))

    # What the rest of the cluster does, without asking for permission

    def put_new(self, manifest: Manifest, uid: str = "") -> Manifest:
        """A new object."""
        if _name(manifest) in self.objects:
            raise RefusedError(409, "AlreadyExists", f"{manifest['metadata']['name']} already exists")
        self.made[Ref.of(manifest)] += 1
        born = {"uid": uid or self._uid(), "generation": 1, "creationTimestamp": BORN}
        return self.put({**manifest, "metadata": {**manifest["metadata"], **born}}, "ADDED")

    def put(self, manifest: Manifest, type_: str = "MODIFIED") -> Manifest:
        """An object in place of what was there; one that was only waiting for its finalizers is gone."""
        manifest = copied(manifest)
        metadata = manifest["metadata"]
        if "deletionTimestamp" in metadata and metadata.get("finalizers") == []:
            self.remove(manifest)
            return manifest
        if fields := self._fields.get(metadata["uid"]):
            metadata["managedFields"] = [_managed(manager, paths) for manager, paths in fields.items() if paths]
        before = self.objects.get(_name(manifest))
        self.objects[_name(manifest)] = manifest
        self.tell(type_, manifest, before)
        return copied(manifest)

    def remove(self, manifest: Manifest) -> None:
        """An object is gone."""
        before = self.objects.pop(_name(manifest))
        self._fields.pop(before["metadata"]["uid"], None)
        self.tell("DELETED", copied(before), before)

    def tell(self, type_: str, manifest: Manifest, before: Manifest | None = None) -> None:
        """Tells all watches what has happened, under a new version."""
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, type_, manifest, before)
        self.history.append(change)
        for listener in list(self.listeners):
            listener(change)

    def _uid(self) -> str:
        return f"uid-{next(self._born)}"

    def _changed(self, found: Manifest, wanted: Manifest, part: str, manager: str) -> Manifest:
        """One version after another: a status is written alone, and never with the rest."""
        version = wanted["metadata"].get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            raise RefusedError(409, "Conflict", "the object has been modified")
        if part:
            after = {**found, part: wanted.get(part, {})}
        else:
            same = {k: found["metadata"][k] for k in ("uid", "creationTimestamp", "generation")}
            kept = {"status": found["status"]} if "status" in found else {}
            rest = {k: v for k, v in wanted.items() if k != "status"}
            after = _counted(found, {**rest, "metadata": {**wanted["metadata"], **same}, **kept})
            self._own(after, found, found["metadata"]["uid"], (manager, "Update"))
        after["metadata"].pop("resourceVersion", None)
        before = {**found, "metadata": {k: v for k, v in found["metadata"].items() if k != "resourceVersion"}}
        return found if after == before else self.put(after)

    def _own(self, after: Manifest, before: Manifest, uid: str, manager: Manager) -> None:
        """A manager owns what it has changed; nobody owns what is gone."""
        new, old = dict(_leaves(after)), dict(_leaves(before))
        mine = {path for path, value in new.items() if path not in old or old[path] != value}
        fields = self._fields[uid]
        for other, paths in fields.items():
            paths &= set(new)
            if other != manager:
                paths -= mine
        fields[manager] |= mine


def copied(manifest: Manifest) -> Manifest:
    """An object that shares nothing with the one it was made of."""
    found: Manifest = json.loads(json.dumps(manifest))
    return found


def is_selected(manifest: Manifest, selector: str) -> bool:
    """Whether an object carries all the labels that a selector names, with the values that it names."""
    labels = manifest["metadata"].get("labels") or {}
    wanted = (part.partition("=") for part in selector.split(",") if part)
    return all(name in labels and (not equals or labels[name] == value.lstrip("=")) for name, equals, value in wanted)


def is_chosen(manifest: Manifest, fields: str) -> bool:
    """Whether an object has the values that a field selector names."""
    wanted = (part.partition("=") for part in fields.split(",") if part)
    return all(str(manifest.get(name, "")) == value for name, _, value in wanted)


def _name(manifest: Manifest) -> Name:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _deleted(manifest: Manifest) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "deletionTimestamp": BORN}}


def _counted(before: Manifest, after: Manifest) -> Manifest:
    """An object's generation counts the changes of its spec."""
    moved = bool(difference({"": before.get("spec")}, {"": after.get("spec")}))
    return {**after, "metadata": {**after["metadata"], "generation": before["metadata"]["generation"] + moved}}


def _leaves(value: Manifest, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The fields that have managers; a list is a field."""
    for key, inner in value.items():
        path = (*at, key)
        if path[0] in ("apiVersion", "kind", "status") or (
            path[0] == "metadata" and len(path) > 1 and path[1] not in ("labels", "annotations")
        ):
            continue
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, path)
        else:
            yield path, inner


def _without(value: Manifest, paths: set[Path]) -> Manifest:
    found = copied(value)
    for *way, last in paths:
        inner = found
        for key in way:
            inner = inner.get(key, {})
        inner.pop(last, None)
    return found


def _managed(manager: Manager, paths: set[Path]) -> Manifest:
    fields: Manifest = {}
    for path in sorted(paths):
        inner = fields
        for key in path:
            inner = inner.setdefault(f"f:{key}", {})
    return {"manager": manager[0], "operation": manager[1], "fieldsType": "FieldsV1", "fieldsV1": fields}
