"""What is read of the outside: the server's own count of requests, and what a process has used."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.client import Cluster

SAMPLE = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
VERBS = ("GET", "POST", "PUT", "PATCH", "APPLY", "DELETE")
PARTS = ("trainingjobs", "jobs", "pytorchjobs", "pods", "events", "persistentvolumeclaims")
Requests = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    seconds: float
    """Of processors."""
    megabytes: float
    """At its peak, resident."""

    def since(self, start: Usage) -> Usage:
        """What was used after an earlier moment; a peak is a peak."""
        return Usage(self.seconds - start.seconds, self.megabytes)


def usage(pid: int) -> Usage:
    """What the kernel says of a process."""
    times = psutil.Process(pid).cpu_times()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return Usage(times.user + times.system, int(peak[1]) * 1024 / 1e6 if peak else 0.0)


def resident(pid: int) -> float:
    """The memory of a process now, in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def requests(cluster: Cluster) -> Requests:
    """How often each (verb, resource) was asked for, as the server counts; a subresource stands behind a slash."""
    return counted(cluster.kubectl("get", "--raw", "/metrics"))


def counted(text: str) -> Requests:
    """The same, from the metrics' text."""
    found = Requests()
    for labels, value in SAMPLE.findall(text):
        label = dict(LABEL.findall(labels))
        resource = "/".join(filter(None, (label["resource"], label["subresource"])))
        found[label["verb"], resource] += round(float(value))
    return found


def asked(requests: Requests) -> Requests:
    """Those about single objects that both sides deal with: no lists, no watches, no Lease."""
    return Requests({(verb, name): n for (verb, name), n in requests.items() if verb in VERBS and _part(name) in PARTS})


def writes(requests: Requests) -> Requests:
    """Those of them that change something."""
    return Requests({(verb, name): count for (verb, name), count in asked(requests).items() if verb != "GET"})


def _part(resource: str) -> str:
    return resource.partition("/")[0]


async def quiet(pid: int, patience: float = 600.0) -> float:
    """Waits until a process has nothing to do for two seconds; the monotonic time at which that began."""
    until, calm = time.monotonic() + patience, 0
    used, since = usage(pid).seconds, time.monotonic()
    while calm < 8:
        if time.monotonic() > until:
            raise TimeoutError("it does not come to rest")
        await asyncio.sleep(0.25)
        before, used = used, usage(pid).seconds
        if used - before > 0.02:
            calm, since = 0, time.monotonic()
        else:
            calm += 1
    return since
