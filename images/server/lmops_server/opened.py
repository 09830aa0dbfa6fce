"""The model that a replica serves: found at its URI, held against its passport, and paired with an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from lmops.api import Serving
from lmops.api.dataset import Dataset
from lmops.api.engines import paired, unfit
from lmops.api.languagemodelservice import Engine, ServedTask
from lmops_compressor.runners import GLOBS
from lmops_trainer import models, passports, uris
from lmops_trainer.answers import ENDINGS
from lmops_trainer.data.configs import no_model
from lmops_trainer.data.tokenizers import saved
from lmops_trainer.failures import Refusal

LENGTH = 512
"""The longest input of an encoder that says nothing of it."""
FILES = (*models.FILES, "*.onnx", "*.onnx.data", "*.jinja")
KIN: dict[str, ServedTask] = {
    "SequenceClassification": "SequenceClassification",
    "CausalLM": "CausalLM",
    "MaskedLM": "MaskedLM",
    "BertPreTraining": "MaskedLM",  # it has that head as well, and the other tells nothing to a client
}
"""What is served of a model, by what it was trained for."""


@dataclass(frozen=True)
class Opened:
    """A model's folder and all that is known of it before its weights are loaded."""

    name: str
    """The model's name in requests: that of the service."""
    uri: str
    folder: Path
    task: ServedTask
    artefact: str
    engine: Engine
    device: str
    digest: str | None
    labels: list[str]
    """Its classes, in the order of their numbers."""
    window: int
    """The most tokens that it reads, and writes besides."""
    vocabulary: int | None
    """Its tokens are numbers below this one."""
    max_length: int
    """The most tokens of an input that an encoder was trained on."""
    dataset: Dataset
    """How texts are brought into the form that it was trained on."""
    passport: dict[str, Any]
    """`{}` for a model that is not of our making."""
    trust_remote_code: bool

    @classmethod
    def open(cls, serving: Serving) -> Opened:
        """The model of a document; a sentence where it cannot be served."""
        wanted = serving.model
        folder = uris.folder(wanted.uri, FILES)
        if not (folder / "config.json").is_file():
            raise no_model(wanted.uri, folder)
        artefact = _artefact(folder, wanted.uri)
        passport = passports.passport(folder, wanted.uri)
        digest = passports.verified(folder, wanted.uri, passport, wanted.digest)
        config = _config(folder, wanted.uri, wanted.trust_remote_code)
        task = _task(config, passport, wanted.task, wanted.uri, artefact)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        classes = (config.id2label or {}) if task == "SequenceClassification" else {}
        window = models.window(config) or passport.get("maxLength") or LENGTH
        return cls(
            name=serving.service.name,
            uri=wanted.uri,
            folder=folder,
            task=task,
            artefact=artefact,
            engine=_engine(artefact, device, serving.spec.engine, wanted.uri),
            device=device,
            digest=digest,
            labels=[name for _, name in sorted((int(number), name) for number, name in classes.items())],
            window=window,
            vocabulary=getattr(config.get_text_config(), "vocab_size", None),
            max_length=passport.get("maxLength") or min(window, LENGTH),
            dataset=passports.dataset(passport),
            passport=passport,
            trust_remote_code=wanted.trust_remote_code,
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer, which neither cuts nor pads."""
        made = saved(self.folder, self.uri, self.trust_remote_code)
        made.backend_tokenizer.no_truncation()
        made.backend_tokenizer.no_padding()
        return made


def _artefact(folder: Path, uri: str) -> str:
    found = next((form for form, globs in GLOBS.items() if any(any(folder.glob(glob)) for glob in globs)), None)
    if found is None:
        models.is_model(folder, uri)  # says what is there instead
    return str(found)


def _config(folder: Path, uri: str, trust: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        raise models.unreadable(uri, error, trust) from error


def _task(config: Any, passport: dict[str, Any], wanted: ServedTask | None, uri: str, artefact: str) -> ServedTask:
    """The wanted task, or the one that the model was made for."""
    made = KIN.get(str(passport.get("task"))) or _by_architecture(config)
    if wanted is None or wanted == made:
        return made
    if artefact != "safetensors" or wanted != models.BODY:
        raise Refusal(
            "Model",
            "AnotherTask",
            f"{uri} is made for {made}, not for {wanted}.",
            f"Leave model.task out or set it to {made}, or name a model for {wanted}.",
        )
    return wanted


def _by_architecture(config: Any) -> ServedTask:
    for name in config.architectures or []:
        for ending, task in ENDINGS.items():
            if name.endswith(ending):
                return KIN[task]
    return "FeatureExtraction"


def _engine(artefact: str, device: str, wanted: Engine, uri: str) -> Engine:
    if why := unfit(artefact, device, wanted, uri):
        raise Refusal(*why)
    found = paired(artefact, device, wanted)
    assert found
    return found
