"""Runs an ONNX graph with ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from lmops_compressor.runners import Array
from lmops_trainer.failures import Refusal, place

HIDDEN = "hidden"
"""The output that is an encoder's last hidden state, [rows, length, width], which scores are made of anyway."""
SLOW = "SkipLayerNormFusion"
"""Adds and normalises in one kernel, which takes three times as long as the two it replaces (ONNX Runtime 1.32)."""


class OnnxRunner:
    """A graph as `lmops_compressor.export` writes it.

    A lean one leaves its weights on the disk until they are read, and keeps no memory between calls: it is slower.
    """

    def __init__(self, folder: Path, threads: int, lean: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("optimization.disable_specified_optimizers", SLOW)
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        path = next(folder.glob("*.onnx"))
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for each of a dozen faults of a file
            raise Refusal(
                "Model", "ModelUnreadable", f"{place(path)} cannot be loaded: {str(error).splitlines()[0][:300]}",
                "Copy the model again.",
            ) from error  # fmt: skip
        self._inputs = {value.name: value for value in self.session.get_inputs()}
        self.gives = {value.name for value in self.session.get_outputs()}
        self._past = [name for name in self._inputs if name.startswith("past_key_values.")]
        self._present = [name.replace("past_key_values.", "present.") for name in self._past]

    def logits(self, batch: Mapping[str, Array]) -> Array:
        """The scores of a batch; a language model begins with an empty cache."""
        return self.outputs(batch, ["logits"])[0]

    def outputs(self, batch: Mapping[str, Array], names: list[str]) -> list[Array]:
        """What the graph gives by these names."""
        return self._run(batch, self.empty(len(batch["input_ids"])), names)

    def generate(self, input_ids: Array, new_tokens: int, cached: bool = True) -> Array:
        """The likeliest tokens after `input_ids` ([rows, length], int64, no padding): [rows, new_tokens].

        With the cache each step reads one token; without, everything again.
        """
        rows, length = input_ids.shape
        past, tokens, read = self.empty(rows), input_ids, 0
        for _ in range(new_tokens):
            scores, present = self.advance(tokens[:, read:], past)
            if cached:
                past, read = present, tokens.shape[1]
            tokens = np.concatenate([tokens, scores[:, -1:].argmax(-1)], axis=1)
        return tokens[:, length:]

    def advance(self, input_ids: Array, past: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The scores of tokens ([rows, length]) that come after a cache, and the cache after them."""
        rows, length = input_ids.shape
        before = past[self._past[0]].shape[2]
        batch = {"input_ids": input_ids, "attention_mask": np.ones((rows, before + length), np.int64)}
        scores, *present = self._run(batch, past, ["logits", *self._present])
        return scores, dict(zip(self._past, present, strict=True))

    def _run(self, batch: Mapping[str, Array], past: Mapping[str, Array], outputs: list[str]) -> list[Array]:
        given = {name: values for name, values in batch.items() if name in self._inputs}
        if "token_type_ids" in self._inputs and "token_type_ids" not in given:
            given["token_type_ids"] = np.zeros_like(given["input_ids"])
        return self.session.run(outputs, {**given, **past})  # type: ignore[no-any-return]

    def empty(self, rows: int) -> dict[str, Array]:
        """A cache of nothing."""
        shapes = {name: self._inputs[name].shape for name in self._past}
        return {name: np.zeros((rows, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
