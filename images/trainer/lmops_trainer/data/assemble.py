"""The rows of a job: read from their sources, cleaned, and assigned to the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lmops.api.dataset import Source, TestRows, TrainRows
from lmops.api.trainingjob import RecipeSpec
from lmops_trainer.data.clean import Keys, decide, normalised, out_of_bounds
from lmops_trainer.data.labels import Labels
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sources import LABEL, rows, sources
from lmops_trainer.data.split import Indices, Values, hold_out, share
from lmops_trainer.data.spool import Spool
from lmops_trainer.failures import Refusal

EVERY = 2048
NONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Part:
    """The rows of one split."""

    spool: Spool
    chosen: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def rows(self) -> Iterator[Row]:
        return self.spool.rows(self.chosen)

    def tables(self) -> Iterator[pa.Table]:
        return self.spool.tables(self.chosen)

    def labels(self) -> dict[str, int]:
        """How many rows each class has."""
        ids, counts = np.unique(self.spool.ids[self.chosen], return_counts=True)
        named = {self.spool.labels.names[i]: int(n) for i, n in zip(ids, counts, strict=True) if i >= 0}
        return dict(sorted(named.items()))


@dataclass(frozen=True)
class Texts:
    """The texts of a part, which can be gone through again and again."""

    part: Part

    def __iter__(self) -> Iterator[str]:
        for row in self.part.rows():
            yield row.text
            if row.pair is not None:
                yield row.pair


@dataclass
class Assembled:
    """The rows of all splits, and what was noticed on the way."""

    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class _Read:
    """One field of the spec, read to its end."""

    spool: Spool
    where: str
    outside: dict[str, int]
    """Rows outside the length bounds: dropped from training, and only counted elsewhere."""
    single: list[str]
    """Files that turned out to be one document."""

    @property
    def number(self) -> int:
        return len(self.spool)


class Assembly:
    """Reads, cleans and splits by one spec."""

    def __init__(self, spec: RecipeSpec, scratch: Path, report: Callable[[int, int], None]) -> None:
        self.dataset = spec.dataset
        self.task = spec.model.task
        self.labelled = spec.model.task == "SequenceClassification"
        self.seed = spec.training.seed
        self.scratch = scratch
        self._report = report
        self._rows, self._characters = 0, 0

    def assemble(self) -> Assembled:
        """The splits. Rows of test and validation sources of their own are taken out of training, never the reverse."""
        test, validation = self.dataset.test, self.dataset.validation
        own: dict[str, _Read] = {}
        if test is not None and test.fraction is None:
            own["test"] = self._read(test, "dataset.test", bounded=False)
        if validation.from_ is not None:
            own["validation"] = self._read(validation.from_, "dataset.validation.from", bounded=False)
        train = self._read(self.dataset.train, "dataset.train", bounded=True)
        return self._assembled(train, own)

    def _assembled(self, train: _Read, own: dict[str, _Read]) -> Assembled:
        keys = {split: read.spool.keys for split, read in own.items()}
        spool = train.spool
        decision = decide(
            spool.keys,
            spool.ids,
            self.dataset.clean,
            keys.get("test", NONE),
            keys.get("validation", NONE),
            self.labelled,
        )
        made = Assembled(len(spool) + sum(train.outside.values()), train.outside | decision.dropped)
        kept = np.flatnonzero(decision.keep)
        if not len(kept):
            raise _nothing_left(made)
        if self.labelled:
            _check_classes(spool, kept)
        made.splits = self._split(spool, kept)
        made.splits |= {split: Part(read.spool, np.ones(read.number, bool)) for split, read in own.items()}
        made.labels = list(made.splits["train"].labels()) if self.labelled else []
        if self.labelled:
            for split in made.splits:
                _check_known(made.splits[split], split, made.labels)
        made.notes = [
            *(f"{file} holds no blank line and was read as one document." for file in train.single[:4]),
            *self._conflict_note(decision.conflicts),
            *(note for split, read in own.items() for note in self._own_notes(split, read, keys)),
            *self._split_notes(made),
        ]
        return made

    def _read(self, declared: TrainRows | TestRows | Source, where: str, bounded: bool) -> _Read:
        by = self._by() if bounded else []
        spool = Spool(self.scratch / f"{where}.arrow", Labels(), len(by))
        outside: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        lines: set[str] = set()
        for row in rows(sources(declared), where, self.labelled, not self.labelled, by):
            self._advance(row)
            clean = normalised(row, self.dataset.clean)
            reason = out_of_bounds(clean, self.dataset.clean)
            outside[reason or ""] += 1
            if not self.labelled:
                documents[row.file] += 1
                if "\n" in row.text:
                    lines.add(row.file)
            if reason is None or not bounded:
                spool.append(clean)
        spool.close()
        if not len(spool) and not outside:
            raise Refusal(
                "Data", "NoRows", f"{where} has no rows: its files hold a header at the most.", "Check the files."
            )
        del outside[""]
        single = [file for file, number in documents.items() if number == 1 and file in lines]
        return _Read(spool, where, dict(outside), single)

    def _advance(self, row: Row) -> None:
        self._rows += 1
        self._characters += len(row.text)
        if self._rows % EVERY == 0:
            self._report(self._rows, self._characters)

    def _by(self) -> list[str]:
        """The columns that splits are stratified and grouped by."""
        test, held = self.dataset.test, self.dataset.validation.hold_out
        drawn = [part for part in (test if test and test.fraction else None, held) if part is not None]
        names = [name for part in drawn for name in (self._strata(part.stratify_by), part.group_by) if name]
        return list(dict.fromkeys(names))

    def _strata(self, asked: str | None) -> str | None:
        return asked or (LABEL if self.labelled else None)

    def _split(self, spool: Spool, kept: Indices) -> dict[str, Part]:
        test, held = self.dataset.test, self.dataset.validation.hold_out
        parts: dict[str, Indices] = {}
        rest = kept
        if test is not None and test.fraction is not None:
            rest, parts["test"] = self._hold_out(
                spool, rest, share(test.fraction, len(kept)), test.stratify_by, test.group_by, "dataset.test"
            )
        if held is not None:
            rest, parts["validation"] = self._hold_out(
                spool, rest, share(held.fraction, len(kept)), held.stratify_by, held.group_by,
                "dataset.validation.holdOut",
            )  # fmt: skip
        parts = {"train": rest} | parts
        return {split: Part(spool, _mask(indices, len(spool))) for split, indices in parts.items()}

    def _hold_out(
        self, spool: Spool, rest: Indices, number: int, stratify_by: str | None, group_by: str | None, where: str
    ) -> tuple[Indices, Indices]:
        return hold_out(
            rest,
            number,
            self.seed,
            self._values(spool, self._strata(stratify_by)),
            self._values(spool, group_by),
            where,
        )

    def _values(self, spool: Spool, column: str | None) -> Values | None:
        return None if column is None else Values(*spool.values(self._by().index(column)))

    def _conflict_note(self, conflicts: int) -> list[str]:
        if not conflicts:
            return []
        became = {"Drop": "none of them was kept", "Majority": "the more frequent one won", "Keep": "all were kept"}
        return [f"{conflicts} texts carry more than one label; {became[self.dataset.clean.conflicts]}."]

    def _own_notes(self, split: str, read: _Read, keys: dict[str, Keys]) -> Iterator[str]:
        copies = read.number - len(np.unique(keys[split]))
        if copies:
            yield f"{split}: {copies} rows repeat the text of another row of it; they were kept."
        for reason, count in sorted(read.outside.items()):
            bound = "shorter than clean.length.min" if reason == "tooShort" else "longer than clean.length.max"
            yield f"{split}: {count} rows are {bound}; they were kept."
        if split == "validation" and "test" in keys:
            both = int(np.isin(keys["validation"], keys["test"]).sum())
            if both:
                yield f"validation: {both} rows are test rows too; the checkpoint is chosen by them."

    def _split_notes(self, made: Assembled) -> Iterator[str]:
        if "test" not in made.splits:
            yield "There is no test set: the final figures are of the validation rows, which also chose the checkpoint."


def _mask(indices: Indices, length: int) -> NDArray[np.bool_]:
    mask = np.zeros(length, bool)
    mask[indices] = True
    return mask


def _nothing_left(made: Assembled) -> Refusal:
    counts = ", ".join(f"{count} {reason}" for reason, count in made.dropped.items())
    return Refusal(
        "Data",
        "NoRowsLeft",
        f"Cleaning left none of the {made.rows_read} training rows: {counts}.",
        "Loosen dataset.clean, or check that columns.text names the text.",
    )


def _check_classes(spool: Spool, kept: Indices) -> None:
    present = np.unique(spool.ids[kept])
    if len(present) == 1:
        name = spool.labels.names[int(present[0])]
        raise Refusal(
            "Data",
            "OneClass",
            f"All {len(kept)} training rows are of one class, {name!r}; there is nothing to tell apart.",
            "Add rows of another class, or check columns.label and columns.classes.",
        )


def _check_known(part: Part, split: str, labels: list[str]) -> None:
    unknown = sorted(set(part.labels()) - set(labels))
    if unknown:
        row = next(row for row in part.rows() if row.label == unknown[0])
        raise Refusal(
            "Data",
            "LabelUnknown",
            f"The {split} rows have the label {unknown[0]!r} ({row.place}), which no training row has.",
            f"The training rows have {', '.join(map(repr, labels[:20]))}: correct the label, or add rows of it.",
        )
