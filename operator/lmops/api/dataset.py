"""The data of a job: where the rows are, how they are cleaned, and how they are split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lmops.api.base import Model, Uri, Word, exactly_one, int_or_string, rules, spelled

Column = Annotated[str, BeforeValidator(spelled), Field(min_length=1, max_length=128), int_or_string(128, minLength=1)]
Bounds = Annotated[
    str, Field(pattern=r"^(<=|>=|<|>|==)-?[0-9]+(\.[0-9]+)?(,(<=|>=|<|>|==)-?[0-9]+(\.[0-9]+)?)*$", max_length=64)
]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Uris = Annotated[list[Uri], Field(min_length=1, max_length=64)]


class Columns(Model):
    """Which columns hold what. Without a header a column is named by its position, counted from 0."""

    text: Column | None = None
    """The text, or the first text of a pair. Default: a column named `text`, or the only column there is."""
    pair: Column | None = None
    """The second text of a pair."""
    label: Column | None = None
    """The class of the row. Default for SequenceClassification: a column named `label`."""
    classes: Annotated[dict[Word, Bounds], Field(max_length=256)] = {}
    """Makes classes of a numeric label: `{negative: "<=0", positive: ">0"}`. A number outside all of them is an error."""


class Rows(Model):
    """How the rows of a file are read."""

    config: Word | None = None
    """The configuration of a hub data set, as `rte` of GLUE."""
    split: Word | None = None
    """The split of a hub data set. Default: `train`."""
    format: Literal["jsonl", "csv", "parquet", "text"] | None = None
    """The file format. Default: by the file's ending. `text` is one sentence a line, with a blank line between documents."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What separates columns in `csv`. Default: a tab in a `.tsv` file, else a comma."""
    quote: Annotated[str, Field(max_length=1)] | None = None
    """What encloses a `csv` value that holds a delimiter; empty for none. Default: none where the delimiter is a tab, else `"`."""
    header: bool | None = None
    """Whether the first line of `csv` names the columns. Default: true. Without a header, lines at the top that begin with `# ` are comments."""
    encoding: Word | None = None
    """The encoding of the text. Default: utf-8."""
    columns: Columns | None = None
    """Which columns hold the text, its pair and its label."""
    label: Word | None = None
    """Gives every row of this source one class."""


class Source(Rows):
    """Rows from one place."""

    model_config = rules(
        exactly_one("uri", "uris"),
        (
            "!has(self.label) || !has(self.columns) || !has(self.columns.label)",
            "a source has a label of its own or a label column, not both",
        ),
    )

    uri: Uri | None = None
    """A file, a folder, or a glob such as `pvc://data/*.csv`; or a hub data set, `hf://owner/name`."""
    uris: Uris | None = None
    """Several of them, read one after the other."""


class TrainRows(Rows):
    """The training rows: one source, or several. What is set beside `sources` holds for each that does not set it itself."""

    model_config = rules(exactly_one("uri", "uris", "sources"))

    uri: Uri | None = None
    """A file, a folder, or a glob such as `pvc://data/*.csv`; or a hub data set, `hf://owner/name`."""
    uris: Uris | None = None
    """Several of them, read one after the other."""
    sources: Annotated[list[Source], Field(min_length=1, max_length=64)] | None = None
    """Sources that differ in format, columns or class."""


class HoldOut(Model):
    """A part of the training rows, drawn by the seed and kept out of training."""

    fraction: Fraction = 0.1
    """The share of the rows to hold out."""
    stratify_by: Column | None = None
    """Keeps this column's proportions in both parts; `label` is the label. Default for SequenceClassification: `label`."""
    group_by: Column | None = None
    """Keeps rows of equal value in this column on one side, as sentences of one author."""


class TestRows(Rows):
    """The rows for the final figures: a source of their own, or a part of the training rows."""

    model_config = rules(
        exactly_one("uri", "uris", "fraction"),
        ("!has(self.stratifyBy) || has(self.fraction)", "stratifyBy goes with fraction"),
        ("!has(self.groupBy) || has(self.fraction)", "groupBy goes with fraction"),
    )

    uri: Uri | None = None
    """A file, a folder or a glob; or a hub data set."""
    uris: Uris | None = None
    """Several of them."""
    fraction: Fraction | None = None
    """The share of the training rows to set aside."""
    stratify_by: Column | None = None
    """Keeps this column's proportions. Default for SequenceClassification: `label`."""
    group_by: Column | None = None
    """Keeps rows of equal value in this column on one side."""


class Validation(Model):
    """The rows that choose the best checkpoint."""

    model_config = rules(exactly_one("from", "holdOut"))

    from_: Source | None = Field(default=None, alias="from")
    """A source of their own."""
    hold_out: HoldOut | None = None
    """A part of the training rows."""


class Length(Model):
    """Bounds on the length of a text, in characters."""

    model_config = rules(("!has(self.max) || self.min <= self.max", "length.min is above length.max"))

    min: Annotated[int, Field(ge=0)] = 1
    """Rows with a shorter text are dropped."""
    max: Annotated[int, Field(ge=1)] | None = None
    """Rows with a longer text are dropped."""


class Clean(Model):
    """What is done to the rows before they are split. Test and validation sources of their own are counted, never dropped."""

    unicode: Literal["NFC", "NFKC", "Keep"] = "NFC"
    """The Unicode normal form. NFKC also folds full-width letters and ligatures."""
    markup: Literal["Strip", "Keep"] = "Keep"
    """Whether HTML tags and entities are taken out."""
    duplicates: Literal["Drop", "Keep"] = "Drop"
    """What becomes of a row whose text (and pair) was read before. Kept, a copy can fall into the test split and flatter the score."""
    conflicts: Literal["Drop", "Majority", "Keep"] = "Drop"
    """What becomes of equal texts with different labels: none is kept, the more frequent label wins, or all stay."""
    length: Length = Length()
    """Bounds on the length of a text."""


class Dataset(Model):
    """The data: read, cleaned, split and tokenised once, and reused by every job that asks for the same."""

    train: TrainRows
    """The training rows."""
    validation: Validation = Validation(hold_out=HoldOut())
    """The rows that choose the best checkpoint. Default: a tenth of the training rows."""
    test: TestRows | None = None
    """The rows for the final figures. Without them the validation rows are used, and status says so."""
    clean: Clean = Clean()
    """What is done to the rows before they are split."""
    max_length: Annotated[int, Field(ge=8, le=131072)] | None = None
    """The longest input in tokens. Default: the model's window, at most 512."""
    long_texts: Literal["Truncate", "Windows", "Refuse"] = "Truncate"
    """What becomes of a longer text: cut, read in windows that overlap by an eighth, or an error that names the row. Language models always read all of a text in blocks, unless it is refused."""
