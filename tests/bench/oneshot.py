"""The other side of the benchmarks of compression: llm-compressor as its users call it, all else at its defaults.

python oneshot.py SETTINGS, in the environment that `llm_compressor.py` has made: one JSON document; what it took goes
into SETTINGS["result"].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier

MODIFIERS = {
    "GPTQ": GPTQModifier,
    "RTN": QuantizationModifier,
    "SparseGPT": SparseGPTModifier,
    "Wanda": WandaPruningModifier,
}


def main(settings: dict[str, Any]) -> None:
    """Loads, compresses, saves. The time and the memory are those of the compression, before it saves."""
    loader = getattr(transformers, settings["class"])
    model = loader.from_pretrained(settings["model"], dtype=torch.float32)
    recipe = MODIFIERS[settings["method"]](targets=settings["layers"], **settings["arguments"])
    given: dict[str, Any] = {}
    if settings["rows"]:
        rows = Dataset.from_list(json.loads(Path(settings["rows"]).read_text()))
        given = {"dataset": rows, "num_calibration_samples": len(rows)}
    began = time.perf_counter()
    oneshot(model=model, recipe=recipe, **given)
    measured = {"seconds": time.perf_counter() - began, "memory": peak_memory()}
    model.save_pretrained(settings["target"])
    Path(settings["result"]).write_text(json.dumps(measured))


def peak_memory() -> int:
    """The most resident memory of this process until now, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
