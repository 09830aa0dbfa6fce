"""Data sets of the Hugging Face hub, read as tables at the commit that the branch pointed to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from lmops.api.dataset import Rows
from lmops_trainer.data.formats import Record
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import hub, reaching


class HubTable:
    """One split of a hub data set. Classes that are stored as numbers are read by their names."""

    def __init__(self, uri: str, settings: Rows) -> None:
        from datasets import Dataset, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        repository, _ = hub(uri)
        split = settings.split or "train"
        with reaching(uri, "Data"):
            try:
                found = load_dataset(repository, settings.config, split=split, revision=hub_commit(uri))
            except (DatasetNotFoundError, ValueError, FileNotFoundError) as error:
                raise _unusable(uri, settings.config, split, error) from error
        assert isinstance(found, Dataset)
        self._rows = found
        self.names: list[str] = list(found.column_names)

    def read(self, columns: Sequence[str]) -> Iterator[Record]:
        number = 0
        names = {column: _class_names(self._rows.features[column]) for column in columns}
        for batch in self._rows.select_columns(sorted(set(columns))).iter(batch_size=4096):
            values = [_named(batch[column], names[column]) for column in columns]
            for record in zip(*values, strict=True):
                number += 1
                yield number, record


@cache
def hub_commit(uri: str) -> str:
    """The commit of the data set, asked for once, so that all that is read is of one state."""
    from huggingface_hub import HfApi

    repository, revision = hub(uri)
    with reaching(uri, "Data"):
        return str(HfApi().dataset_info(repository, revision=revision).sha)


def hub_fingerprint(uri: str) -> str:
    """What stands for the content of the data set."""
    return f"commit:{hub_commit(uri)}"


def _class_names(feature: Any) -> list[str] | None:
    return getattr(feature, "names", None)


def _named(values: list[Any], names: list[str] | None) -> list[Any]:
    """Unlabelled rows, as the test rows of GLUE, hold -1."""
    if names is None:
        return values
    return [names[value] if value is not None and value >= 0 else None for value in values]


def _unusable(uri: str, config: str | None, split: str, error: Exception) -> Refusal:
    named = f"{uri}, configuration {config!r}" if config else uri
    return Refusal(
        "Data",
        "HubDatasetUnusable",
        f"The split {split!r} of {named} could not be read: {str(error).splitlines()[0]}",
        "Check `config` and `split` of the source.",
        str(error).splitlines()[:5],
    )
