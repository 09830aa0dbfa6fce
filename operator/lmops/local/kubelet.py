"""The node of a laptop: starts a container as a process, watches its memory and its end, and stops it in order."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lmops.local import pods
from lmops.local.accelerators import Accelerators
from lmops.local.front import HOST
from lmops.local.home import Folder, Home
from lmops.local.probe import Probe
from lmops.local.process import Process, kill_left_over
from lmops.local.sandbox import ConfigError, Sandbox
from lmops.local.volumes import Volumes
from lmops.plan import Manifest

BACK_OFF = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(minutes=5)


@dataclass
class Running:
    """A container at work, and why it will end where we know."""

    process: Process
    stop_by: datetime | None = None
    over_limit: bool = False
    probe: Probe | None = None
    """Asks it whether it is ready."""


@dataclass(frozen=True)
class Node:
    """What all pods of this laptop share."""

    accelerators: Accelerators
    endpoint: str
    """Where the progress endpoint listens."""


class Kubelet:
    """Runs the pods of one resource."""

    def __init__(self, home: Home, folder: Folder, node: Node) -> None:
        self.home, self.folder, self.accelerators = home, folder, node.accelerators
        self.endpoint = node.endpoint
        self.volumes = Volumes(home)
        self.running: dict[str, Running] = {}
        self.going_down = False

    def recover(self, found: list[Manifest], now: datetime) -> list[Manifest]:
        """The pods that an earlier engine left: those it did not see end have lost their node."""
        open_ones = [pod for pod in found if not pods.has_ended(pod)]
        files = [self.folder.pod(pod["metadata"]["name"]) / "process.json" for pod in open_ones]
        kill_left_over(files, [pod["metadata"]["uid"] for pod in open_ones])
        return [self._recovered(pod, now) for pod in found]

    def sync(self, pod: Manifest, now: datetime) -> Manifest | None:
        """The pod after one look at it; `None` when it is gone."""
        uid = pod["metadata"]["uid"]
        if uid in self.running:
            return self._watch(pod, self.running[uid], now)
        if pods.is_leaving(pod):
            self.accelerators.give_back(uid)
            return None
        if pods.has_ended(pod) or self.going_down:
            return pod
        if pods.phase(pod) == "Running":
            return self._restart(pod, now)
        return self._start(pod, now)

    def figures(self, uid: str) -> Manifest:
        """What the server in a pod says of its traffic, `{}` where it says nothing."""
        at_work = self.running.get(uid)
        return at_work.probe.figures if at_work and at_work.probe else {}

    def go_down(self, now: datetime, found: list[Manifest]) -> None:
        """A node shutdown: every container is told to end, and has its grace to do so."""
        self.going_down = True
        for pod in found:
            if (at_work := self.running.get(pod["metadata"]["uid"])) and at_work.stop_by is None:
                self._stop(pod, at_work, now)

    def kill_all(self) -> None:
        """Ends every container now."""
        for at_work in self.running.values():
            at_work.process.kill()

    def _start(self, pod: Manifest, now: datetime) -> Manifest:
        cpu = self.folder.on_cpu()  # as the last `apply` says, which may be later than this engine
        if not cpu and (lacking := self.accelerators.take(pod)):
            return pods.unschedulable(pod, lacking, now)
        box = Sandbox(self.folder.pod(pod["metadata"]["name"]), pod, self.endpoint)
        uid, path = pod["metadata"]["uid"], pods.probed(pod)
        address = {"podIP": HOST, "port": free_port()} if path else {}  # pods share one address: each has its port
        try:
            environment = box.environment(self.home, self._own(pod, cpu) | _listening(address))
            box.furnish(self.volumes, self.home)
            process = Process(box.command(environment), environment, box.root, box.log, uid)
        except ConfigError as error:
            self.accelerators.give_back(uid)
            return pods.waiting(pod, "CreateContainerConfigError", str(error), now)
        except OSError as error:
            self.accelerators.give_back(uid)
            return pods.ended(pod, 128, now, reason="StartError", message=str(error))
        process.remember(box.folder / "process.json")
        own = f"http://{HOST}:{address['port']}" if path else ""
        probe = Probe(f"{own}{path}", f"{own}/stats") if path else None
        self.running[uid] = Running(process, probe=probe)
        return pods.running(pod, now, pods.container_status(pod).get("restartCount", 0), **address)

    def _watch(self, pod: Manifest, at_work: Running, now: datetime) -> Manifest | None:
        code = at_work.process.exit_code()
        if code is not None:
            return self._ended(pod, at_work, code, now)
        if pods.is_leaving(pod) and at_work.stop_by is None:
            self._stop(pod, at_work, now)
        limit = pods.memory_limit(pod)
        at_work.over_limit = limit is not None and at_work.process.memory(limit) > limit
        if at_work.over_limit or (at_work.stop_by and now >= at_work.stop_by):
            at_work.process.kill()
        if at_work.probe and at_work.probe.is_ready != pods.is_ready(pod):
            return pods.asked(pod, at_work.probe.is_ready, now)
        return pod

    def _ended(self, pod: Manifest, at_work: Running, code: int, now: datetime) -> Manifest | None:
        del self.running[pod["metadata"]["uid"]]
        if at_work.probe:
            at_work.probe.stop()
        at_work.process.bury()
        box = Sandbox(self.folder.pod(pod["metadata"]["name"]), pod)
        box.clear()
        words = box.last_words(code)
        ended = pods.ended(pod, code, now, "OOMKilled" if at_work.over_limit else None, words)
        stays = not pods.is_leaving(pod) and not self.going_down
        if stays and _is_restarted(pod, code):
            return {**ended, "status": {**ended["status"], "phase": "Running"}}  # its GPUs stay with it
        self.accelerators.give_back(pod["metadata"]["uid"])
        if pods.is_leaving(pod):
            return None
        return pods.shut_down(ended, now) if self.going_down else ended

    def _restart(self, pod: Manifest, now: datetime) -> Manifest:
        """The same pod with its container started anew, after a pause that doubles."""
        status = pods.container_status(pod)
        restarts = int(status.get("restartCount", 0))
        ended = datetime.fromisoformat(status["state"]["terminated"]["finishedAt"])
        if now < ended + min(BACK_OFF * 2**restarts, LONGEST_BACK_OFF):
            return pod
        started = self._start(pod, now)
        if pods.container_status(started).get("state", {}).get("running"):
            return pods.again(started, restarts + 1, status["state"])
        return started

    def _stop(self, pod: Manifest, at_work: Running, now: datetime) -> None:
        at_work.stop_by = now + timedelta(seconds=pods.grace(pod))
        at_work.process.terminate()

    def _recovered(self, pod: Manifest, now: datetime) -> Manifest:
        if pods.phase(pod) != "Running":
            return pod
        box = Sandbox(self.folder.pod(pod["metadata"]["name"]), pod)
        box.clear()
        return pods.node_lost(pod, box.last_sign() or now, box.last_words(137))

    def _own(self, pod: Manifest, cpu: bool) -> dict[str, str]:
        """What the engine tells every pod that does not say it itself."""
        gpus = [] if cpu else self.accelerators.of(pod)
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PET_LOCAL_ADDR": "127.0.0.1"}
        if sys.platform == "linux":
            own["GLOO_SOCKET_IFNAME"] = "lo"
        if "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes(pod)))
        return own | ({"LMOPS_FP16_AS_FP32": "1"} if cpu else {})


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_restarted(pod: Manifest, code: int) -> bool:
    """Whether a container that ended so is started anew."""
    policy = pod["spec"].get("restartPolicy", "Always")
    return bool(policy == "Always" or (code and policy == "OnFailure"))


def _listening(address: dict[str, Any]) -> dict[str, str]:
    """Where a server is to listen."""
    return {"LMOPS_HOST": HOST, "LMOPS_PORT": str(address["port"])} if address else {}


def processes(pod: Manifest) -> int:
    """Training processes of the whole job that the pod belongs to."""
    env = {entry["name"]: str(entry.get("value", "")) for entry in pods.container(pod).get("env", ())}
    nodes, each = env.get("PET_NNODES", "1").rpartition(":")[2], env.get("PET_NPROC_PER_NODE", "1")
    return int(nodes) * (int(each) if each.isdigit() else 1)
