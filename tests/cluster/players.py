"""Plays the pods of a job where no kubelet runs them: a test says what each of them does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from builders import RESULTS, said
from cluster.client import Cluster, Manifest


class Players:
    """The pods of one job."""

    def __init__(
        self, cluster: Cluster, namespace: str, job: str, patience: float = 60, kind: str = "trainingjob"
    ) -> None:
        self.cluster, self.namespace, self.job, self.patience = cluster, namespace, job, patience
        self.kind = kind

    def pods(self, run: str, count: int = 1) -> list[Manifest]:
        """The pods of a run, such as `train-a0`, in the order of their names, once there are so many."""
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            found = self.cluster.list("pod", self.namespace, f"lmops.dev/run={self.job}-{run}")
            if len(living := [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]) >= count:
                return sorted(living, key=lambda pod: str(pod["metadata"]["name"]))
            time.sleep(0.2)
        raise TimeoutError(f"{run} has no {count} pods after {self.patience:.0f} s: {self.describe()}")

    def run(self, run: str, count: int = 1) -> list[Manifest]:
        """Lets the pods of a run start, and returns them."""
        pods = self.pods(run, count)
        for pod in pods:
            self.set(pod, "Running", running={"startedAt": _now()})
        return pods

    def succeed(self, run: str, count: int = 1, **ending: Any) -> None:
        """Lets a run end with the result of its stage, which its first pod leaves."""
        stage, attempt = run.rsplit("-a", 1)
        result = said(stage, int(attempt), result=RESULTS[stage], **ending)
        for index, pod in enumerate(self.pods(run, count)):
            self.end(pod, 0, result if index == 0 else "")

    def fail(self, pod: Manifest, run: str, code: int = 1, **ending: Any) -> None:
        """Lets a pod end badly, with what it says of its failure."""
        stage, attempt = run.rsplit("-a", 1)
        self.end(pod, code, said(stage, int(attempt), **ending))

    def end(self, pod: Manifest, code: int, message: str = "") -> None:
        """Lets a pod end with an exit code and a termination message."""
        times = {"startedAt": _now(), "finishedAt": _now()}
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message, **times}
        self.set(pod, "Failed" if code else "Succeeded", terminated=ended)

    def set(self, pod: Manifest, phase: str, **state: Manifest) -> None:
        """Writes a pod's status as a kubelet would."""
        container, ready = pod["spec"]["containers"][0], str("running" in state)
        status = {
            "phase": phase,
            "startTime": _now(),
            "conditions": [{"type": kind, "status": ready} for kind in ("ContainersReady", "Ready")],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": "running" in state,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        self._patch(pod, {"status": status}, "--subresource=status")

    @contextmanager
    def leaving(self, pod: Manifest) -> Iterator[None]:
        """Deletes a pod that is seen leaving for the length of a block, as on a node that ends its processes first."""
        self._patch(pod, {"metadata": {"finalizers": ["test.lmops.dev/node"]}})
        self.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", self.namespace, "--wait=false")
        yield
        self._patch(pod, {"metadata": {"finalizers": None}})

    def _patch(self, pod: Manifest, patch: Manifest, *arguments: str) -> None:
        which = ("patch", "pod", pod["metadata"]["name"], "-n", self.namespace)
        self.cluster.kubectl(*which, "--type=merge", "-p", json.dumps(patch), *arguments)

    def describe(self) -> str:
        """What the job says of itself."""
        return json.dumps(self.cluster.get(self.kind, self.job, self.namespace).get("status", {}), indent=1)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
