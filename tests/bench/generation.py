"""How fast an int8 GPT-2 writes beside torch in fp32: `python tests/bench/generation.py MODEL QUANTIZED`, two folders.

One thread, one row, runs in turn; the median of each, and their ratio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from lmops_compressor.runners.onnx import OnnxRunner
from lmops_trainer import models

REPEATS, PROMPT = 5, 16


def seconds(write: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    write()
    return time.perf_counter() - start


def main(original: Path, quantized: Path) -> None:
    """Prints a line for each number of tokens."""
    torch.set_num_threads(1)
    model, runner = models.load(original, "CausalLM"), OnnxRunner(quantized, 1)
    prompt = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, PROMPT))
    for tokens in (8, 32, 64, 128):
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        calls = (
            lambda length=length: model.generate(torch.from_numpy(prompt), **length),
            lambda tokens=tokens: runner.generate(prompt, tokens),
        )
        times = [[seconds(call) for call in calls] for _ in range(REPEATS + 1)][1:]
        before, after = (median(run) for run in zip(*times, strict=True))
        print(f"{tokens:4} tokens: torch fp32 {before:.3f} s, int8 {after:.3f} s, {before / after:.1f} times faster")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
