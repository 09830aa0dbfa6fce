"""Runs a program of ExecuTorch, one row after the other: a phone asks one at a time, and the program has no batch."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import executorch
import numpy as np
import torch

from lmops_compressor.runners import Array
from lmops_trainer.failures import Refusal

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a program is given, in order; the last one by those alone that read it. Each is int64, [1, length]."""
LONGEST = "max_length"
"""The method of a program that tells how many tokens a row may have."""
KERNELS = "libexecutorch_kernels_quantized.so"


class ExecutorchRunner:
    """A program (`.pte`), run by the ExecuTorch runtime on its XNNPACK backend."""

    def __init__(self, folder: Path, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        _quantized_kernels()
        portable_lib._unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(next(folder.glob("*.pte")))
        self._forward = program.load_method("forward")
        self._inputs = INPUTS[: self._forward.metadata.num_inputs()]
        self.longest = int(program.load_method(LONGEST).execute(())[0])

    def logits(self, batch: Mapping[str, Array]) -> Array:
        """The scores of a batch. Rows are cut to their own tokens first; where one is padded, its scores are zero."""
        rows, length = batch["input_ids"].shape
        none = np.zeros_like(batch["input_ids"])  # of types, where no row has a second part
        scores = [self._row({name: batch.get(name, none)[row] for name in self._inputs}) for row in range(rows)]
        if scores[0].ndim == 1:
            return np.stack(scores)
        found = np.zeros((rows, length, scores[0].shape[-1]), np.float32)
        for row, made in enumerate(scores):
            found[row, : len(made)] = made
        return found

    def _row(self, row: Mapping[str, Array]) -> Array:
        """[classes] or [its tokens, vocabulary]."""
        tokens = max(1, len(np.trim_zeros(row["attention_mask"], "b")))
        if tokens > self.longest:
            raise Refusal(
                "Data",
                "RowTooLong",
                f"A row has {tokens} tokens; the ExecuTorch program takes {self.longest} at most.",
                "Shorten the rows, or train the model with a larger dataset.maxLength.",
            )
        given = [torch.from_numpy(np.ascontiguousarray(row[name][None, :tokens])) for name in self._inputs]
        return self._forward.execute(given)[0][0].numpy().copy()  # type: ignore[no-any-return]


@cache
def _quantized_kernels() -> None:
    """Registers the kernels of quantized embeddings, which the Python package brings and does not load."""
    [package] = executorch.__path__
    ctypes.CDLL(str(Path(package) / "lib" / KERNELS))
