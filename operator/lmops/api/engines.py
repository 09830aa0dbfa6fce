"""Which engine serves which model on which device: the table that the operator, the server and the docs go by."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lmops.api.languagemodelservice import Engine, ServedTask

Artefact = Literal["safetensors", "onnx", "executorch"]
Device = Literal["cpu", "cuda"]


class Pairing(NamedTuple):
    """An engine that serves an artefact on a device."""

    artefact: Artefact
    device: Device
    engine: Engine
    how: str
    """What it is good for there."""
    task: ServedTask | None = None
    """The one task that it is for; else it is for all."""

    def fits(self, wanted: Engine, task: str | None) -> bool:
        """Whether it is what is wanted. `Auto` takes what is for one task only where a model is known to have that."""
        if wanted == "Auto":
            return self.task in (None, task)
        return self.engine == wanted and (self.task is None or task in (None, self.task))


ENGINES = (
    Pairing("safetensors", "cpu", "Transformers", "texts are classified and written many at a time"),
    Pairing("safetensors", "cuda", "VLLM", "[what writes](vllm.md), for many at a time", "CausalLM"),
    Pairing(
        "safetensors", "cuda", "Transformers", "texts are classified and written many at a time, on the accelerator"
    ),
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


def paired(artefact: str, device: str, wanted: Engine, task: str | None = None) -> Engine | None:
    """The engine for this artefact and device: the wanted one, or for `Auto` the first; None where there is none."""
    return next((pair.engine for pair in _pairs(artefact, device) if pair.fits(wanted, task)), None)


def unfit(artefact: str, device: str, wanted: Engine, uri: str, task: str | None = None) -> Unfit | None:
    """Why the wanted engine does not serve this artefact, of this task, on this device."""
    if paired(artefact, device, wanted, task):
        return None
    if not (pairs := _pairs(artefact, device)):
        message = f"{uri} is a program of {artefact}, made for phones: no engine here serves it."
        remedy = "Serve the model that it was made of, or one that was compressed by another method."
        return Unfit("Model", "FormatUnfit", message, remedy)
    fitting = " or ".join(pair.engine for pair in pairs if pair.fits("Auto", task))
    if alone := next((pair.task for pair in pairs if pair.engine == wanted), None):
        message = f"The engine {wanted} serves models for {alone}, and {uri} is one for {task}."
        return Unfit("Settings", "EngineUnfit", message, f"Set engine to Auto or {fitting}.")
    elsewhere = any((pair.artefact, pair.engine) == (artefact, wanted) for pair in ENGINES)
    there = f" on {PLACES[device]}" if elsewhere else ""
    more = ", or ask for one with resources.accelerator" if elsewhere and device == "cpu" else ""
    message = f"The engine {wanted} does not serve {artefact}{there}, which {uri} is in."
    return Unfit("Settings", "EngineUnfit", message, f"Set engine to Auto or {fitting}{more}.")


def _pairs(artefact: str, device: str) -> list[Pairing]:
    return [pair for pair in ENGINES if (pair.artefact, pair.device) == (artefact, device)]


PLACES = {"cpu": "a processor", "cuda": "an accelerator"}
HEAD = (
    "# Which engine serves which model",
    "",
    "`engine` of a LanguageModelService is `Auto`, which takes the first engine of the model's form and device, or one of",
    "them by name. Any other pair is refused: `Accepted=False` where a job has told what it made, else by the server as",
    "it starts, with the same sentence. An engine for one task alone is taken by `Auto` where a TrainingJob has told that",
    "its model is for that, and where it keeps [all that the spec asks for](vllm.md). Written by `make crds`.",
    "",
    "| the model is | for | it runs on | engine | |",
    "|---|---|---|---|---|",
)


def table() -> str:
    """The pairs as a page for people."""
    rows = [
        f"| {pair.artefact} | {pair.task or 'any task'} | {PLACES[pair.device]} | `{pair.engine}` | {pair.how} |"
        for pair in ENGINES
    ]
    nothing = "a model of method Mobile is a program for phones, and is not served"
    return "\n".join((*HEAD, *rows, f"| executorch | any task | phones | none | {nothing} |", ""))


if __name__ == "__main__":
    print(table(), end="")
