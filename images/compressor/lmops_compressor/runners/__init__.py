"""What runs a model that lies in a folder, by its format: transformers, ONNX Runtime or ExecuTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Format = Literal["safetensors", "onnx", "executorch"]
GLOBS: dict[Format, tuple[str, ...]] = {
    "executorch": ("*.pte",),
    "onnx": ("*.onnx", "*.onnx.data"),
    "safetensors": ("*.safetensors",),
}
"""The files of the weights, by the format that they make of a folder."""


class Runner(Protocol):
    """A loaded model."""

    def logits(self, batch: Mapping[str, Array]) -> Array:
        """The scores of a batch (`input_ids`, `attention_mask`, `token_type_ids`; int64, [rows, length]).

        [rows, classes] for SequenceClassification, else [rows, length, vocabulary].
        """


def format_of(folder: Path) -> Format:
    """What lies in a folder."""
    return next(form for form, globs in GLOBS.items() if any(any(folder.glob(glob)) for glob in globs))


def weights(folder: Path) -> int:
    """The bytes of its weights."""
    return sum(file.stat().st_size for glob in GLOBS[format_of(folder)] for file in folder.glob(glob))


def opened(folder: Path, task: str, threads: int, trust_remote_code: bool = False, device: str = "cpu") -> Runner:
    """Loads what lies in a folder. Libraries are imported by the format that needs them.

    `device` is for safetensors: what else there is runs on the processor.
    """
    found = format_of(folder)
    if found == "onnx":
        from lmops_compressor.runners.onnx import OnnxRunner

        return OnnxRunner(folder, threads)
    if found == "executorch":
        from lmops_compressor.runners.executorch import ExecutorchRunner

        return ExecutorchRunner(folder, threads)
    from lmops_compressor.runners.torch import TorchRunner

    return TorchRunner(folder, task, threads, trust_remote_code, device)
