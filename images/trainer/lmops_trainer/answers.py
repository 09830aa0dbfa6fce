"""What a published model answers to rows: a class, the words for its masks, or a text that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from lmops.api.dataset import Dataset, TrainRows
from lmops.api.trainingjob import RecipeSpec, TrainingSettings
from lmops_trainer import models
from lmops_trainer.data.clean import normalised
from lmops_trainer.data.examples import classification_examples
from lmops_trainer.data.rows import Row
from lmops_trainer.data.tokenizers import saved
from lmops_trainer.failures import Refusal
from lmops_trainer.inference import TOKENS, Pass, batches, loaded, passes
from lmops_trainer.publish import PASSPORT
from lmops_trainer.tasks import TASKS

Answer = dict[str, Any]
WINDOW = 512
ENDINGS = {
    "ForSequenceClassification": "SequenceClassification",
    "ForPreTraining": "BertPreTraining",
    "ForMaskedLM": "MaskedLM",
    "LMHeadModel": "CausalLM",
    "ForCausalLM": "CausalLM",
}
MASKS = ("[MASK]", "<mask>")
"""What people write for a mask; the tokenizer's own takes its place."""


@dataclass(frozen=True)
class Settings:
    """How a model answers."""

    candidates: int = 5
    """Words for each mask."""
    max_new_tokens: int = 256
    top_p: float = 0.95
    top_k: int = 60
    temperature: float = 1.0
    """0 always takes the likeliest token."""
    seed: int = 42


@dataclass(frozen=True)
class Published:
    """A model's folder, and what its passport says of how it was trained. A folder without one is read as it is."""

    folder: Path
    task: str
    dataset: Dataset
    max_length: int | None

    @classmethod
    def open(cls, folder: Path) -> Published:
        """Reads the passport, or guesses the task from the configuration."""
        file = folder / PASSPORT
        if not file.is_file():
            return cls(folder, guessed(folder), Dataset(train=TrainRows(uri="pvc://none")), None)
        passport = json.loads(file.read_text("utf-8"))
        dataset = RecipeSpec.model_validate(passport["spec"]).dataset
        return cls(folder, passport["task"], dataset, passport["maxLength"])


class Answerer:
    """A loaded model that answers rows, many at a time and in their order."""

    def __init__(self, published: Published, settings: Settings) -> None:
        self.task = published.task
        self.settings = settings
        self.model: PreTrainedModel = loaded(published.folder, published.task)
        self.tokenizer: PreTrainedTokenizerFast = saved(published.folder)
        self.window = models.window(self.model.config) or published.max_length or WINDOW
        self._max_length = published.max_length or min(self.window, WINDOW)
        self._dataset = published.dataset
        torch.manual_seed(settings.seed)

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """One answer a row. The rows are brought into the form that the training rows had."""
        told: dict[str, Callable[[Sequence[Row]], list[Answer]]] = {
            "SequenceClassification": self._classes,
            "CausalLM": self._continuations,
        }
        answers = told.get(self.task, self._words)([normalised(row, self._dataset.clean) for row in rows])
        return [_asked(row) | answer for row, answer in zip(rows, answers, strict=True)]

    def _classes(self, rows: Sequence[Row]) -> list[Answer]:
        # A saved configuration lists its classes by their digits: 0, 1, 10, 11, 2.
        names = [name for _, name in sorted((int(i), name) for i, name in (self.model.config.id2label or {}).items())]
        examples = self._examples(rows, self._dataset)
        owner = np.asarray([example["row"] for example in examples]) - rows[0].number
        probabilities = np.zeros((len(rows), len(names)))
        for done in self._passes(examples):
            np.add.at(probabilities, owner[done.chosen], torch.softmax(done.logits.double(), dim=-1).cpu().numpy())
        probabilities /= np.bincount(owner, minlength=len(rows))[:, None]
        return [
            {
                "label": names[int(row.argmax())],
                "confidence": round(float(row.max()), 6),
                "probabilities": {name: round(float(value), 6) for name, value in zip(names, row, strict=True)},
            }
            for row in probabilities
        ]

    def _words(self, rows: Sequence[Row]) -> list[Answer]:
        mask = str(self.tokenizer.mask_token)
        spelled = [row._replace(text=with_mask(row.text, mask), pair=with_mask(row.pair, mask)) for row in rows]
        examples = self._examples(spelled, self._dataset.model_copy(update={"long_texts": "Truncate"}))
        answers: list[Answer] = [{} for _ in rows]
        for done in self._passes(examples, over_vocabulary=True):
            masked = done.batch["input_ids"] == self.tokenizer.mask_token_id
            for position, scores, places in zip(done.chosen, done.logits, masked.to(done.logits.device), strict=True):
                if not places.any():
                    raise self._no_mask(rows[position], mask)
                answers[position] = {"masks": [self._candidates(score) for score in scores[places]]}
        return answers

    def _candidates(self, scores: torch.Tensor) -> list[Answer]:
        best = torch.softmax(scores.float(), dim=-1).topk(self.settings.candidates)
        return [
            {"token": str(self.tokenizer.decode([token])).strip(), "probability": round(probability, 6)}
            for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _continuations(self, rows: Sequence[Row]) -> list[Answer]:
        prompts: list[list[int]] = self.tokenizer([row.text for row in rows], add_special_tokens=False)["input_ids"]
        for row, prompt in zip(rows, prompts, strict=True):
            if not 0 < len(prompt) < self.window:
                raise _no_room(row, len(prompt), self.window)
        answers: list[Answer] = [{} for _ in rows]
        room = [min(self.settings.max_new_tokens, self.window - len(prompt)) for prompt in prompts]
        tokens = TOKENS.get(self.model.device.type, TOKENS["cpu"])
        for new, group in groupby(sorted(range(len(rows)), key=room.__getitem__), key=room.__getitem__):
            positions = list(group)
            for chosen in batches([len(prompts[i]) + new for i in positions], tokens):
                places = [positions[i] for i in chosen]
                texts = self._generated([prompts[i] for i in places], new)
                for place, text in zip(places, texts, strict=True):
                    answers[place] = {"generated": text}
        return answers

    @torch.inference_mode()
    def _generated(self, prompts: Sequence[Sequence[int]], new: int) -> list[str]:
        longest = max(len(prompt) for prompt in prompts)
        end = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else end or 0
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        asked = self.settings
        drawn = asked.temperature > 0
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=new,
            do_sample=drawn,
            pad_token_id=pad,
            eos_token_id=end,
            **({"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k} if drawn else {}),
        )
        device = self.model.device
        written = self.model.generate(  # type: ignore[operator]
            ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
        return self.tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)

    def _examples(self, rows: Sequence[Row], dataset: Dataset) -> list[dict[str, Any]]:
        made = classification_examples(rows, self.tokenizer, dataset, TrainingSettings(), self._max_length, [])
        return [
            dict(zip(batch, values, strict=True))
            for batch in made
            for values in zip(*(column.to_pylist() for column in batch.values()), strict=True)
        ]

    def _passes(self, examples: list[dict[str, Any]], over_vocabulary: bool = False) -> Iterator[Pass]:
        collator = TASKS["SequenceClassification"].collator(self.tokenizer, 0, evaluating=True)
        lengths = [example["length"] for example in examples]
        return passes(self.model, lengths, lambda chosen: [examples[i] for i in chosen], collator, over_vocabulary)

    def _no_mask(self, row: Row, mask: str) -> Refusal:
        return Refusal(
            "Data",
            "NoMask",
            f"{row.place} has no {mask} in its first {self._max_length} tokens, so there is nothing to fill.",
            f"Write {mask} where the model shall find a word.",
            [row.text[:200]],
        )


def guessed(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        return "SequenceClassification"  # loading will say what is missing
    architectures = AutoConfig.from_pretrained(folder).architectures or []
    for name in architectures:
        for ending, task in ENDINGS.items():
            if name.endswith(ending):
                return task
    raise Refusal(
        "Model",
        "TaskUnknown",
        f"{folder} holds {', '.join(architectures) or 'a model without a head'}, which has no answers to give.",
        f"Use a model whose class ends with one of {', '.join(ENDINGS)}.",
    )


def _asked(row: Row) -> Answer:
    return {"row": row.number, "text": row.text} | ({} if row.pair is None else {"pair": row.pair})


def with_mask(text: str | None, mask: str) -> Any:
    """The text with the mask of this tokenizer, however it was written."""
    for spelling in MASKS:
        text = text.replace(spelling, mask) if text is not None else None
    return text


def _no_room(row: Row, tokens: int, window: int) -> Refusal:
    why = f"has {tokens:,} tokens, and the window of the model is {window:,}: none is left" if tokens else "is empty"
    return Refusal("Data", "PromptUnusable", f"{row.place} {why}.", "Give it a text that is shorter, or not empty.")
