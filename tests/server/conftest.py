"""The models of these tests are made once, and published as jobs do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import served
from served import Server, Volumes


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """A folder of volumes."""
    made = Volumes(tmp_path_factory.mktemp("volumes"))
    made.models.mkdir()
    return made


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are made."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def reviews(volumes: Volumes, scratch: Path) -> str:
    """The URI of a classifier."""
    return served.classifier(volumes, scratch)


@pytest.fixture(scope="session")
def reviews_int8(volumes: Volumes, scratch: Path, reviews: str) -> str:
    """The URI of the same in int8."""
    return served.quantized(volumes, scratch, reviews)


@pytest.fixture(scope="session")
def gpt2(volumes: Volumes, scratch: Path) -> str:
    """The URI of a language model."""
    return served.language_model(volumes, scratch)


@pytest.fixture(scope="session")
def gpt2_graph(volumes: Volumes, scratch: Path, gpt2: str) -> str:
    """The URI of the same as a graph."""
    return served.language_graph(volumes, scratch, gpt2)


@pytest.fixture(scope="session")
def masked(volumes: Volumes, scratch: Path) -> str:
    """The URI of a model that fills masks."""
    return served.masked(volumes, scratch)


@pytest.fixture(scope="session")
def classifier(volumes: Volumes, reviews: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the classifier."""
    limits = {"bodyBytes": 65_536, "queue": 64}
    with served.serving(volumes, served.document(reviews, limits=limits), tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="session")
def writer(volumes: Volumes, gpt2: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the language model, which has a template for chats."""
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
    document = served.document(gpt2, generation={"chatTemplate": template, "maxNewTokens": 24})
    with served.serving(volumes, document, tmp_path_factory.mktemp("served")) as server:
        yield server
