"""Energy by the hardware's own counters: of processors by RAPL, of a GPU that is in use by NVML."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NOBODY = "Energy was not measured: "
Meter = Callable[[], float]
"""Joules since some moment; it never falls."""


def meters(powercap: Path = POWERCAP, on_gpu: bool | None = None) -> tuple[list[Meter], str]:
    """The meters of this machine, and a note: what they measure, or why there are none."""
    found, reason = packages(powercap)
    if on_gpu if on_gpu is not None else _is_on_gpu():
        card, why = gpu()
        if card and not found:
            return [card], f"Energy is that of the whole GPU, without the processor: {reason}."
        found, reason = [*found, *([card] if card else [])], why or reason
    if not found:
        return [], f"{NOBODY}{reason}."
    return found, "Energy is that of the whole machine, whatever else ran on it."


def packages(powercap: Path = POWERCAP) -> tuple[list[Meter], str]:
    """A meter a processor package. Since 2020 kernels let only root read them (CVE-2020-8694)."""
    domains = sorted(powercap.glob("intel-rapl:[0-9]")) + sorted(powercap.glob("intel-rapl:[0-9][0-9]"))
    if not domains:
        return [], f"this machine has no RAPL counters below {powercap}"
    try:
        return [Package(domain).joules for domain in domains], ""
    except OSError as error:
        return [], f"the RAPL counters cannot be read ({error.strerror})"


def gpu() -> tuple[Meter | None, str]:
    """A meter of the GPU that torch is at work on: NVML counts all that there are, whatever this process may use."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        meter = _card(pynvml.nvmlDeviceGetTotalEnergyConsumption, card)
        meter()
        return meter, ""
    except pynvml.NVMLError as error:
        return None, f"NVML does not tell the energy of the GPU ({error})"


class Package:
    """The counter of one processor package. It wraps around, every few minutes under load."""

    def __init__(self, domain: Path) -> None:
        self._counter = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text()) + 1
        self._last = int(self._counter.read_text())
        self._turns = 0

    def joules(self) -> float:
        """Joules, counted on over wraps."""
        now = int(self._counter.read_text())
        self._turns += now < self._last
        self._last = now
        return (self._turns * self._range + now) / 1e6


def _card(read: Callable[[object], int], card: object) -> Meter:
    return lambda: read(card) / 1e3  # millijoules since the driver was loaded


def _is_on_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
