"""Volumes with small files, tiny models, and runs that prepare them, as the trainer's tests like to say them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lmops.api import Run
from lmops.api.dataset import Source
from lmops_trainer.data.rows import Row
from lmops_trainer.data.sources import rows
from lmops_trainer.failures import Refusal

WORDS = [
    "the",
    "a",
    "film",
    "is",
    "good",
    "bad",
    "and",
    "not",
    "so",
    "long",
    "as",
    "it",
    "was",
    "very",
    "dull",
    "bright",
    ".",
    "!",
    "?",
    ",",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Volume:
    """A claim named `data` on a folder of volumes that the runtime is told of."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "volumes" / "data"
        self.root.mkdir(parents=True)
        monkeypatch.setenv("LMOPS_VOLUMES", str(self.root.parent))
        monkeypatch.setenv("LMOPS_SCRATCH", str(root))

    def write(self, name: str, content: str | bytes) -> str:
        """Writes a file; returns its URI."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"pvc://data/{name}"

    def link(self, name: str, target: Path) -> str:
        """Names a file or folder that lies elsewhere; returns its URI."""
        (self.root / name).symlink_to(target)
        return f"pvc://data/{name}"

    def rows(self, name: str, content: str | bytes, **settings: Any) -> list[Row]:
        """The rows of one file; `documents` reads it as a language model does."""
        return self.read(self.write(name, content), **settings)

    def read(self, uri: str, documents: bool = False, labelled: bool = True, **settings: Any) -> list[Row]:
        """The rows of one URI."""
        source = Source.model_validate({"uri": uri, **settings})
        return list(rows([source], "dataset.train", labelled, documents))

    def bert(self, name: str = "bert", window: int = 16, vocabulary: int | None = None) -> str:
        """A model folder whose tokenizer knows a handful of words; returns its URI."""
        from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
        from tokenizers.models import WordPiece
        from transformers import BertTokenizer

        tokens = {token: i for i, token in enumerate(SPECIAL + WORDS)}
        backend = Tokenizer(WordPiece(tokens, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        BertTokenizer(tokenizer_object=backend).save_pretrained(self.root / name)
        config = {
            "model_type": "bert",
            "max_position_embeddings": window,
            "vocab_size": vocabulary or len(tokens),
        }
        return self.write(f"{name}/config.json", json.dumps(config)).removesuffix("/config.json")


def ids(text: str) -> list[int]:
    """The tokens of a text of known words, as the tiny BERT numbers them."""
    return [(SPECIAL + WORDS).index(word) for word in text.split()]


def run(model: str | dict[str, Any], dataset: dict[str, Any], **spec: Any) -> Run:
    """A run of the stage prepare; a model given by its URI learns to classify."""
    whole = {"from": {"uri": model}, "task": "SequenceClassification"} if isinstance(model, str) else model
    return Run.model_validate(
        {
            "spec": {"model": whole, "dataset": dataset, "output": {"uri": "pvc://data/models"}, **spec},
            "run": {"job": "reviews", "uid": "u-1", "stage": "prepare"},
        }
    )


def told(refusal: pytest.ExceptionInfo[Refusal]) -> tuple[str, str, str, str]:
    """All that the owner of the job reads."""
    value = refusal.value
    return value.class_, value.reason, value.message, value.remedy


def raw(name: str) -> Path:
    """A file of the real data sets, which `make test` fetches; without them the test is skipped, and in CI it fails."""
    folder = os.environ.get("LMOPS_TEST_VOLUMES")
    found = next(Path(folder).rglob(name), None) if folder else None
    if found is None:
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent(f"{name} is not below LMOPS_TEST_VOLUMES ({folder}): it was NOT tested")
    return found
