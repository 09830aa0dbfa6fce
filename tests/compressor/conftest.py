"""The models of these tests are made once; nobody changes what lies in their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuned
from lmops_compressor.source import Source
from subjects import saved

WIDE = {
    "SequenceClassification": {"num_attention_heads": 4, "intermediate_size": 64},
    "CausalLM": {"n_head": 4, "n_inner": 64},
    "MaskedLM": {},
}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Two layers of a real BERT, fine-tuned on as many bad reviews as good ones."""
    return tuned.classifier(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A GPT-2 of two layers that has read the news several times."""
    return tuned.language_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models to prune lie, and the rows that they have learnt."""
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="session")
def sources(volumes: Path) -> dict[str, Source]:
    """A BERT that classifies and a GPT-2, of four heads and 64 neurons in two blocks, and one for hidden words."""
    return {task: saved(volumes / task, task, **settings) for task, settings in WIDE.items()}
