"""A machine within this machine: a process that holds mount, network and process namespaces, and all that is in them.

When that process ends, every daemon, pod, mount, interface and firewall rule of the node ends with it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.builds import program
from cluster.processes import Daemons

CGROUPS = Path("/sys/fs/cgroup")
HIERARCHIES = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
"""What a kubelet insists on writing; it writes to copies."""
MOST = 16
"""Nodes that may run on this machine at once."""


class Machine:
    """The namespaces of a node, and the cable to it."""

    def __init__(self, number: int, folder: Path, daemons: Daemons) -> None:
        self.folder, self.daemons = folder, daemons
        self.host, self.address = f"10.201.{number}.1", f"10.201.{number}.2"
        self.pods, self.services = f"10.245.{number}.0/24", f"10.97.{number}.0/24"
        self.name = f"lmops{number}"
        """Of its cable on this machine, and of its cgroup."""
        self._pid = 0

    def start(self) -> None:
        """Makes the namespaces, their file systems and their network."""
        unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--propagation=slave")
        self.daemons.start("namespaces", *unshare, "--mount-proc", program("pause"))
        parent = self.daemons.pid("namespaces")
        children = Path(f"/proc/{parent}/task/{parent}/children")
        self.daemons.wait("namespaces", lambda: _name_of(children.read_text()) == "pause")
        self._pid = int(children.read_text())
        self._mount()
        self._connect()
        self._make_cgroup()

    def run(self, *command: str | Path) -> str:
        """Runs a command inside, and returns what it prints."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
        return done.stdout

    def inside(self, *command: str | Path) -> list[str]:
        """The command that runs another one inside."""
        return ["nsenter", "-t", str(self._pid), "-m", "-n", "-p", "--", *map(str, command)]

    def remove_cgroup(self) -> None:
        """Removes the node's cgroups, once the kernel has buried the last process in them."""
        for _ in range(50):
            left = [folder for parent in CGROUPS.iterdir() if (folder := parent / self.name).is_dir()]
            for top in left:
                for folder in sorted(top.rglob("*/"), reverse=True):
                    with suppress(OSError):
                        folder.rmdir()
                with suppress(OSError):
                    top.rmdir()
            if not left:
                return
            time.sleep(0.1)

    def _mount(self) -> None:
        """Private copies of what the daemons write to: /run, /var/lib, /var/log and a few sysctls."""
        self.run("mount", "--make-rshared", "/")
        self.run("mount", "-t", "tmpfs", "-o", "mode=755,size=64m", "run", "/run")
        self.run("mkdir", "/run/lock", "/run/netns")
        for target in ("var/lib", "var/log", *(f"proc/sys/{sysctl}" for sysctl in SYSCTLS)):
            copy = self.folder / target
            if target.startswith("var"):
                copy.mkdir(parents=True)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(Path("/", target).read_text())
            self.run("mount", "--bind", copy, Path("/", target))

    def _connect(self) -> None:
        """A cable with a route to pods and Services at this end. At the other end nothing leads further out."""
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        _ip("address", "add", f"{self.host}/30", "dev", self.name)
        _ip("link", "set", self.name, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        # a Service's address needs a route, any route, before kube-proxy's rules redirect it
        self.run("ip", "route", "add", self.services, "dev", "lo", "src", self.address)
        self.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        for range_ in (self.pods, self.services):
            _ip("route", "replace", range_, "via", self.address, "dev", self.name)

    def _make_cgroup(self) -> None:
        """With cgroup v1 the kubelet wants its root cgroup to be there in every hierarchy."""
        if (CGROUPS / "cgroup.controllers").exists():
            return
        for hierarchy in HIERARCHIES:
            (CGROUPS / hierarchy / self.name).mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            (CGROUPS / "cpuset" / self.name / file).write_text((CGROUPS / "cpuset" / file).read_text())
        # else all pods together weigh as much as one process of this machine
        (CGROUPS / "cpu" / self.name / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))


@contextmanager
def machine(folder: Path, daemons: Daemons) -> Iterator[Machine]:
    """A machine with a number, and so addresses, that no other one on this host has at the time."""
    for number in range(MOST):
        with Path(f"/run/lock/lmops-node-{number}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            made = Machine(number, folder, daemons)
            try:
                made.start()
                yield made
            finally:
                daemons.kill_all()
                made.remove_cgroup()
            return
    raise RuntimeError(f"{MOST} nodes run on this machine already")


def _name_of(pid: str) -> str:
    file = Path(f"/proc/{pid.strip()}/comm")
    return file.read_text().strip() if pid.strip() and file.exists() else ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
