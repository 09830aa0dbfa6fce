"""The GPUs of this laptop, and which pod has which."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lmops.local import pods
from lmops.local.home import Home, Lock
from lmops.plan import Manifest

NVIDIA = "nvidia.com/gpu"


class Accelerators:
    """Hands each GPU to one pod at a time, whichever engine runs it: a GPU is a lock in a folder that they share."""

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self.names, self.folder = names, folder
        self.taken: dict[str, dict[str, Lock]] = {}

    def take(self, pod: Manifest) -> str | None:
        """Gives the pod all the GPUs that it asks for, or none and says why not, in a sentence."""
        for name, wanted in pods.accelerators(pod).items():
            there = len(self.names) if name == NVIDIA else 0
            if wanted > there:
                has = f"has {there}" if there else "has none"
                return f"the pod asks for {wanted} {name} and this machine {has}; add --cpu to run it on the processor"
            if wanted and not self._locked(pod["metadata"]["uid"], wanted):
                return f"the pod asks for {wanted} {name}, and other pods use them; it starts when they are free"
        return None

    def of(self, pod: Manifest) -> list[str]:
        """The GPUs that the pod has."""
        return list(self.taken.get(pod["metadata"]["uid"], ()))

    def give_back(self, uid: str) -> None:
        """Frees what a pod had."""
        for lock in self.taken.pop(uid, {}).values():
            lock.give_back()

    def _locked(self, uid: str, wanted: int) -> bool:
        mine = self.taken.setdefault(uid, {})
        with Lock(self.folder / "lock").held():  # one at a time, lest two pods take half each and both wait
            for name in self.names:
                lock = Lock(self.folder / f"{name.replace('/', '-')}.lock")
                if len(mine) < wanted and name not in mine and lock.take(looks=1):
                    mine[name] = lock
        if len(mine) < wanted:
            self.give_back(uid)
        return len(mine) == wanted


def found(home: Home) -> Accelerators:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    return Accelerators(_visible(), home.root / "gpus")


def _visible() -> tuple[str, ...]:
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(index) for index in range(len(lines))) if listed.returncode == 0 else ()
