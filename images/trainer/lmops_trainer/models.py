"""Models: loaded from safetensors, or made from a configuration, and refused in a sentence where they do not fit."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_log

from lmops.api.model import Architecture, ModelSpec
from lmops_trainer import files, heads, uris
from lmops_trainer.data import configs
from lmops_trainer.failures import Refusal, place
from lmops_trainer.log import log
from lmops_trainer.tasks import TASKS

FILES = ("*.json", "*.safetensors", "*.txt", *files.CONFIG, *files.TOKENIZER)
"""Of a model of the hub, what is fetched."""
REJECTIONS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, ZeroDivisionError)
"""What layers raise for settings that make no model."""
BODY = "FeatureExtraction"
"""The task of a model without a head, which no training learns."""
COMPRESSED = (".onnx", ".pte")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def start(spec: ModelSpec, tokenizer: Any, labels: list[str], seed: int) -> PreTrainedModel:
    """The model that a training run begins with: the same for the same seed."""
    set_seed(seed)
    if spec.from_.architecture:
        model = _new(spec.from_.architecture, spec.task, tokenizer, labels)
    else:
        where = str(spec.from_.uri)
        model = _loaded(uris.folder(where, FILES), where, spec.task, labels, tokenizer, spec.trust_remote_code)
    _fits(model, tokenizer)
    if spec.freeze:
        freeze(model, spec.freeze)
    return model


def load(folder: Path | str, task: str, **options: Any) -> PreTrainedModel:
    """A trained model from its folder, ready to predict."""
    trust = bool(options.pop("trust_remote_code", False))
    model = _loaded(Path(folder), place(folder), task, None, None, trust, **options)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def freeze(model: PreTrainedModel, what: str) -> None:
    """Leaves the embeddings, or everything but the head, as they are."""
    base = model.base_model
    if what == "Embeddings":
        inner = getattr(base, "embeddings", None)
        tables = [module for module in base.modules() if isinstance(module, torch.nn.Embedding)]
        frozen: list[torch.nn.Module] = [inner] if isinstance(inner, torch.nn.Module) else [*tables]
    else:
        frozen = [base]
    for module in frozen:
        module.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise Refusal(
            "Settings",
            "NothingToTrain",
            f"With model.freeze: {what} nothing of this {type(model).__name__} is left to train: "
            "its head shares the frozen weights.",
            "Leave model.freeze out, or freeze the Embeddings only.",
        )


def inputs(model: PreTrainedModel) -> frozenset[str]:
    """What the model reads of a batch. GPT-2 would take token types for tokens, and RoBERTa knows one type only."""
    types = getattr(model.config, "type_vocab_size", 0) or 0
    return frozenset({"input_ids", "attention_mask"} | ({"token_type_ids"} if types > 1 else set()))


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """How many weights there are, and how many of them are trained."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def window(config: PretrainedConfig) -> int | None:
    """The longest input that the model has positions for, where it has such a bound."""
    positions = getattr(config, "max_position_embeddings", None)  # some call it otherwise, and map the name
    return configs.window(config.to_dict() | {"max_position_embeddings": positions})


def _new(architecture: Architecture, task: str, tokenizer: Any, labels: list[str]) -> PreTrainedModel:
    config = _configuration(architecture, tokenizer)
    _checked(config, task, f"the architecture {architecture.name}")
    _labelled(config, task, labels)
    with _settings(architecture.name):
        model: PreTrainedModel = TASKS[task].auto_class().from_config(config)
    return model


def _configuration(architecture: Architecture, tokenizer: Any) -> PretrainedConfig:
    default = configs.defaults(architecture.name)
    known = {*default.to_dict(), *default.attribute_map}
    for name in architecture.config:
        if name not in known:
            raise Refusal(
                "Model",
                "UnknownSetting",
                f"{architecture.name} has no setting {name!r}{_meant(name, known)}",
                f"See {type(default).__name__} in the documentation of transformers for its settings.",
            )
    named = {default.attribute_map.get(name, name): _value(value) for name, value in architecture.config.items()}
    settings = {"vocab_size": len(tokenizer)} | _tokens(tokenizer) | named
    with _settings(architecture.name):
        return AutoConfig.for_model(architecture.name, **settings)


def _value(value: int | str) -> Any:
    """What a quoted setting stands for: `"0.2"` a number, `"true"` a boolean, `"gelu"` itself."""
    if isinstance(value, int):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _tokens(tokenizer: Any) -> dict[str, int]:
    """The special tokens that a configuration speaks of, as this tokenizer numbers them."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    found = {
        "pad_token_id": pad,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }
    return {name: int(number) for name, number in found.items() if number is not None}


def _loaded(
    folder: Path, where: str, task: str, labels: list[str] | None, tokenizer: Any, trust: bool, **options: Any
) -> PreTrainedModel:
    is_model(folder, where)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(where, error, trust) from error
    _checked(config, task, where)
    if tokenizer is not None:
        for name, number in _tokens(tokenizer).items():
            setattr(config, name, number)
    if labels is not None:
        _labelled(config, task, labels)
    loader = heads.loader(_class(task), config)
    try:
        with _silence():
            model, found = loader.from_pretrained(
                folder,
                **{"dtype": torch.float32} | options,
                config=config,
                use_safetensors=True,
                trust_remote_code=trust,
                ignore_mismatched_sizes=labels is not None,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise unreadable(where, error, trust) from error
    if task != BODY:  # of that the pooler is not used
        _only_head_is_new(model, found, where, training=labels is not None)
    elif lacking := [name for name in found["missing_keys"] if "pooler." not in name]:
        raise _lacking(where, lacking)
    return model  # type: ignore[no-any-return]


def _class(task: str) -> Any:
    return AutoModel if task == BODY else TASKS[task].auto_class()


@contextmanager
def _silence() -> Iterator[None]:
    """Without transformers' own report on new weights: ours is one line, and refuses where it should."""
    level = transformers_log.get_verbosity()
    transformers_log.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_log.set_verbosity(level)


def is_model(folder: Path, where: str) -> None:
    """Refuses a folder without a configuration, or without weights that are safe to load."""
    if not (folder / "config.json").is_file():
        raise configs.no_model(where, folder)
    names = sorted(file.name for file in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return
    if compressed := next((name for name in names if name.endswith(COMPRESSED)), None):
        raise Refusal(
            "Model",
            "FormatUnfit",
            f"{where} is a compressed model, {compressed}, and safetensors weights are read here.",
            "Name the model that it was made of; a LanguageModelService serves graphs of ONNX.",
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    raise Refusal(
        "Model",
        "PickledWeights" if pickles else "NoWeights",
        f"{where} holds no safetensors weights"
        + (f", only {', '.join(pickles)}, which can run code when it is loaded." if pickles else "."),
        "Load it where you trust it and save it again with save_pretrained(), which writes safetensors."
        if pickles
        else "Copy the *.safetensors files of the model into the folder.",
    )


def _checked(config: PretrainedConfig, task: str, where: str) -> None:
    """Refuses a model type that has no class for the task."""
    mapping = _class(task)._model_mapping
    remote = _class(task).__name__ in (getattr(config, "auto_map", None) or {})
    fits = remote or type(config) in mapping
    if fits and task == "BertPreTraining" and not remote:
        fits = "next_sentence_label" in inspect.signature(mapping[type(config)].forward).parameters
    if not fits:
        raise Refusal(
            "Model",
            "WrongArchitecture",
            f"{where} is of type {config.model_type}, which has no class for the task {task}.",
            f"Take a model of another type for {task}, or another model.task.",
        )


def _labelled(config: PretrainedConfig, task: str, labels: list[str]) -> None:
    if task != "SequenceClassification":
        return
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification"


def _only_head_is_new(model: PreTrainedModel, found: Any, where: str, training: bool) -> None:
    """Weights that were not found become random: right for a new head, wrong for anything below it."""
    prefix = model.base_model_prefix + "."
    lacking = [*found["missing_keys"], *(item[0] for item in found["mismatched_keys"])]
    below = sorted(name for name in lacking if name.startswith(prefix) and ".pooler." not in name)
    if below or (lacking and not training):
        raise _lacking(where, below or sorted(lacking))
    if lacking:
        log.info("new weights, not in %s: %s", where, ", ".join(sorted(lacking)))


def _lacking(where: str, names: list[str]) -> Refusal:
    return Refusal(
        "Model",
        "WeightsMissing",
        f"The weights of {where} do not fit its configuration: {len(names)} are missing or of another shape.",
        "Copy the model again, with the configuration that it was saved with.",
        names[:20],
    )


def _fits(model: PreTrainedModel, tokenizer: Any) -> None:
    held = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    known = max(tokenizer.get_vocab().values(), default=-1) + 1
    if known > held:
        raise configs.too_many_tokens(known, held)


@contextmanager
def _settings(architecture: str) -> Iterator[None]:
    """Turns what a configuration or a layer rejects into a sentence."""
    try:
        yield
    except (StrictDataclassError, *REJECTIONS) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise Refusal(
            "Model",
            "SettingRefused",
            f"{architecture} cannot be made with these settings: {' '.join(lines) or type(error).__name__}",
            'Correct model.from.architecture.config; a fraction is quoted, as hidden_dropout_prob: "0.2".',
        ) from error


def unreadable(where: str, error: Exception, trust: bool) -> Refusal:
    """Why a configuration or weights cannot be loaded."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "trust_remote_code" in str(error) and not trust:
        return Refusal(
            "Model", "RemoteCode", f"{where} comes with code of its own, which is not run unless you allow it.",
            "Read the code; then set model.trustRemoteCode: true.", lines,
        )  # fmt: skip
    return Refusal(
        "Model", "ModelUnreadable", f"{where} cannot be loaded: {lines[0].rstrip('.')}.", "Copy the model again.", lines
    )  # fmt: skip


def _meant(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


__all__: Sequence[str] = ["freeze", "inputs", "load", "parameters", "start", "window"]
