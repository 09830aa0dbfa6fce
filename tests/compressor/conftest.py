"""The models of these tests are made once; nobody changes what lies in their folders."""

from __future__ import annotations

import pytest

import compressed
from lmops_compressor.source import Source


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A classifier on a real BERT."""
    return compressed.classifier(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A small trained GPT-2."""
    return compressed.language_model(tmp_path_factory.mktemp("gpt2"))
