"""The `baseline.json` of a compressed model: what it makes of the rows that it was scored on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmops_compressor.comparison import Answers
from lmops_compressor.rows import Rows
from lmops_compressor.runners import Array, format_of
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
    """Where the rows lie for the compressed model; a program tells no hidden states."""
    chosen = replace(rows, examples=rows.examples[:: max(1, len(rows) // EMBEDDED)][:EMBEDDED])
    kind = format_of(made.folder)
    if kind == "executorch":
        return None
    found = _by_graph(made.folder, chosen) if kind == "onnx" else _by_module(source, made.folder, chosen)
    vectors = np.concatenate([*found])
    return drift.embedding(len(vectors), vectors.sum(axis=0), (vectors**2).sum(axis=0))


def _by_graph(folder: Path, rows: Rows) -> Iterator[Array]:
    from lmops_compressor.runners.onnx import HIDDEN, OnnxRunner

    runner = OnnxRunner(folder, torch.get_num_threads())
    for _, batch in rows.batches():
        [hidden] = runner.outputs({name: values.numpy() for name, values in batch.items()}, [HIDDEN])
        yield inference.pooled(torch.from_numpy(hidden), batch["attention_mask"])


def _by_module(source: Source, folder: Path, rows: Rows) -> Iterator[Array]:
    model = inference.loaded(folder, source.task, source.trust_remote_code)
    lengths = [len(example["input_ids"]) for example in rows.examples]
    for done in inference.passes(model, lengths, lambda places: [rows.examples[i] for i in places], rows.collator):
        yield inference.pooled(done.hidden, done.batch["attention_mask"])
