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


class Unfit(NamedTuple):
    """Why nothing serves a model as it is wanted, and what to do."""

    class_: Literal["Settings", "Model"]
    reason: str
    message: str
    remedy: str


def paired(artefact: str, device: str, wanted: Engine) -> Engine | None:
    """The engine for this artefact and device: the wanted one, or for `Auto` the first; None where there is none."""
    return next((engine for engine in _fitting(artefact, device) if wanted in ("Auto", engine)), None)


def unfit(artefact: str, device: str, wanted: Engine, uri: str) -> Unfit | None:
    """Why the wanted engine does not serve this artefact on this device."""
    if paired(artefact, device, wanted):
        return None
    if not (fitting := _fitting(artefact, device)):
        message = f"{uri} is a program of {artefact}, made for phones: no engine here serves it."
        remedy = "Serve the model that it was made of, or one that was compressed by another method."
        return Unfit("Model", "FormatUnfit", message, remedy)
    there = f" on {PLACES[device]}" if any((p.artefact, p.engine) == (artefact, wanted) for p in ENGINES) else ""
    message = f"The engine {wanted} does not serve {artefact}{there}, which {uri} is in."
    return Unfit("Settings", "EngineUnfit", message, f"Set engine to Auto or {' or '.join(fitting)}.")


def _fitting(artefact: str, device: str) -> list[Engine]:
    return [pair.engine for pair in ENGINES if (pair.artefact, pair.device) == (artefact, device)]


PLACES = {"cpu": "a processor", "cuda": "an accelerator"}
HEAD = (
    "# Which engine serves which model",
    "",
    "`engine` of a LanguageModelService is `Auto`, which takes the first engine of the model's form and device, or one of",
    "them by name. Any other pair is refused: `Accepted=False` where a job has told what it made, else by the server as",
    "it starts, with the same sentence. Written by `make crds`.",
    "",
    "| the model is | it runs on | engine | |",
    "|---|---|---|---|",
)


def table() -> str:
    """The pairs as a page for people."""
    rows = [f"| {pair.artefact} | {PLACES[pair.device]} | `{pair.engine}` | {pair.how} |" for pair in ENGINES]
    nothing = ("executorch", "phones", "none", "a model of method Mobile is a program for phones, and is not served")
    return "\n".join((*HEAD, *rows, "| {} | {} | {} | {} |".format(*nothing), ""))


if __name__ == "__main__":
    print(table(), end="")
