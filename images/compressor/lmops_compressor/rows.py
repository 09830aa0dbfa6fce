"""Rows as the model reads them: those that calibrate a method, and those that both models are scored on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset as Table

from lmops.api import Compression
from lmops.api import dataset as declared
from lmops.api.trainingjob import TrainingSettings
from lmops_compressor.source import Source
from lmops_trainer import passports, uris
from lmops_trainer.data.clean import normalised
from lmops_trainer.data.examples import examples
from lmops_trainer.data.prepared import Prepared
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sources import rows as read
from lmops_trainer.data.sources import sources
from lmops_trainer.failures import Refusal
from lmops_trainer.inference import batches
from lmops_trainer.log import log
from lmops_trainer.tasks import TASKS, Collator

Example = dict[str, Any]
TOKENS = 4096
"""Padded tokens of one batch."""
LANGUAGE = 512
"""And of one whose outputs are scores over a vocabulary."""


COLUMNS = ("input_ids", "token_type_ids", "label", "row", "length")
"""Of an example."""
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """Examples of one task: `input_ids`, `length`, `row`, and by task `token_type_ids` and `label`."""

    name: str
    """What they are: train, test, validation, or the field that names their source."""
    task: str
    examples: tuple[Example, ...]
    collator: Collator
    """Makes tensors of examples; `labels` among them, which no model is given."""
    note: str = ""
    """What a reader of their figures has to know: how they were drawn, or that there are too few."""

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def rows(self) -> Numbers:
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


Draw = Callable[[], Rows]
"""Rows that are read when they are asked for: what looks at none needs none."""
Learn = Callable[[int], Rows]
"""So many rows to learn from, read likewise."""


def calibration(run: Compression, source: Source) -> Rows:
    """The rows that show a method what flows through the model."""
    wanted = run.spec.calibration.rows
    found = training(run, source, wanted)
    if len(found) == wanted:
        return found
    note = f"calibration.rows is {wanted:,}, and {found.name} has {len(found):,} rows: all of them were used."
    log.warning("%s", note)
    return replace(found, note=note)


def training(run: Compression, source: Source, most: int | None = None) -> Rows:
    """The rows that calibration draws from, and that a recovery learns from: all, or a draw of so many of them."""
    chosen = run.spec.calibration
    if chosen.from_:
        name, table = "calibration.from", _own(chosen.from_, "calibration.from", source)
    else:
        name, table = "train", _prepared(run, source, "calibration").examples("train")
    if most is not None:
        table = table.select(np.random.default_rng(chosen.seed).permutation(len(table))[:most])
    return _made(name, source, table)


def scored(run: Compression, source: Source) -> Rows:
    """The rows that both models are scored on: by default the very test rows of the job that made the model."""
    chosen, seed = run.spec.evaluation, run.spec.calibration.seed
    if chosen.from_:
        name, table = "evaluation.from", _own(chosen.from_, "evaluation.from", source)
    else:
        prepared = _prepared(run, source, "evaluation")
        name = "test" if prepared.has("test") else "validation"
        table = prepared.examples(name)
    rows, places = np.unique(table["row"], return_inverse=True)
    if chosen.rows is None or chosen.rows >= len(rows):
        return _made(name, source, table)
    classes = np.zeros(len(rows), np.int64)
    if "label" in table.column_names:
        classes[places] = table["label"]
    kept = np.isin(places, sample(classes, chosen.rows, seed))
    note = f"Of {len(rows):,} {name} rows {chosen.rows:,} were scored, drawn by the seed {seed}."
    return _made(name, source, table.select(np.flatnonzero(kept)), note)


def sample(classes: Numbers, count: int, seed: int) -> Numbers:
    """The places of so many rows, drawn by a seed; of each class as large a share as it has of all rows."""
    mixed = np.random.default_rng(seed).permutation(len(classes))
    by_class = mixed[np.argsort(classes[mixed], kind="stable")]
    return by_class[np.arange(count) * len(classes) // count]


def _prepared(run: Compression, source: Source, section: str) -> Prepared:
    prepared = source.prepared(run)
    if prepared is None:
        raise _missing(section, run, source)
    return prepared


def _own(named: declared.Source, where: str, source: Source) -> Table:
    """The rows of a source, made into examples as the model's own job made them, as far as it is known."""
    labelled = source.task == "SequenceClassification"
    dataset = passports.dataset(source.passport)
    settings = source.recipe.training if source.recipe else TrainingSettings()
    found = (normalised(row, dataset.clean) for row in read(sources(named), where, labelled, documents=not labelled))
    known = _known(found, source, where) if labelled else found
    make = examples(source.task, settings)
    parts = [
        pa.table(batch)
        for batch in make(known, source.tokenizer(), dataset, settings, source.max_length, source.labels)
    ]
    if not parts:
        raise Refusal("Data", "NoRows", f"{where} has no rows.", "Name a file that has some.")
    return Table(pa.concat_tables(parts))


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


def _made(name: str, source: Source, table: Table, note: str = "") -> Rows:
    found = table.select_columns([column for column in COLUMNS if column in table.column_names]).to_list()
    collator = TASKS[source.task].collator(source.tokenizer(), 42, evaluating=True)
    return Rows(name, source.task, tuple(found), collator, note)


def _missing(section: str, run: Compression, source: Source) -> Refusal:
    uri, own = source.dataset(run), f"ame rows of your own in {section}.from."
    where, remedy = "lie somewhere that it does not say", f"N{own}"
    if uri:
        where = f"lay in {uri}, and are not there"
    if uri and not uris.is_hub(uri) and not uris.is_mounted(uri):
        claim = uris.claim(uri)
        where = f"lie in {uri}, and this job does not mount the volume {claim}"
        remedy = f"Set workspace.uri to a folder of it, as pvc://{claim}, or n{own}"
    return Refusal("Data", "RowsMissing", f"The rows that {source.uri} was trained and tested on {where}.", remedy)
