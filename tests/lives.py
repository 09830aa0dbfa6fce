"""A cluster in which jobs really run, in one process and without waiting: pods start, end and go as they would."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from builders import NOON, RESULTS, SETTINGS, quantizejob, said, trainingjob
from fakecluster import CrashError, FakeCluster
from faults import NONE
from lmops.api import Job
from lmops.cluster import RefusedError, UnreachableError
from lmops.controller import Controller, NotCreatedError
from lmops.kinds import KINDS
from lmops.plan import Key, Manifest
from store import Store

Script = Callable[[str, int], dict[str, Any]]
"""(stage, attempt) -> what its pod says at its end."""
KEY = Key("TrainingJob", "default", "reviews")
LOST = {"class": "WorkerLost", "reason": "RankKilled", "message": "Rank 1 was killed by SIGKILL.", "remedy": "-"}


def succeeds(stage: str, attempt: int) -> dict[str, Any]:
    """Every stage leaves its result at once."""
    return {"result": RESULTS[stage]}


def fails_once(stage: str, attempt: int) -> dict[str, Any]:
    """The first attempt at the training is lost."""
    return {"failure": LOST, "checkpoint": 100} if (stage, attempt) == ("train", 0) else {"result": RESULTS[stage]}


def submit(store: Store, name: str = "reviews", namespace: str = "default", **spec: Any) -> Key:
    """A user creates a TrainingJob."""
    return _put(store, trainingjob(name, **spec), name, namespace)


def submit_quantization(store: Store, name: str = "small", namespace: str = "default", **spec: Any) -> Key:
    """A user creates a QuantizeJob."""
    return _put(store, quantizejob(**spec), name, namespace)


def _put(store: Store, job: Job, name: str, namespace: str) -> Key:
    store.put_new({**job.manifest(), "metadata": {"name": name, "namespace": namespace}, "status": {}})
    return Key(job.kind, namespace, name)


def outcome(store: Store, key: Key) -> dict[str, Any]:
    """What must be the same whatever happened on the way."""
    status = store.objects[key]["status"]
    mine = [m for m in store.of("Job", "PyTorchJob") if m["metadata"]["labels"]["lmops.dev/job"] == key.name]
    made = {ref.name: n for ref, n in store.made.items() if ref.kind in ("Job", "PyTorchJob")}
    return {
        "phase": status["phase"],
        "runs": [(run["name"], run["state"], run.get("reason")) for run in status["runs"]],
        "children": sorted(m["metadata"]["name"] for m in mine),
        "made": {name: n for name, n in made.items() if name.startswith(f"{key.name}-")},
        "restarts": status["restarts"],
    }


class Nodes:
    """Kubernetes, Kubeflow and the kubelet: each step moves every child and its pods one step on."""

    def __init__(self, store: Store, script: Script = succeeds, seconds: float = 0) -> None:
        self.store, self.script, self.lasts = store, script, timedelta(seconds=seconds)

    def step(self, now: datetime) -> None:
        """Starts, ends and removes pods, and children whose pods or whose owner are gone."""
        alive = {owner["metadata"]["uid"] for owner in self.store.of(*KINDS)}
        pods = defaultdict[str, list[Manifest]](list)
        for pod in self.store.of("Pod"):
            pods[_owner(pod)].append(pod)
        for child in self.store.of("Job", "PyTorchJob"):
            mine = pods[child["metadata"]["uid"]]
            if "deletionTimestamp" in child["metadata"] or (_owner(child) and _owner(child) not in alive):
                for pod in mine:
                    self.store.remove(pod)
                if not mine:
                    self.store.remove(child)
            elif not mine and not child.get("status"):
                self.store.put_new(_pod(child))
            elif mine:
                self._step(child, mine[0], now)

    @staticmethod
    def _started(pod: Manifest) -> datetime:
        return datetime.fromisoformat(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])

    def _step(self, child: Manifest, pod: Manifest, now: datetime) -> None:
        phase, labels = pod["status"]["phase"], child["metadata"]["labels"]
        start = {"startedAt": _text(now)}
        if phase == "Pending":
            running = {"phase": "Running", "containerStatuses": [{"state": {"running": start}}]}
            self.store.put({**pod, "status": running})
        elif phase == "Running" and now - self._started(pod) >= self.lasts:
            stage, attempt = labels["lmops.dev/stage"], int(labels["lmops.dev/attempt"])
            what = self.script(stage, attempt)
            code = 1 if "failure" in what else 0
            end = {**start, "finishedAt": _text(now), "exitCode": code, "message": said(stage, attempt, **what)}
            ended = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": {"terminated": end}}]}
            self.store.put({**pod, "status": ended})
        elif phase != "Running" and not child.get("status"):
            word = {"Job": {"Succeeded": "Complete"}}.get(child["kind"], {}).get(phase, phase)
            ended = {"type": word, "status": "True", "reason": "Ended", "lastTransitionTime": _text(now)}
            self.store.put({**child, "status": {"conditions": [ended]}})


class Life:
    """A job from its creation to its end. A crash of the operator is followed by the start of a new one."""

    def __init__(self, script: Script = succeeds, **spec: Any) -> None:
        self.store, self.now = Store(), NOON
        self.server, self.nodes = FakeCluster(self.store), Nodes(self.store, script)
        self.keys = [submit(self.store, **spec)]
        """The jobs that live here."""
        self.crashes, self.told, self.hidden = 0, 0, 0
        self.hide: Callable[[int], bool] = lambda event: False
        """Whether the watch loses its n-th event."""
        self.at: dict[int, Callable[[], None]] = {}
        """What users do, and in which round."""
        self.controller = self._controller()

    @property
    def job(self) -> Manifest:
        """The resource, as the server has it."""
        return self.store.objects[KEY]

    @property
    def status(self) -> Manifest:
        """Its status."""
        found: Manifest = self.job["status"]
        return found

    def outcome(self) -> dict[str, Any]:
        """What must be the same whatever happened on the way."""
        return outcome(self.store, KEY)

    def run(self, rounds: int = 200) -> Life:
        """Lives until nothing moves any more."""
        asyncio.run(self._run(rounds))
        return self

    def start_again(self) -> None:
        """Another process of the operator takes over."""
        self.controller = self._controller()

    async def _run(self, rounds: int) -> None:
        calm = 0
        for turn in range(rounds):
            before = self.store.version
            if turn in self.at:
                self.at[turn]()
            try:
                if turn == 0 or turn % 10 == 9:
                    await self.controller.resync()
                self.watch()
                for key in self.keys:
                    await self.controller.reconcile(key)
            except CrashError:
                self.crashes += 1
                self.server.faults = NONE
                self.start_again()
                await self.controller.resync()
            except (RefusedError, UnreachableError, NotCreatedError):
                pass  # the queue would come back later
            self.nodes.step(self.now)
            self.now += timedelta(seconds=1)
            calm = calm + 1 if self.store.version == before else 0
            if calm > 20 and turn > max(self.at, default=0):
                return
        raise AssertionError(f"nothing comes to an end: {self.status}")

    def _controller(self) -> Controller:
        return Controller(KINDS, self.server, SETTINGS, lambda: self.now)

    def watch(self) -> None:
        """The controller is told what has happened."""
        changes, self.told = self.store.since(self.told), self.store.version
        for change in changes:
            self.hidden += 1
            if self.hide(self.hidden):
                continue
            cache = self.controller.cache
            cache.drop(change.manifest) if change.type == "DELETED" else cache.take(change.manifest)


def _pod(child: Manifest) -> Manifest:
    metadata = child["metadata"]
    owner = {"kind": child["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    born = {"name": f"{metadata['name']}-0", "namespace": metadata["namespace"], "labels": metadata["labels"]}
    return {"kind": "Pod", "metadata": {**born, "ownerReferences": [owner]}, "status": {"phase": "Pending"}}


def _owner(manifest: Manifest) -> str:
    owners = manifest["metadata"].get("ownerReferences") or [{"uid": ""}]
    return str(owners[0]["uid"])


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
