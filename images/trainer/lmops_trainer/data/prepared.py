"""Prepared data: a folder that is complete when its `dataset.json` is there, and is then never changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lmops.api.trainingstatus import DatasetReport
from lmops_trainer.data.examples import Batch
from lmops_trainer.failures import Refusal

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
"""Changes whenever equal input would be prepared otherwise, so that older folders are not taken for newer ones."""
MARKER = "dataset.json"
SPLITS = ("train", "validation", "test")
ROWS = pa.schema([("row", pa.int64()), ("text", pa.string()), ("pair", pa.string()), ("label", pa.string())])


@dataclass(frozen=True)
class Prepared:
    """Prepared data, read lazily."""

    folder: Path
    """Where it lies."""
    report: DatasetReport
    """What became of the data."""
    labels: list[str]
    """The classes, in the order of their numbers."""
    max_length: int
    """The longest example in tokens."""
    task: str
    """What the examples are made for."""

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """The data in this folder, or a sentence that says why there is none."""
        marker = Path(folder) / MARKER
        if not marker.is_file():
            raise Refusal(
                "Data",
                "NotPrepared",
                f"{folder} holds no prepared data: there is no {MARKER} in it.",
                "Run the stage prepare; a folder without it was left by a run that was cut short.",
            )
        content = json.loads(marker.read_text("utf-8"))
        return cls(
            folder=Path(folder),
            report=DatasetReport.model_validate(content["report"]),
            labels=content["labels"],
            max_length=content["maxLength"],
            task=content["task"],
        )

    def has(self, split: str) -> bool:
        """Whether the split was prepared; without `test`, the validation rows stand in for it."""
        return (self.folder / split).is_dir()

    def examples(self, split: str) -> datasets.Dataset:
        """What the model reads, mapped into memory."""
        from datasets import Dataset

        return Dataset.load_from_disk(str(self._split(split) / "examples"))

    def rows(self, split: str) -> pa.Table:
        """The rows as texts."""
        import pyarrow.parquet as pq

        return pq.read_table(self._split(split) / "rows.parquet")

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that made the examples."""
        from lmops_trainer.data.tokenizers import saved

        return saved(self.folder / "tokenizer")

    def _split(self, split: str) -> Path:
        return self.folder / (split if split != "test" or self.has("test") else "validation")


def write_marker(folder: Path, report: DatasetReport, labels: list[str], max_length: int, task: str) -> None:
    """Declares the folder complete."""
    content = {"report": report.manifest(), "labels": labels, "maxLength": max_length, "task": task, "format": FORMAT}
    (folder / MARKER).write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")


def write_rows(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of a split, a batch at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(folder / "rows.parquet", ROWS, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.rename_columns(["row", *table.column_names[1:]]).select(ROWS.names))


@dataclass(frozen=True)
class Written:
    """What the examples of a split come to."""

    examples: int
    tokens: int
    truncated: int


def write_examples(folder: Path, batches: Iterable[Batch], scratch: Path) -> Written:
    """Writes the examples of a split: as a stream into scratch, then in the form that `datasets` maps into memory."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    stream = scratch / f"{folder.name}.arrow"
    examples = tokens = truncated = 0
    writer: pa.RecordBatchStreamWriter | None = None
    for batch in batches:
        cut = batch["truncated"]
        examples += len(cut)
        truncated += cut.true_count
        tokens += int(batch["length"].to_numpy().sum())
        columns = {name: values for name, values in batch.items() if name != "truncated"}
        record = pa.record_batch(list(columns.values()), names=list(columns))
        writer = writer or pa.ipc.new_stream(str(stream), record.schema)
        writer.write_batch(record)
    if writer is None:
        raise Refusal(
            "Data",
            "NoExamples",
            f"The {folder.name} rows hold nothing to learn from: no text has two tokens.",
            "Check the text column and the tokenizer.",
        )
    writer.close()
    Dataset.from_file(str(stream)).save_to_disk(str(folder / "examples"))
    stream.unlink()
    return Written(examples, tokens, truncated)
