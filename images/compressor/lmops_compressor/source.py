"""The model that is compressed, where it lies: what it does, its classes, and the data it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from lmops.api import Compression
from lmops.api.trainingjob import RecipeSpec
from lmops_trainer import models, passports, uris
from lmops_trainer.answers import guessed
from lmops_trainer.data.prepared import MARKER, Prepared
from lmops_trainer.data.tokenizers import saved
from lmops_trainer.failures import Refusal

TASKS = ("SequenceClassification", "CausalLM", "MaskedLM")
WINDOW = 512


@dataclass(frozen=True)
class Source:
    """A model's folder, and what its passport says. It is only ever read."""

    uri: str
    folder: Path
    task: str
    labels: list[str]
    """Its classes, in the order of their numbers."""
    max_length: int
    """The longest input in tokens."""
    passport: dict[str, Any]
    """`{}` for a model that is not of our making."""
    trust_remote_code: bool = False

    @classmethod
    def open(cls, run: Compression) -> Source:
        """The model of a run; a sentence where there is none."""
        uri, spec = run.source.uri, run.spec.model
        folder = uris.folder(uri, models.FILES)
        if not (folder / "config.json").is_file():
            raise _no_model(uri, folder)
        _apart(run.spec.output.uri, uri, folder)
        passport = passports.passport(folder, uri)
        if passport.get("format", "safetensors") != "safetensors":
            raise _quantized(uri, passport["format"])
        task = spec.task or passport.get("task") or guessed(folder)
        if task not in TASKS:
            raise Refusal(
                "Model",
                "TaskNotCompressed",
                f"{uri} is made for {task}; what is compressed is one of {', '.join(TASKS)}.",
                "Fine-tune it for one of these tasks first, or set model.task.",
            )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
        if stored := getattr(config, "quantization_config", None):  # FP8, or what another tool has made
            raise _quantized(uri, str(stored.get("quant_method", "quantized")))
        models.is_model(folder, uri)
        passports.verified(folder, uri, passport, run.source.digest)
        classes = (config.id2label or {}) if task == "SequenceClassification" else {}
        names = [name for _, name in sorted((int(i), name) for i, name in classes.items())]
        longest = passport.get("maxLength") or min(models.window(config) or WINDOW, WINDOW)
        return cls(uri, folder, task, names, longest, passport, spec.trust_remote_code)

    def model(self) -> PreTrainedModel:
        """The model itself, in fp32 on the processor, without dropout; each call loads a new one."""
        return models.load(self.folder, self.task, trust_remote_code=self.trust_remote_code)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        return saved(self.folder, self.uri, self.trust_remote_code)

    @property
    def recipe(self) -> RecipeSpec | None:
        """How it was trained, where that was a job of ours."""
        return passports.recipe(self.passport)

    @property
    def metric(self) -> str | None:
        """The metric that its job was after."""
        return self.recipe.evaluation.metric if self.recipe else None

    def dataset(self, run: Compression) -> str | None:
        """Where the data lies that it was trained and tested on, as far as anybody says."""
        return run.source.dataset or self.passport.get("dataset", {}).get("uri")

    def prepared(self, run: Compression) -> Prepared | None:
        """The data that it was trained and tested on, where that is still there."""
        uri = self.dataset(run)
        if not uri or uris.is_hub(uri):
            return None
        folder = uris.path(uri)
        return Prepared.open(folder) if (folder / MARKER).is_file() else None


def _apart(output: str, uri: str, folder: Path) -> None:
    """Refuses to publish into the folder of the model that is only ever read."""
    if uris.path(output).resolve().is_relative_to(folder.resolve()):
        raise Refusal(
            "Settings",
            "OutputInSource",
            f"output.uri {output} lies in the folder of the model that is compressed, {uri}.",
            "Name a folder beside it.",
        )


def _quantized(uri: str, form: str) -> Refusal:
    return Refusal(
        "Model",
        "AlreadyQuantized",
        f"{uri} is a model in the format {form}: what is quantized is not compressed further.",
        "Name the model that it was made of, or one that was only pruned.",
    )


def _no_model(uri: str, folder: Path) -> Refusal:
    found = sorted(file.name for file in folder.iterdir())[:5] if folder.is_dir() else []
    holds = f"it holds {', '.join(found)}" if found else "nothing is there"
    return Refusal(
        "Model", "NotAModel", f"{uri} is no model: there is no config.json in it; {holds}.",
        "Name the folder of a model; a TrainingJob tells it in status.model.uri.",
    )  # fmt: skip
