"""Models under compression, as the tests of pruning like to have them: small ones that have learnt, and a real BERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lmops.api.compression import Prune, Recovery
from lmops_compressor.methods import Subject, recovery
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from lmops_trainer import models
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.models import inputs
from lmops_trainer.tasks import TASKS
from runs import TINY, TINY_GPT2, prepared, run, tokenizer
from volumes import raw

LEARNT = Recovery(steps=150, batch_size=16, learning_rate=3e-3)


def saved(folder: Path, task: str, **config: Any) -> Source:
    """A model that has learnt its task: a BERT, or a GPT-2 for CausalLM."""
    name, tiny = ("gpt2", TINY_GPT2) if task == "CausalLM" else ("bert", TINY)
    model = {"from": {"architecture": {"name": name, "config": tiny | config}}}
    spec = run(folder, task, model=model | {"tokenizer": {"uri": "pvc://work/unused"}}).spec.model
    words = tokenizer("gpt2" if task == "CausalLM" else "bert")
    labels = ["bad", "good"] if task == "SequenceClassification" else []
    model = models.start(spec, words, labels, seed=1)
    source = Source("pvc://work/model", folder / "work" / "model", task, labels, 32, {})
    words.save_pretrained(source.folder)
    recovery.recover(Subject(source, model), LEARNT, rows(folder, source), 1, lambda share: None)
    model.save_pretrained(source.folder)
    return source


def rows(folder: Path, source: Source, count: int = 64) -> Rows:
    """Its training rows: sentences of very different lengths."""
    report = prepared(folder, source.task, rows=count)
    found = Prepared.open(folder / report.uri.removeprefix("pvc://")).examples("train").to_list()
    return Rows(
        "train", source.task, tuple(found), TASKS[source.task].collator(source.tokenizer(), 42, evaluating=True)
    )


def minilm(folder: Path, sentences: int = 48) -> tuple[Subject, Rows]:
    """The real BERT, with a new head, and sentences of news for it to read."""
    origin = raw("minilm/model.safetensors").parent
    torch.manual_seed(1)
    model = TASKS["SequenceClassification"].auto_class().from_pretrained(origin).eval()
    source = Source("pvc://models/minilm", origin, "SequenceClassification", ["0", "1"], 512, {})
    words = source.tokenizer()
    lines = raw("lee_background.cor").read_text().splitlines()[:sentences]
    texts = [" ".join(line.split()[: 10 + 3 * (i % 20)]) for i, line in enumerate(lines)]
    examples = [{"input_ids": words(text)["input_ids"], "row": i, "label": i % 2} for i, text in enumerate(texts)]
    collator = TASKS["SequenceClassification"].collator(words, 42, evaluating=True)
    return Subject(source, model), Rows("news", source.task, tuple(examples), collator)


def how(method: str, **settings: Any) -> Prune:
    """A step, as a user writes it."""
    return Prune.model_validate({"method": method, **settings})


def silent(share: float) -> None:
    """Nobody asks how far it is."""


@torch.no_grad()
def answers(model: PreTrainedModel, given: Rows) -> torch.Tensor:
    """The scores of one batch of rows."""
    _, batch = next(given.batches())
    return model(**{name: batch[name] for name in inputs(model) if name in batch}).logits  # type: ignore[no-any-return]


def config(folder: Path) -> dict[str, Any]:
    """What lies in the folder of a model as its configuration."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
