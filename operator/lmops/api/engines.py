"""Which engine serves which model on which device: the table that the operator, the server and the docs go by."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lmops.api.languagemodelservice import Engine

Artefact = Literal["safetensors", "onnx", "executorch"]
Device = Literal["cpu", "cuda"]


class Pairing(NamedTuple):
    """An engine that serves an artefact on a device."""

    artefact: Artefact
    device: Device
    engine: Engine
    how: str
    """What it is good for there."""


ENGINES = (
    Pairing("safetensors", "cpu", "Transformers", "any task; texts are classified and written many at a time"),
    Pairing("safetensors", "cuda", "Transformers", "any task, on the accelerator"),
    Pairing("onnx", "cpu", "ONNX", "what a QuantizeJob has compressed for processors"),
    Pairing("onnx", "cuda", "ONNX", "the same, still on the processor: its kernels of 8 bits are there"),
)
"""What can be paired. `Auto` takes the first engine of an artefact and device; a pair outside it is refused."""


def paired(artefact: str, device: str, wanted: Engine) -> Engine | None:
    """The engine for this artefact and device: the wanted one, or for `Auto` the first; None where there is none."""
    found = [pair.engine for pair in ENGINES if (pair.artefact, pair.device) == (artefact, device)]
    return next((engine for engine in found if wanted in ("Auto", engine)), None)


def engines(artefact: str) -> list[Engine]:
    """The engines that serve an artefact at all."""
    return list(dict.fromkeys(pair.engine for pair in ENGINES if pair.artefact == artefact))
