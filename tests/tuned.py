"""Small models that have learned to tell their rows apart: an error in their weights is seen in what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import compressed
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from volumes import raw


def classifier(folder: Path, layers: int = 2, steps: int = 40) -> Source:
    """The first layers of a real BERT, fine-tuned on reviews of films."""
    encoder = raw("minilm")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    source = Source("pvc://data/tuned", folder, "SequenceClassification", ["negative", "positive"], 48, {})
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_hidden_layers=layers)
    model.base_model.embeddings.requires_grad_(False)
    learned = reviews(source, 16 * steps)
    batches = [learned.collator(learned.examples[i : i + 16]) for i in range(0, len(learned), 16)]
    _trained(model, batches, 3e-4, folder)
    return source


def language_model(folder: Path, epochs: int = 6) -> Source:
    """A GPT-2 of two layers that has read the news several times."""
    source = compressed.language_model(folder, n_layer=2)
    read = compressed.news(source, 480)
    batches = [read.collator(read.examples[i : i + 8]) for i in range(0, len(read), 8)]
    _trained(source.model(), batches * epochs, 2e-3, folder)
    return source


def reviews(source: Source, count: int, skip: int = 0) -> Rows:
    """Reviews of films, bad and good ones in turn."""
    made = []
    for number, text in enumerate(texts(count, skip), skip):
        ids = source.tokenizer()(text, truncation=True, max_length=source.max_length)["input_ids"]
        made.append({"input_ids": ids, "length": len(ids), "row": number, "label": number % 2})
    return compressed.rows(source, made)


def texts(count: int, skip: int = 0) -> list[str]:
    """Their texts: the file has bad and good ones in long runs."""
    lines = [line.split("\t") for line in raw("movieReviewSnippets_GroundTruth.txt").read_text("utf-8").splitlines()]
    sides = [[text for _, score, text in lines if (float(score) > 0) == good] for good in (False, True)]
    return [sides[number % 2][number // 2] for number in range(skip, skip + count)]


def _trained(model: PreTrainedModel, batches: list[dict[str, Any]], rate: float, folder: Path) -> None:
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], rate)
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
