"""The model of a job: where its weights or its configuration come from, its tokenizer, and what it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Model, Uri, Word, exactly_one, int_or_string, rules

Task = Literal["SequenceClassification", "CausalLM", "MaskedLM", "BertPreTraining"]
Setting = Annotated[int | Annotated[str, Field(max_length=512)], Field(union_mode="left_to_right"), int_or_string(512)]


class Architecture(Model):
    """A model made from a configuration, with random weights."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    """A model type that `transformers` knows: gpt2, bert, roberta, ..."""
    config: Annotated[dict[Word, Setting], Field(max_length=64)] = {}
    """Settings that replace the configuration's own: `{hidden_size: 256, hidden_dropout_prob: "0.2"}`; a fraction is quoted."""


class ModelOrigin(Model):
    """Where a model comes from."""

    model_config = rules(exactly_one("uri", "architecture"))

    uri: Uri | None = None
    """A folder with safetensors weights on a volume, or a model on the hub."""
    architecture: Architecture | None = None
    """A configuration to train from scratch."""


class TokenizerTraining(Model):
    """A tokenizer made from the training rows: WordPiece for BERT and its kin (one token a Chinese character), byte-level BPE otherwise."""

    vocabulary_size: Annotated[int, Field(ge=300, le=1_000_000)] = 30_000
    """How many tokens it has at the most."""


class Tokenizer(Model):
    """Where the tokenizer comes from, when it is not the model's own."""

    model_config = rules(exactly_one("uri", "train"))

    uri: Uri | None = None
    """A folder or hub model that holds a tokenizer; GPT-2's `encoder.json` and `vocab.bpe` are one too."""
    train: TokenizerTraining | None = None
    """Makes a tokenizer from the training rows."""


class ModelSpec(Model):
    """The model to train, and for what."""

    model_config = rules(
        ("!has(self.from.architecture) || has(self.tokenizer)", "a model from an architecture needs a tokenizer"),
        (
            "!has(self.from.architecture) || !has(self.freeze)",
            "freeze goes with trained weights: random ones would stay random",
        ),
    )

    from_: ModelOrigin = Field(alias="from")
    """Where the weights or the configuration come from."""
    tokenizer: Tokenizer | None = None
    """Where the tokenizer comes from. Default: the folder of the model."""
    task: Task
    """What the model learns, named as `transformers` names its classes."""
    freeze: Literal["Embeddings", "Encoder"] | None = None
    """What stays as it is: the embeddings, or everything but the head."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
