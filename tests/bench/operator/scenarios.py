"""What both sides are put through, and what is measured of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.operator.load import Load, load, together
from bench.operator.meters import Requests, Usage, asked, quiet, requests, resident, usage, writes
from bench.operator.sides import Side
from cluster.builds import source
from cluster.controlplane import ControlPlane
from cluster.kubeflow import MODULE
from cluster.processes import Daemons

Figures = dict[str, float]
READY = "canary"
ENDED = {"phase": "Succeeded", "observedGeneration": 1, "completionTime": "2026-11-23T12:00:00Z"}
"""What ends a job, for the reconcile that follows."""


@dataclass(frozen=True)
class World:
    """What all trials have in common."""

    folder: Path
    spec: dict[str, Any]
    """Of each job."""
    crds: Path
    """The folder of our CRDs."""

    @contextmanager
    def server(self, name: str) -> Iterator[ControlPlane]:
        """A fresh etcd and kube-apiserver, with the CRDs."""
        folder = self.folder / name
        folder.mkdir()
        with Daemons(folder) as daemons:
            plane = ControlPlane(folder, daemons)
            plane.start(controllers=False)
            theirs = source(MODULE, "kubernetes") / "manifests" / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"
            plane.install_crds(*sorted(self.crds.glob("*.yaml")), theirs)
            yield plane


class Trial:
    """One process of one side, on a server with its user."""

    def __init__(self, pid: int, plane: ControlPlane, user: Load) -> None:
        self.pid, self.plane, self.user = pid, plane, user
        self.began = time.monotonic()
        self.start()

    def start(self) -> None:
        """What follows is measured from here."""
        self.before = self._so_far()

    def cost(self) -> tuple[Usage, Usage, Requests]:
        """What the process and the server have used since the start, and what the process has asked for."""
        (mine, its, asked), (mine_now, its_now, asked_now) = self.before, self._so_far()
        return mine_now.since(mine), its_now.since(its), asked_now - asked

    def _so_far(self) -> tuple[Usage, Usage, Requests]:
        apiserver = usage(self.plane.daemons.pid("kube-apiserver"))
        return usage(self.pid), apiserver, requests(self.plane) - self.user.requests

    async def burst(self, names: list[str]) -> tuple[Figures, Requests]:
        """As many jobs as there are names, at once."""
        await self._ready()
        before, began = resident(self.pid), time.monotonic()
        await self.user.burst(names)
        await self.user.seen(names)
        seconds = max(self.user.children[name][0] for name in names) - began
        await quiet(self.pid)
        mine, servers, sent = self.cost()
        return {
            "seconds to the last child": seconds,
            **_latencies(self.user, names),
            "requests an object": asked(sent).total() / len(names),
            "CPU ms an object": 1e3 * mine.seconds / len(names),
            "MB before": before,
            "peak MB": mine.megabytes,
            "CPU ms an object, API server": 1e3 * servers.seconds / len(names),
            "peak MB, API server": servers.megabytes,
        }, asked(sent)

    async def paced(self, names: list[str], every: float) -> Figures:
        """A job at a time."""
        await self._ready()
        await self.user.paced(names, every)
        await self.user.seen(names)
        await quiet(self.pid)
        return {**_latencies(self.user, names), "CPU ms an object": 1e3 * self.cost()[0].seconds / len(names)}

    async def restart(self) -> Figures:
        """The start of a process that finds everything done."""
        ended = await quiet(self.pid)
        mine, _, sent = self.cost()
        return {
            "seconds until it rests": ended - self.began,
            "CPU seconds": usage(self.pid).seconds,
            "writes": writes(sent).total(),
            "peak MB": mine.megabytes,
        }

    async def idle(self, seconds: float) -> Figures:
        """Nothing happens."""
        self.start()
        await asyncio.sleep(seconds)
        mine, _, sent = self.cost()
        return {
            "writes": writes(sent).total(),
            "CPU % of a core": 100 * mine.seconds / seconds,
            "MB": resident(self.pid),
        }

    async def churn(self, names: list[str], turns: int = 5) -> Figures:
        """Pods come, run and change, and progress is written: of all that only the start is news for the status."""
        self.start()
        await together(lambda name: self.user.post("pods", pod(name, self.user.children[name][1])), names)
        began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for turn in range(turns):
            await together(partial(self._change, began, turn), names)
        await quiet(self.pid)
        mine, _, sent = self.cost()
        changes = len(names) * (1 + 2 * turns)
        return {"writes a change": writes(sent).total() / changes, "CPU ms a change": 1e3 * mine.seconds / changes}

    async def _change(self, began: str, turn: int, name: str) -> None:
        await self.user.patch_status("pods", f"{name}-pod", running(began, turn))
        await self.user.patch_status("trainingjobs", name, progress(turn))

    async def _ready(self) -> None:
        """A first job has its child: the process works."""
        await self.user.burst([READY])
        await self.user.seen([READY])
        await quiet(self.pid)
        self.start()


def _latencies(user: Load, names: Iterable[str]) -> Figures:
    cuts = quantiles(user.latencies(names), n=100, method="inclusive")
    return {"p50 ms to the child": cuts[49], "p99 ms to the child": cuts[98]}


async def large(side: Side, world: World, size: int, idle: float, churn: int) -> tuple[dict[str, Figures], Requests]:
    """A burst, and what follows with so many objects: a restart, idleness, churn, and a restart when all have ended."""
    names = [f"job-{number}" for number in range(size)]
    with world.server(f"{side.name}-{size}") as plane:
        async with load(plane, world.spec) as user:
            with side.running(plane) as pid:
                burst, sent = await Trial(pid, plane, user).burst(names)
            found = {f"burst of {size:,}": burst}
            with side.running(plane) as pid:
                trial = Trial(pid, plane, user)
                found[f"restart with {size:,}"] = await trial.restart()
                if idle:
                    found[f"idle with {size:,}"] = await trial.idle(idle)
                if churn:
                    found[f"churn among {size:,}"] = await trial.churn(names[:churn])
            await together(lambda name: user.patch_status("trainingjobs", name, ENDED), [READY, *names])
            with side.running(plane) as pid:
                found[f"restart with {size:,} ended"] = await Trial(pid, plane, user).restart()
            return found, sent


async def steady(side: Side, world: World, seconds: float, rate: float = 20.0) -> dict[str, Figures]:
    """Jobs that come one by one."""
    names = [f"job-{number}" for number in range(round(seconds * rate))]
    with world.server(f"{side.name}-paced") as plane:
        async with load(plane, world.spec) as user:
            with side.running(plane) as pid:
                return {f"{rate:g} a second": await Trial(pid, plane, user).paced(names, 1 / rate)}


def pod(job: str, child: dict[str, Any]) -> dict[str, Any]:
    """The pod that a Job's controller would create."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": child["name"], "uid": child["uid"], "controller": True}
    metadata = {"name": f"{job}-pod", "labels": child["labels"], "ownerReferences": [owner]}
    return {"metadata": metadata, "spec": {"containers": [{"name": "trainer", "image": "none"}]}}


def running(began: str, turn: int) -> dict[str, Any]:
    """A pod that runs; with each turn another of its conditions has changed."""
    state = {"running": {"startedAt": began}}
    container = {"name": "trainer", "image": "none", "imageID": "", "ready": True, "restartCount": 0, "state": state}
    seen = {"type": "Ready", "status": "True", "lastTransitionTime": began, "message": f"turn {turn}"}
    return {"phase": "Running", "conditions": [seen], "containerStatuses": [container]}


def progress(turn: int) -> dict[str, Any]:
    """What the progress endpoint writes."""
    return {"progress": {"percent": turn, "secondsRemaining": 60 - turn}, "display": {"progress": f"{turn}%"}}
