"""What a model's configuration says of its input: its kind, its window, and the size of its vocabulary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lmops.api.trainingjob import Architecture, ModelSpec
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import folder

FILES = ("config.json",)
DEFAULT_LENGTH = 512
_OFFSET = ("roberta", "camembert", "xlm-roberta", "xmod", "longformer")
"""Kinds whose positions start behind that of the padding token, so that a window of 514 holds 512 tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """The part of a configuration that the data must fit."""

    kind: str
    """The model type, as `bert`."""
    window: int | None
    """The most tokens the model can read; None where it has no limit of its own."""
    vocabulary: int | None
    """The tokens it has embeddings for; None where the tokenizer decides."""


def model_config(model: ModelSpec) -> ModelConfig:
    """The configuration of the model's folder, or that of its architecture."""
    if model.from_.architecture is not None:
        return _of_architecture(model.from_.architecture)
    uri = str(model.from_.uri)
    file = folder(uri, FILES) / "config.json"
    if not file.is_file():
        raise Refusal(
            "Model",
            "ModelMissing",
            f"{uri} holds no model: there is no config.json in it.",
            "Check spec.model.from.uri; it names the folder with config.json and model.safetensors.",
            [f"there: {', '.join(sorted(entry.name for entry in file.parent.iterdir())[:20])}"]
            if file.parent.is_dir()
            else [],
        )
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise Refusal(
            "Model", "ModelUnreadable", f"config.json of {uri} is not JSON: {error}.", "Copy the model again."
        ) from error
    return _read(config, config.get("vocab_size"))


def _of_architecture(architecture: Architecture) -> ModelConfig:
    from transformers import CONFIG_MAPPING

    if architecture.name not in CONFIG_MAPPING:
        near = get_close_matches(architecture.name, list(CONFIG_MAPPING.keys()), n=1)
        raise Refusal(
            "Model",
            "ArchitectureUnknown",
            f"transformers knows no model type {architecture.name!r}.",
            f"Did you mean {near[0]!r}?" if near else "Use a model type such as gpt2, bert or roberta.",
        )
    settings = CONFIG_MAPPING[architecture.name]()
    config = settings.to_dict()
    for name, value in architecture.config.items():
        config[settings.attribute_map.get(name, name)] = value
    explicit = architecture.config.get("vocab_size")
    return _read(config | {"model_type": architecture.name}, explicit)


def _read(config: dict[str, Any], vocabulary: Any) -> ModelConfig:
    kind = str(config.get("model_type", ""))
    positions = next((config[name] for name in ("n_positions", "max_position_embeddings") if config.get(name)), None)
    window = int(positions) if positions else None
    if window is not None and any(kind.startswith(name) for name in _OFFSET):
        window -= int(config.get("pad_token_id") or 0) + 1
    return ModelConfig(kind, window, int(vocabulary) if vocabulary else None)


def longest(asked: int | None, config: ModelConfig) -> int:
    """The longest input in tokens: what was asked for, else the model's window, at most 512."""
    if asked is None:
        return min(DEFAULT_LENGTH, config.window or DEFAULT_LENGTH)
    if config.window is not None and asked > config.window:
        raise Refusal(
            "Settings",
            "MaxLengthAboveWindow",
            f"dataset.maxLength is {asked}, and the model reads {config.window} tokens at the most.",
            f"Set dataset.maxLength to {config.window} or less.",
        )
    return asked


def files_of(place: Path, names: tuple[str, ...]) -> list[Path]:
    """Those of the named files that are in the folder."""
    return [place / name for name in names if (place / name).is_file()]
