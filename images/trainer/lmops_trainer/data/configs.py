"""What a model's configuration says of its input: its kind, its window, and the size of its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmops.api.model import Architecture, ModelSpec
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
        raise no_model(uri, file.parent)
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise Refusal(
            "Model", "ModelUnreadable", f"config.json of {uri} is not JSON: {error}.", "Copy the model again."
        ) from error
    return _read(config, config.get("vocab_size"))


def _of_architecture(architecture: Architecture) -> ModelConfig:
    settings = defaults(architecture.name)
    config = settings.to_dict()
    for name, value in architecture.config.items():
        config[settings.attribute_map.get(name, name)] = value
    explicit = architecture.config.get("vocab_size")
    return _read(config | {"model_type": architecture.name}, explicit)


def _read(config: dict[str, Any], vocabulary: Any) -> ModelConfig:
    return ModelConfig(str(config.get("model_type", "")), window(config), int(vocabulary) if vocabulary else None)


def defaults(architecture: str) -> PretrainedConfig:
    """The settings of a model type where nothing else is asked for."""
    from transformers import CONFIG_MAPPING

    if architecture not in CONFIG_MAPPING:
        near = get_close_matches(architecture, list(CONFIG_MAPPING.keys()), n=1)
        raise Refusal(
            "Model",
            "UnknownArchitecture",
            f"transformers knows no model type {architecture!r}.",
            f"Did you mean {near[0]!r}?" if near else "Use a model type such as gpt2, bert or roberta.",
        )
    return CONFIG_MAPPING[architecture]()


def window(config: Mapping[str, Any]) -> int | None:
    """The longest input that the model has positions for, where it has such a bound."""
    found = next((config[name] for name in ("n_positions", "max_position_embeddings") if config.get(name)), None)
    if found is None or not str(config.get("model_type", "")).startswith(_OFFSET):
        return int(found) if found else None
    return int(found) - int(config.get("pad_token_id") or 0) - 1


def longest(asked: int | None, config: ModelConfig) -> int:
    """The longest input in tokens: what was asked for, else the model's window, at most 512."""
    if asked is None:
        return min(DEFAULT_LENGTH, config.window or DEFAULT_LENGTH)
    if config.window is not None and asked > config.window:
        raise above_window(asked, config.window)
    return asked


def above_window(length: int, window: int) -> Refusal:
    """The examples may be longer than what the model reads."""
    return Refusal(
        "Settings",
        "MaxLengthAboveWindow",
        f"dataset.maxLength is {length}, and the model reads {window} tokens at the most.",
        f"Set dataset.maxLength to {window} or less.",
    )


def no_model(where: str, place: Path) -> Refusal:
    """The folder is not there, or has no configuration."""
    names = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else None
    within = sorted(place.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return Refusal(
        "Model",
        "ModelMissing",
        f"{where} is no model: {'there is no such folder' if names is None else 'it holds no config.json'}.",
        f"Name the folder of the model in it, as {where.rstrip('/')}/{within[-1].parent.name}."
        if within
        else "Name the folder that holds config.json and the weights.",
        [f"{where}: {', '.join(names[:20]) or 'empty'}"] if names is not None else [],
    )


def too_many_tokens(known: int, held: int) -> Refusal:
    """The tokenizer has numbers that the model has no embeddings for."""
    return Refusal(
        "Model",
        "TokenizerMismatch",
        f"The tokenizer knows {known:,} tokens, and the model has embeddings for {held:,}.",
        "Use the tokenizer that belongs to the model; in an architecture leave vocab_size out.",
    )


def files_of(place: Path, names: tuple[str, ...]) -> list[Path]:
    """Those of the named files that are in the folder."""
    return [place / name for name in names if (place / name).is_file()]
