"""The `baseline.json` of a compressed model: what it makes of the rows that it was scored on."""

from __future__ import annotations

import numpy as np

from lmops_compressor.comparison import Answers
from lmops_compressor.rows import Rows
from lmops_compressor.runners import format_of
from lmops_compressor.source import Source
from lmops_compressor.steps import Compressed
from lmops_trainer import drift, inference
from lmops_trainer.log import log

EMBEDDED = 512
"""The most examples whose place in the model's space is looked at."""


def pictured(source: Source, made: Compressed, rows: Rows, answers: Answers) -> drift.Baseline | None:
    """The picture; of a language model that of the original, as texts and tokens are the same; `None` without one."""
    if answers.labels is None or answers.probabilities is None:
        return _carried(source)
    unknown = drift.unknown_token(source.tokenizer())
    ids = [example["input_ids"] for example in rows.examples]
    seen = drift.Seen(
        lengths=np.asarray([len(each) for each in ids]),
        unknown=0 if unknown is None else sum(each.count(unknown) for each in ids),
        embedding=_place(source, made, rows),
    )
    count = len(answers.labels)
    return drift.baseline(seen, rows.name, count, source.labels, answers.labels, answers.probabilities)


def _carried(source: Source) -> drift.Baseline | None:
    try:
        return drift.Baseline.read(source.folder)
    except ValueError as error:
        log.warning("%s: %s; the compressed model has no baseline", source.uri, error)
        return None


def _place(source: Source, made: Compressed, rows: Rows) -> drift.Embedding | None:
    """Where the rows lie for the compressed model; graphs and programs tell no hidden states."""
    if format_of(made.folder) != "safetensors":
        return None
    model = inference.loaded(made.folder, source.task, source.trust_remote_code)
    step = max(1, len(rows) // EMBEDDED)
    chosen = rows.examples[::step][:EMBEDDED]
    total, squares = np.zeros(1), np.zeros(1)
    lengths = [len(example["input_ids"]) for example in chosen]
    for done in inference.passes(model, lengths, lambda places: [chosen[i] for i in places], rows.collator):
        vectors = inference.pooled(done.hidden, done.batch["attention_mask"])
        total, squares = total + vectors.sum(axis=0), squares + (vectors**2).sum(axis=0)
    return drift.embedding(len(chosen), total, squares)
