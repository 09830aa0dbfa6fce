"""The GPUs of this laptop, and which pod has which."""

from __future__ import annotations

import os
import shutil
import subprocess

from lmops.local import pods
from lmops.plan import Manifest

NVIDIA = "nvidia.com/gpu"


class Accelerators:
    """Hands each GPU to one pod at a time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.taken: dict[str, list[str]] = {}

    def lacking(self, pod: Manifest) -> str | None:
        """Why the pod cannot have what it asks for, in a sentence."""
        for name, wanted in pods.accelerators(pod).items():
            there = len(self.names) if name == NVIDIA else 0
            if wanted > there:
                has = f"has {there}" if there else "has none"
                return f"the pod asks for {wanted} {name} and this machine {has}; add --cpu to run it on the processor"
            if wanted > len(self._free()):
                return f"the pod asks for {wanted} {name}, and other pods use them; it starts when they are free"
        return None

    def take(self, pod: Manifest) -> list[str]:
        """Gives the pod its GPUs."""
        self.taken[pod["metadata"]["uid"]] = self._free()[: pods.accelerators(pod).get(NVIDIA, 0)]
        return self.taken[pod["metadata"]["uid"]]

    def give_back(self, uid: str) -> None:
        """Frees what a pod had."""
        self.taken.pop(uid, None)

    def _free(self) -> list[str]:
        busy = {name for names in self.taken.values() for name in names}
        return [name for name in self.names if name not in busy]


def found() -> Accelerators:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return Accelerators(tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")))
    if shutil.which("nvidia-smi") is None:
        return Accelerators(())
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return Accelerators(tuple(str(index) for index in range(len(lines))) if listed.returncode == 0 else ())
