"""A compressed model has a `baseline.json` of its own: what it makes of the rows, and where they lie for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lmops_compressor.compress import compress
from lmops_trainer import models as loading
from lmops_trainer.drift import Baseline
from lmops_trainer.publish import fingerprint
from lmops_trainer.uris import path
from measuring import Models, run
from trained import SILENT

INT8 = [{"quantize": {"method": "Dynamic"}}]
PRUNED = [{"prune": {"method": "Magnitude", "sparsity": 0.9}}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


def both(uri: str, **spec: object) -> tuple[Baseline, Baseline, str]:
    """The pictures of a model and of what is made of it, and the URI of that."""
    made = compress(run(uri, **spec), SILENT).model  # type: ignore[arg-type]
    assert made is not None
    pictures = [Baseline.read(path(each)) for each in (uri, made.uri)]
    assert pictures[0] is not None
    assert pictures[1] is not None
    return pictures[0], pictures[1], made.uri


def test_a_graph_reads_the_same_rows_and_makes_its_own_of_them(models: Models):
    before, after, uri = both(models.of()[0], steps=INT8)

    kept = {"split", "rows", "token_length", "unknown_token_share", "labels"}
    assert after.model_dump(include=kept) == before.model_dump(include=kept)
    assert after.confidence is not None
    assert before.confidence is not None
    assert after.confidence.mean == pytest.approx(before.confidence.mean, abs=0.05)
    assert after.confidence != before.confidence  # 8 bits are not 32
    assert before.embedding is not None
    assert after.embedding is not None
    assert 0 < before.embedding.distance(np.asarray(after.embedding.mean)) < 0.1  # in spreads
    name = path(uri).name
    assert fingerprint(path(uri)).short == name  # the digest does not know of it


def test_a_pruned_model_says_where_rows_lie_for_itself(models: Models):
    before, after, uri = both(models.of()[0], steps=PRUNED)

    assert before.embedding is not None
    assert after.embedding is not None
    assert after.embedding.mean != before.embedding.mean
    model = loading.load(path(uri), "SequenceClassification")
    vocabulary = model.config.vocab_size
    with torch.no_grad():  # any row lies near its own model's picture, in spreads, and far from that of the other
        rows = [torch.randint(5, vocabulary, (1, 8)) for _ in range(64)]
        middle = np.mean([model.base_model(input_ids=ids).last_hidden_state[0].mean(0).numpy() for ids in rows], axis=0)
    assert after.embedding.distance(middle) < before.embedding.distance(middle)


def test_a_language_model_keeps_the_picture_of_its_texts(models: Models):
    before, after, _ = both(models.of("CausalLM")[0], steps=PRUNED)

    assert after == before
    assert after.confidence is None
