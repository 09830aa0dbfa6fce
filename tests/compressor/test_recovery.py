"""A recovery makes a pruned model better, and what is zero stays exactly zero."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lmops.api.compression import Recovery
from lmops_compressor import methods
from lmops_compressor.methods import Subject
from lmops_compressor.methods.masks import matrix
from lmops_compressor.methods.recovery import recover
from lmops_compressor.rows import Rows
from lmops_compressor.source import Source
from lmops_trainer import models
from lmops_trainer.failures import Refusal
from lmops_trainer.models import inputs
from lmops_trainer.tasks import TASKS
from subjects import how, rows, silent
from volumes import told

SHORT = Recovery(steps=60, batch_size=16, learning_rate=1e-3)
KINDS = ["SequenceClassification", "CausalLM", "MaskedLM"]


@torch.no_grad()
def loss(subject: Subject, given: Rows) -> float:
    """The mean loss of a target, without dropout."""
    task, total, targets = TASKS[given.task], 0.0, 0
    for _, batch in given.batches():
        outputs = subject.model(**{name: batch[name] for name in inputs(subject.model) if name in batch})
        total += sum(float(part) for part in task.losses(outputs, batch).values())
        targets += sum(task.targets(batch).values())
    return total / targets


def pruned(
    sources: dict[str, Source], task: str, volumes: Path, method: str, **settings: object
) -> tuple[Subject, Rows]:
    subject = Subject(sources[task], sources[task].model())
    given = rows(volumes / task, sources[task])
    methods.pruner(method).prune(subject, how(method, **settings), lambda: given, silent)
    return subject, given


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("settings", [{"sparsity": 0.7}, {"pattern": "1:4"}], ids=["70 %", "1:4"])
def test_the_loss_falls_and_the_same_weights_are_zero(
    sources: dict[str, Source], volumes: Path, task: str, settings: dict[str, object]
) -> None:
    subject, given = pruned(sources, task, volumes, "Magnitude", **settings)
    zero = {name: matrix(layer) == 0 for name, layer in methods.layers(subject.model, []).items()}
    before, shares = loss(subject, given), []

    losses = recover(subject, SHORT, given, 1, shares.append)

    assert loss(subject, given) < 0.95 * before
    assert (len(losses), shares[-1], subject.model.training) == (60, 1.0, False)
    for name, layer in methods.layers(subject.model, []).items():
        assert torch.equal(matrix(layer) == 0, zero[name]), name


@pytest.mark.parametrize("task", ["SequenceClassification", "CausalLM"])
def test_a_model_without_some_neurons_and_heads_learns_too(
    sources: dict[str, Source], volumes: Path, task: str, tmp_path: Path
) -> None:
    subject, given = pruned(sources, task, volumes, "Neurons", sparsity=0.75, heads=0.5)
    before = loss(subject, given)

    recover(subject, SHORT, given, 1, silent)

    after = loss(subject, given)
    subject.model.save_pretrained(tmp_path)
    assert after < before
    assert loss(Subject(subject.source, models.load(tmp_path, task)), given) == after


def test_the_same_seed_gives_the_same_weights_and_another_one_others(sources: dict[str, Source], volumes: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        subject, given = pruned(sources, "MaskedLM", volumes, "Magnitude")
        recover(subject, SHORT, given, seed, silent)
        found.append(subject.model.state_dict())

    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    sources: dict[str, Source], volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Recovery(steps=3, batch_size=16, learning_rate=1e-3)
    found = []
    for tokens in (32, 100_000):
        monkeypatch.setattr("lmops_compressor.methods.recovery.LANGUAGE", tokens)
        subject, given = pruned(sources, "CausalLM", volumes, "Magnitude")
        for module in subject.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        found.append(recover(subject, one, given, 1, silent))

    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_loss_that_is_no_number_ends_it(sources: dict[str, Source], volumes: Path) -> None:
    subject, given = pruned(sources, "CausalLM", volumes, "Magnitude")
    subject.model.get_input_embeddings().weight.data[0] = math.nan

    with pytest.raises(Refusal) as refusal:
        recover(subject, SHORT, given, 1, silent)

    assert told(refusal) == (
        "Diverged",
        "LossNotFinite",
        "The loss of the recovery became NaN at step 1.",
        "Lower recovery.learningRate.",
    )
