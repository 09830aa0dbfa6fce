"""A cluster in which jobs really run, in one process and without waiting: pods start, end and go as they would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from builders import NOON, RESULTS, SETTINGS, said, trainingjob
from fakecluster import CrashError, FakeCluster
from lmops.cache import Key
from lmops.cluster import RefusedError, UnreachableError
from lmops.controller import Controller, NotCreatedError
from lmops.kinds import KINDS
from lmops.plan import Manifest

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


class Life:
    """A job from its creation to its end. A crash of the operator is followed by the start of a new one."""

    def __init__(self, script: Script = succeeds, **spec: Any) -> None:
        self.server, self.script, self.now = FakeCluster(), script, NOON
        job = trainingjob(**spec).manifest()
        self.server.put_new({**job, "metadata": {"name": "reviews", "namespace": "default"}, "status": {}})
        self.crashes, self.hidden = 0, 0
        self.hide: Callable[[int], bool] = lambda event: False
        """Whether the watch loses its n-th event."""
        self.controller = self._controller()

    @property
    def job(self) -> Manifest:
        """The resource, as the server has it."""
        return self.server.objects[KEY]

    @property
    def status(self) -> Manifest:
        """Its status."""
        found: Manifest = self.job["status"]
        return found

    def run(self, rounds: int = 200) -> Life:
        """Lives until nothing moves any more."""
        asyncio.run(self._run(rounds))
        return self

    def outcome(self) -> dict[str, Any]:
        """What must be the same whatever happened on the way."""
        return {
            "phase": self.status["phase"],
            "runs": [(run["name"], run["state"], run.get("reason")) for run in self.status["runs"]],
            "children": sorted(m["metadata"]["name"] for m in self.server.of("Job", "PyTorchJob")),
            "made": {ref.name: n for ref, n in self.server.made.items() if ref.kind in ("Job", "PyTorchJob")},
            "restarts": self.status["restarts"],
        }

    async def _run(self, rounds: int) -> None:
        calm = 0
        for turn in range(rounds):
            before = self.server.version
            try:
                if turn == 0 or turn % 10 == 9:
                    await self.controller.resync()
                self._watch()
                await self.controller.reconcile(KEY)
            except CrashError:
                self.crashes += 1
                self.server.fault = lambda request, when: None
                self.controller = self._controller()
                await self.controller.resync()
            except (RefusedError, UnreachableError, NotCreatedError):
                pass  # the queue would come back later
            self._nodes()
            self.now += timedelta(seconds=1)
            calm = calm + 1 if self.server.version == before else 0
            if calm > 20:
                return
        raise AssertionError(f"nothing comes to an end: {self.status}")

    def _controller(self) -> Controller:
        return Controller(KINDS, self.server, SETTINGS, lambda: self.now)

    def _watch(self) -> None:
        events, self.server.events = self.server.events, []
        for type_, manifest in events:
            self.hidden += 1
            if self.hide(self.hidden):
                continue
            cache = self.controller.cache
            cache.drop(manifest) if type_ == "DELETED" else cache.take(manifest)

    def _nodes(self) -> None:
        """Kubernetes, Kubeflow and the kubelet move everything one step on."""
        for child in self.server.of("Job", "PyTorchJob"):
            mine = [pod for pod in self.server.of("Pod") if _owner(pod) == child["metadata"]["uid"]]
            if "deletionTimestamp" in child["metadata"]:
                for pod in mine:
                    self.server.remove(pod)
                if not mine:
                    self.server.remove(child)
            elif not mine and not child.get("status"):
                self.server.put_new(_pod(child))
            elif mine:
                self._step(child, mine[0])

    def _step(self, child: Manifest, pod: Manifest) -> None:
        phase, labels = pod["status"]["phase"], child["metadata"]["labels"]
        start = {"startedAt": _text(self.now)}
        if phase == "Pending":
            running = {"phase": "Running", "containerStatuses": [{"state": {"running": start}}]}
            self.server.put({**pod, "status": running})
        elif phase == "Running":
            stage, attempt = labels["lmops.dev/stage"], int(labels["lmops.dev/attempt"])
            what = self.script(stage, attempt)
            code = 1 if "failure" in what else 0
            end = {**start, "finishedAt": _text(self.now), "exitCode": code, "message": said(stage, attempt, **what)}
            ended = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": {"terminated": end}}]}
            self.server.put({**pod, "status": ended})
        elif not child.get("status"):
            word = {"Job": {"Succeeded": "Complete"}}.get(child["kind"], {}).get(phase, phase)
            ended = {"type": word, "status": "True", "reason": "Ended", "lastTransitionTime": _text(self.now)}
            self.server.put({**child, "status": {"conditions": [ended]}})


def _pod(child: Manifest) -> Manifest:
    metadata = child["metadata"]
    owner = {"kind": child["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}
    born = {"name": f"{metadata['name']}-0", "namespace": metadata["namespace"], "labels": metadata["labels"]}
    return {"kind": "Pod", "metadata": {**born, "ownerReferences": [owner]}, "status": {"phase": "Pending"}}


def _owner(pod: Manifest) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
