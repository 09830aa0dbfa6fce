"""The laptop's cluster: the children and pods of one resource, in memory and in files, moved on by controllers."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from lmops.api.base import GROUP
from lmops.kinds import KINDS
from lmops.local import pods
from lmops.local.controllers import CONTROLLERS, is_finished
from lmops.local.home import Folder, read_json, rfc3339, write_json
from lmops.local.kubelet import Kubelet, free_port
from lmops.plan import Manifest, Observed, Ref

FOREGROUND = "foregroundDeletion"
UNCONTROLLED = frozenset(child for kind in KINDS.values() for child in kind.children) - CONTROLLERS.keys()
"""The kinds of children that nobody would act on here: those of Prometheus' operator and of Grafana."""


class Cluster:
    """What an API server, its controllers and a kubelet would hold and do for one resource."""

    def __init__(self, folder: Folder, kubelet: Kubelet) -> None:
        self.folder, self.kubelet = folder, kubelet
        self.front: int | None = None
        """The port at which the resource answers, where it does."""
        self.children: dict[Ref, Manifest] = {}
        self.pods: dict[str, Manifest] = {}
        self.ports: dict[str, int] = {}
        self.written: dict[Path, Manifest] = {}

    def load(self, now: datetime) -> None:
        """Takes over what an earlier engine left."""
        children = [read_json(file) for file in self.folder.children.glob("*.json")]
        self.children = {Ref.of(child): child for child in children}
        left = [pod for pod, _ in self.folder.past_pods() if not pod.get("gone")]
        self.pods = {pod["metadata"]["name"]: pod for pod in self.kubelet.recover(left, now)}

    def observed(self) -> Observed:
        """What reconcile sees: copies, so that nobody holds the same thing twice."""
        found = Observed.of(copy.deepcopy([*self.children.values(), *self.pods.values()]))
        return replace(found, absent=UNCONTROLLED, figures=self.figures())

    def figures(self) -> dict[str, Manifest]:
        """What the servers say of their traffic, by the names of their pods."""
        told = {name: self.kubelet.figures(pod["metadata"]["uid"]) for name, pod in self.pods.items()}
        return {name: figures for name, figures in told.items() if figures}

    def create(self, manifest: Manifest, now: datetime) -> None:
        """Creates a child once; one that is there already stays as it is."""
        self.children.setdefault(Ref.of(manifest), _born(manifest, now))

    def apply(self, manifest: Manifest, now: datetime) -> None:
        """Makes a child what is written here, whether it is there or not; another one of its name is left alone."""
        child, metadata = self.children.get(Ref.of(manifest)), manifest["metadata"]
        if child is None:
            self.create(manifest, now)
        elif metadata.get("uid", child["metadata"]["uid"]) == child["metadata"]["uid"]:
            self.children[Ref.of(manifest)] = {
                **child,
                "metadata": {**child["metadata"], **metadata},
                "spec": copy.deepcopy(manifest["spec"]),
            }

    def delete(self, ref: Ref, now: datetime) -> None:
        """Deletes a child in the foreground: first its pods, then itself."""
        if (child := self.children.get(ref)) and not pods.is_leaving(child):
            child["metadata"] |= {"deletionTimestamp": rfc3339(now), "finalizers": [FOREGROUND]}

    def step(self, now: datetime) -> bool:
        """Moves everything on by one look; whether anything has changed."""
        before = (copy.deepcopy(self.children), dict(self.pods))
        self._sync_pods(now)
        for ref, child in list(self.children.items()):
            mine = pods.owned_by(list(self.pods.values()), child)
            if pods.is_leaving(child):
                self._leave(ref, mine, now)
            elif not is_finished(child):
                self._control(child, mine, now)
        changed = before != (self.children, self.pods)
        if changed:
            self._write()
        return changed

    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self.children and not self.pods

    def is_quiet(self) -> bool:
        """Whether no process runs."""
        return not self.kubelet.running

    def is_leaving(self) -> bool:
        """Whether a deletion is not through yet."""
        return any(pods.is_leaving(manifest) for manifest in (*self.children.values(), *self.pods.values()))

    def answering(self) -> list[int]:
        """The ports of the pods that are ready and stay; a candidate's take nobody's request."""
        mine = [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(f"{GROUP}/run") == self.folder.name]
        return _ports(mine)

    def go_down(self, now: datetime) -> None:
        """Stops every pod as a node does that shuts down."""
        self.kubelet.go_down(now, list(self.pods.values()))

    def _sync_pods(self, now: datetime) -> None:
        for name, pod in list(self.pods.items()):
            synced = self.kubelet.sync(pod, now)
            if synced is None:
                del self.pods[name]
                write_json(self.folder.pod(name) / "pod.json", {**pod, "gone": True})
            else:
                self.pods[name] = synced

    def _control(self, child: Manifest, mine: list[Manifest], now: datetime) -> None:
        wanted = CONTROLLERS[child["kind"]](child, mine, self._port(child, mine), now)
        child["status"] = wanted.status
        for pod in () if self.kubelet.going_down else wanted.create:
            self.pods.setdefault(pod["metadata"]["name"], _born(pod, now))
        for name in wanted.delete:
            self._leave_pod(name, now)

    def _port(self, child: Manifest, mine: list[Manifest]) -> int:
        """Where a child's pods meet, or answer: those of the resource itself behind its front, a candidate's alone."""
        uid, is_main = child["metadata"]["uid"], child["metadata"]["name"] == self.folder.name
        if self.front is not None and not is_main and (there := _ports(mine)):
            return there[0]
        if uid not in self.ports:
            self.ports[uid] = self.front if self.front is not None and is_main else free_port()
        return self.ports[uid]

    def _leave(self, ref: Ref, mine: list[Manifest], now: datetime) -> None:
        for pod in mine:
            self._leave_pod(pod["metadata"]["name"], now)
        if not mine:
            del self.children[ref]

    def _leave_pod(self, name: str, now: datetime) -> None:
        pod = self.pods[name]
        if not pods.is_leaving(pod):
            until = rfc3339(now + timedelta(seconds=pods.grace(pod)))
            self.pods[name] = {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": until}}

    def _write(self) -> None:
        """Writes down what has changed, and forgets the children that are gone."""
        files = {self.folder.child_file(ref): child for ref, child in self.children.items()}
        for file in set(self.folder.children.glob("*.json")) - set(files):
            file.unlink()
        files |= {self.folder.pod(name) / "pod.json": pod for name, pod in self.pods.items()}
        for file, manifest in files.items():
            if self.written.get(file) != manifest:
                write_json(file, manifest)
        self.written = {file: copy.deepcopy(manifest) for file, manifest in files.items()}


def _ports(found: list[Manifest]) -> list[int]:
    """Where those of these pods answer that are ready and stay."""
    return [pod["status"]["port"] for pod in found if pods.is_ready(pod) and not pods.is_leaving(pod)]


def _born(manifest: Manifest, now: datetime) -> Manifest:
    metadata = {**manifest["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": rfc3339(now)}
    return {**copy.deepcopy(manifest), "metadata": metadata}
