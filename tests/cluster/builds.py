"""Kubernetes and its companions, compiled from the Go modules beside this file and kept in the user's cache folder."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MODULES = Path(__file__).parent / "go"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmops" / "cluster"
Say = Callable[[str], None]


class MissingError(Exception):
    """What a machine lacks to run a test cluster."""


class Program(NamedTuple):
    """A program of a module: its package, and how long it takes to compile alone on two idle cores."""

    module: str
    package: str
    seconds: int


PROGRAMS = {
    "etcd": Program("kubernetes", "go.etcd.io/etcd/server/v3", 57),
    "kube-apiserver": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", 209),
    "kube-controller-manager": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", 61),
    "kubectl": Program("kubernetes", "k8s.io/kubernetes/cmd/kubectl", 20),
    "training-operator": Program("kubernetes", "github.com/kubeflow/training-operator/cmd/training-operator.v1", 14),
    "kube-scheduler": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", 6),
    "kubelet": Program("kubernetes", "k8s.io/kubernetes/cmd/kubelet", 46),
    "kube-proxy": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", 17),
    "containerd": Program("containerd", "github.com/containerd/containerd/v2/cmd/containerd", 50),
    "containerd-shim-runc-v2": Program(
        "containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 5
    ),
    "ctr": Program("containerd", "github.com/containerd/containerd/v2/cmd/ctr", 5),
    "coredns": Program("node", "./coredns", 86),
    "pause": Program("node", "./pause", 1),
    "kserve": Program("kserve", "github.com/kserve/kserve/cmd/manager", 195),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "training-operator")
NODE = tuple(name for name in PROGRAMS if name != "kserve")


def build(names: tuple[str, ...], say: Say = print) -> None:
    """Compiles those of the programs that are not there yet."""
    if shutil.which("go") is None:
        raise MissingError("`go` is not installed (https://go.dev/dl)")
    missing = [name for name in names if not program(name).exists()]
    if not missing:
        return
    say(f"a real Kubernetes is compiled, once: {', '.join(missing)}")
    with alone():
        for name in missing:
            _compile(name, say)


def program(name: str) -> Path:
    """Where a program is kept: its folder is named by all that goes into it."""
    return CACHE / f"{PROGRAMS[name].module}-{_digest(PROGRAMS[name].module)}" / name


def source(module: str, of: str) -> Path:
    """The folder of a module that one of ours requires."""
    return Path(_go(of, "list", "-m", "-f", "{{.Dir}}", module).strip())


def version(module: str, of: str) -> str:
    """The version of a module that one of ours requires."""
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", (MODULES / of / "go.mod").read_text(), re.MULTILINE)
    assert found, f"{of}/go.mod does not require {module}"
    return found[1]


def flags(module: str) -> list[str]:
    """What a module is compiled with. Kubernetes learns its version from the linker alone."""
    link = ["-s", "-w"]
    if module == "kubernetes":
        tag = version("k8s.io/kubernetes", module)
        major, minor, _ = tag.removeprefix("v").split(".")
        known = {"gitVersion": tag, "gitMajor": major, "gitMinor": minor}
        link += [f"-X k8s.io/component-base/version.{name}={value}" for name, value in known.items()]
    if module == "containerd":
        tag = version("github.com/containerd/containerd/v2", module)
        link.append(f"-X github.com/containerd/containerd/v2/version.Version={tag}")
    tags = ["-tags", "no_btrfs,no_devmapper,no_zfs"] if module == "containerd" else []
    return ["-trimpath", "-buildvcs=false", *tags, "-ldflags", " ".join(link)]


@functools.cache
def _digest(module: str) -> str:
    inputs = hashlib.sha256(" ".join(flags(module)).encode())
    for file in sorted(path for path in (MODULES / module).rglob("*") if path.is_file()):
        inputs.update(file.read_bytes())
    return inputs.hexdigest()[:12]


def _compile(name: str, say: Say) -> None:
    target, wanted = program(name), PROGRAMS[name]
    if target.exists():  # by another session, while this one waited
        return
    say(f"  {name}: up to {wanted.seconds} s on two idle cores ...")
    began, part = time.monotonic(), target.with_suffix(".part")
    _go(wanted.module, "build", *flags(wanted.module), "-o", str(part), wanted.package)
    part.rename(target)
    say(f"  {name}: built in {time.monotonic() - began:.0f} s, {target.stat().st_size >> 20} MB")


def _go(module: str, *arguments: str) -> str:
    static = {"CGO_ENABLED": "0"} if module == "node" else {}  # what runs in a container finds no libraries there
    command = ["go", *arguments]
    environment = {**os.environ, "GOWORK": "off", **static}
    done = subprocess.run(command, cwd=MODULES / module, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"`{' '.join(command)}` in {MODULES / module} said: {done.stderr.strip()[-2000:]}")
    return done.stdout


@contextmanager
def alone() -> Iterator[None]:
    """Two sessions fill the cache one after the other, and the second finds everything done."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
