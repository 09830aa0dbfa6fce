"""llm-compressor beside ours: it wants other versions than ours, and so compresses in an environment of its own.

It is given the folder of the model, the names of the layers and the calibration rows that ours has; what it leaves in
a folder is loaded and measured by the code that measures ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

import environments
from lmops_compressor import methods
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from lmops_trainer import models

NAME = "llm-compressor"
VERSIONS = "from importlib.metadata import version; print(*map(version, ('llmcompressor', 'transformers')))"


@dataclass(frozen=True)
class Recipe:
    """What it is asked for: a modifier, and its arguments."""

    method: str
    arguments: Mapping[str, Any]
    looks_at_rows: bool = True


class UnableError(Exception):
    """It has made nothing: why, in a sentence."""


@dataclass(frozen=True)
class Taken:
    """What a compression took, by itself: without loading before it and saving after it."""

    seconds: float
    memory: int
    """The peak of its process, in bytes."""


def version() -> str:
    """Its name and version, in a few words; AbsentError where it cannot be installed."""
    command = [environments.python(NAME), "-I", "-c", VERSIONS]
    its, of_transformers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return f"{NAME} {its} (transformers {of_transformers})"


def compressed(source: Source, calibration: Rows, recipe: Recipe, target: Path) -> Taken:
    """Compresses the model into a folder, in a process of its own, on the processor; what it leaves out is an error."""
    model, result = source.model(), target.with_name(f"{target.name}.json")
    name, layers = type(model).__name__, list(methods.layers(model, []))
    settings = {
        "class": name, "model": str(source.folder), "layers": layers, "method": recipe.method,
        "arguments": recipe.arguments, "target": str(target), "result": str(result),
        "rows": str(_written(calibration, models.inputs(model), target)) if recipe.looks_at_rows else None,
    }  # fmt: skip
    command = [environments.python(NAME), "-I", Path(__file__).with_name("oneshot.py"), json.dumps(settings)]
    alone = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnableError(done.stderr.strip().splitlines()[-1][:300])
    if "scheme" in recipe.arguments and (found := _scales(target)) != len(layers):
        raise UnableError(f"it ended well, and {found} of the {len(layers)} layers of {name} are quantized")
    return Taken(**json.loads(result.read_text()))


def _written(rows: Rows, read: frozenset[str], target: Path) -> Path:
    """A file of the rows without padding, as it takes them: tokens already."""
    names = [name for name in ("input_ids", "token_type_ids") if name in read and name in rows.examples[0]]
    found = [
        {name: example[name] for name in names} | {"attention_mask": [1] * len(example["input_ids"])}
        for example in rows.examples
    ]
    file = target.with_name(f"{target.name}.rows.json")
    file.write_text(json.dumps(found))
    return file


def _scales(folder: Path) -> int:
    """How many weights of a folder are steps of a scale."""
    found = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found += sum(name.endswith(".weight_scale") for name in tensors.keys())  # noqa: SIM118  # it is no dict
    return found
