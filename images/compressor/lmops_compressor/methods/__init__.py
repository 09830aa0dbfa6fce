"""What can be done to a model: a module a method, each of which counts in the result what it has really changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel

from lmops.api.compression import Prune, Quantize
from lmops.api.compressionreport import Change
from lmops_compressor.rows import Draw
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal

Tell = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""


def part(tell: Tell, begin: float, end: float) -> Tell:
    """Tells of a part of the work, which begins and ends at these shares of the whole."""
    return lambda share: tell(begin + (end - begin) * share)


@dataclass
class Subject:
    """The model under compression, and what it is."""

    source: Source
    model: PreTrainedModel
    """In fp32: to be pruned on a GPU where there is one, to be quantized on the processor. Pruning is in place."""


class Pruner(Protocol):
    """Takes weights out of the model, in place."""

    def prune(self, subject: Subject, how: Prune, draw: Draw, tell: Tell) -> Change:
        """Prunes, counts, and fails where the count is not what was asked for. Rows are drawn if it looks at any."""


class Quantizer(Protocol):
    """Writes the model in fewer bits."""

    def quantize(self, subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
        """Writes what a runner can open into the empty folder `target`; counts, and fails as a pruner does."""


MODULES = {
    "Magnitude": "magnitude",
    "Wanda": "wanda",
    "SparseGPT": "sparsegpt",
    "Neurons": "neurons",
    "Dynamic": "dynamic",
    "Static": "static",
    "Mobile": "mobile",
    "MixedPrecision": "mixed_precision",
    "WeightOnly": "weight_only",
    "FP8": "fp8",
}


def pruner(method: str) -> Pruner:
    """The method of this name. Libraries are imported by those alone that need them."""
    return _module(method)  # type: ignore[no-any-return]


def quantizer(method: str) -> Quantizer:
    """The method of this name."""
    return _module(method)  # type: ignore[no-any-return]


def note(method: str) -> str:
    """What a reader of the figures has to know of the method; empty for those whose figures are what they seem."""
    return str(getattr(_module(method), "NOTE", ""))


def _module(method: str) -> Any:
    return import_module(f"lmops_compressor.methods.{MODULES[method]}")


def layers(model: PreTrainedModel, exclude: list[str]) -> dict[str, nn.Module]:
    """The linear layers of the encoder or decoder by name, `nn.Linear` and GPT-2's `Conv1D` alike.

    Heads (a classifier, a language model's output) are not among them: they are small, or share the embeddings.
    A name or pattern in `exclude` that fits no layer is refused, with the names that come near.
    """
    from transformers.pytorch_utils import Conv1D

    prefix = f"{model.base_model_prefix}."
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(prefix) and ".pooler." not in name
    }
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise Refusal(
                "Settings",
                "LayerUnknown",
                f"exclude: no layer is called {pattern!r}; they are called {', '.join(list(found)[:4])}, ...",
                "Name a layer, or a pattern as *.attention.*",
            )
    return {name: m for name, m in found.items() if not any(fnmatchcase(name, pattern) for pattern in exclude)}


def quantizable(model: PreTrainedModel, how: Quantize) -> dict[str, nn.Module]:
    """The layers that are stored in fewer bits; refused where `exclude` leaves none."""
    found = layers(model, how.exclude)
    if how.exclude and not found:
        raise Refusal(
            "Settings",
            "NothingToQuantize",
            f"{how.method} finds no layer to quantize: exclude names all of them ({', '.join(how.exclude)}).",
            "Exclude fewer layers.",
        )
    return found


def unchanged(step: str, expected: int, found: int) -> Refusal:
    """A method that did less than it was asked for: tools are quiet about that."""
    return Refusal(
        "Model",
        "NothingChanged",
        f"{step} should have changed {expected} layers, and has changed {found}.",
        "Take another method for this architecture.",
    )
