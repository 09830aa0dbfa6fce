"""Rows as the model reads them: those that calibrate a method, and those that both models are scored on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lmops.api import Compression
from lmops.api import dataset as declared
from lmops.api.dataset import Dataset, TrainRows
from lmops.api.trainingjob import TrainingSettings
from lmops_compressor.source import Source
from lmops_trainer.data.clean import normalised
from lmops_trainer.data.examples import examples
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sources import rows as read
from lmops_trainer.data.sources import sources
from lmops_trainer.failures import Refusal
from lmops_trainer.inference import batches
from lmops_trainer.tasks import TASKS, Collator

Example = dict[str, Any]
TOKENS = 4096
"""Padded tokens of one batch."""
LANGUAGE = 512
"""And of one whose outputs are scores over a vocabulary."""


@dataclass(frozen=True)
class Rows:
    """Examples of one task: `input_ids`, `length`, `row`, and by task `token_type_ids` and `label`."""

    name: str
    """What they are: train, test, validation, or the field that names their source."""
    task: str
    examples: tuple[Example, ...]
    collator: Collator
    """Makes tensors of examples; `labels` among them, which no model is given."""

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def rows(self) -> np.ndarray[Any, Any]:
        """The row that each example is a window of."""
        return np.asarray([example["row"] for example in self.examples])

    def first(self, count: int) -> Rows:
        """The first examples."""
        return replace(self, examples=self.examples[:count])

    def batches(self, tokens: int | None = None) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Positions and tensors, those of like length together."""
        most = tokens or (TOKENS if self.task == "SequenceClassification" else LANGUAGE)
        for chosen in batches([len(example["input_ids"]) for example in self.examples], most):
            yield chosen, self.collator([self.examples[i] for i in chosen])


def calibration(run: Compression, source: Source) -> Rows:
    """The rows that show a method what flows through the model."""
    every, chosen = training(run, source), run.spec.calibration
    order: Sequence[int] = np.random.default_rng(chosen.seed).permutation(len(every)).tolist()
    return replace(every, examples=tuple(every.examples[i] for i in order[: chosen.rows]))


def training(run: Compression, source: Source) -> Rows:
    """All rows that calibration draws from, and that a recovery may learn from."""
    if run.spec.calibration.from_:
        return _own(run.spec.calibration.from_, "calibration.from", source)
    prepared = source.prepared(run)
    if prepared is None:
        raise _missing("calibration", source)
    return _of_split(prepared, "train", source)


def scored(run: Compression, source: Source) -> Rows:
    """The rows that both models are scored on: by default the very test rows of the job that made the model."""
    chosen = run.spec.evaluation
    if chosen.from_:
        found = _own(chosen.from_, "evaluation.from", source)
    else:
        prepared = source.prepared(run)
        if prepared is None:
            raise _missing("evaluation", source)
        found = _of_split(prepared, "test" if prepared.has("test") else "validation", source)
    if not chosen.rows:
        return found
    kept = set(np.unique(found.rows)[: chosen.rows].tolist())
    return replace(found, examples=tuple(example for example in found.examples if example["row"] in kept))


def _of_split(prepared: Any, split: str, source: Source) -> Rows:
    table = prepared.examples(split)
    columns = [name for name in ("input_ids", "token_type_ids", "label", "row", "length") if name in table.column_names]
    return _made(split, source, tuple(table.select_columns(columns).to_list()))


def _own(named: declared.Source, where: str, source: Source) -> Rows:
    """The rows of a source, made into examples as the model's own job made them, as far as it is known."""
    labelled = source.task == "SequenceClassification"
    dataset = source.recipe.dataset if source.recipe else Dataset(train=TrainRows(uri="pvc://none"))
    settings = source.recipe.training if source.recipe else TrainingSettings()
    found = (normalised(row, dataset.clean) for row in read(sources(named), where, labelled, documents=not labelled))
    known = _known(found, source, where) if labelled else found
    make, made = examples(source.task, settings), list[Example]()
    for batch in make(known, source.tokenizer(), dataset, settings, source.max_length, source.labels):
        columns = {name: values.to_pylist() for name, values in batch.items() if name != "truncated"}
        made += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not made:
        raise Refusal("Data", "NoRows", f"{where} has no rows.", "Name a file that has some.")
    return _made(where, source, tuple(made))


def _known(rows: Iterator[Row], source: Source, where: str) -> Iterator[Row]:
    for row in rows:
        if row.label not in source.labels:
            raise Refusal(
                "Data",
                "ClassUnknown",
                f"{row.place} ({where}) has the class {row.label!r}; the model knows {', '.join(source.labels)[:200]}.",
                "Correct the label column, or map its values with columns.classes.",
            )
        yield row


def _made(name: str, source: Source, found: tuple[Example, ...]) -> Rows:
    collator = TASKS[source.task].collator(source.tokenizer(), 42, evaluating=True)
    return Rows(name, source.task, found, collator)


def _missing(section: str, source: Source) -> Refusal:
    return Refusal(
        "Data",
        "RowsMissing",
        f"{source.uri} does not say where the rows lie that it was trained and tested on, or they are gone.",
        f"Name rows of your own in {section}.from.",
    )
