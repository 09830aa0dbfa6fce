"""Weights that are set to zero: how many, which ones, and how well the layers then still do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lmops_compressor import methods
from lmops_compressor.methods import Subject
from lmops_compressor.methods.activations import Gram, Norms, through
from lmops_compressor.methods.masks import matrix
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal
from subjects import answers, how, minilm, rows, silent
from volumes import told

METHODS = ["Magnitude", "Wanda", "SparseGPT"]
TASKS = ["SequenceClassification", "CausalLM", "MaskedLM"]


@pytest.fixture
def subject(sources: dict[str, Source], request: pytest.FixtureRequest) -> Subject:
    source = sources[getattr(request, "param", "SequenceClassification")]
    return Subject(source, source.model())


def pruned(subject: Subject, method: str, volumes: Path, **settings: object) -> str:
    calibration = rows(volumes / subject.source.task, subject.source)
    change = methods.pruner(method).prune(subject, how(method, **settings), lambda: calibration, silent)
    return f"{change.step}: {change.layers} layers, {change.detail}"


def zeros(subject: Subject, exclude: list[str] | None = None) -> dict[str, float]:
    found = methods.layers(subject.model, exclude or [])
    return {name: float((matrix(layer) == 0).double().mean()) for name, layer in found.items()}


@pytest.mark.parametrize("subject", TASKS, indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_half_of_the_weights_of_each_layer_are_zero_and_nothing_else_is(
    subject: Subject, method: str, volumes: Path
) -> None:
    before = {name: weight.clone() for name, weight in subject.model.named_parameters()}
    layers = methods.layers(subject.model, [])

    said = pruned(subject, method, volumes)

    assert said == f"{method} 50%: {len(layers)} layers, 50.0 % of 0.0 M weights are zero in {len(layers)} layers"
    assert set(zeros(subject).values()) == {0.5}
    for name, weight in subject.model.named_parameters():
        assert torch.equal(weight, before[name]) == (name.removesuffix(".weight") not in layers), name


@pytest.mark.parametrize("subject", TASKS, indirect=True)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:16"])
def test_no_group_along_the_inputs_holds_more_than_the_pattern_allows(
    subject: Subject, method: str, pattern: str, volumes: Path
) -> None:
    stay, of = map(int, pattern.split(":"))

    pruned(subject, method, volumes, pattern=pattern)

    for name, layer in methods.layers(subject.model, []).items():
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        held = (weight.reshape(weight.shape[0], -1, of) != 0).sum(dim=-1)
        assert held.eq(stay).all(), name


@pytest.mark.parametrize("method", METHODS)
def test_a_share_that_does_not_divide_a_row_is_rounded_to_whole_weights(
    subject: Subject, method: str, volumes: Path
) -> None:
    pruned(subject, method, volumes, sparsity=0.3)

    assert all(abs(share - 0.3) < 0.5 / 32 for share in zeros(subject).values())


@pytest.mark.parametrize("method", METHODS)
def test_what_is_excluded_stays_as_it_is(subject: Subject, method: str, volumes: Path) -> None:
    pruned(subject, method, volumes, exclude=["*.attention.*", "bert.encoder.layer.1.output.dense"])

    found = zeros(subject)
    assert {name: share for name, share in found.items() if share} == {
        "bert.encoder.layer.0.intermediate.dense": 0.5,
        "bert.encoder.layer.0.output.dense": 0.5,
        "bert.encoder.layer.1.intermediate.dense": 0.5,
    }


@pytest.mark.parametrize("subject", ["SequenceClassification", "CausalLM"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_model_is_saved_and_loaded_as_it_is(
    subject: Subject, method: str, volumes: Path, tmp_path: Path
) -> None:
    pruned(subject, method, volumes, pattern="2:4")
    given = rows(volumes / subject.source.task, subject.source)
    subject.model.save_pretrained(tmp_path)

    again = type(subject.model).from_pretrained(tmp_path)

    assert torch.equal(answers(again, given), answers(subject.model, given))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("settings", "reason", "message"),
    [
        (
            {"pattern": "2:5"},
            "PatternUnfit",
            "pattern: 2:5 needs groups of 5; the inputs of bert.encoder.layer.0.attention.self.query are 32 (32 x 32).",
        ),
        ({"pattern": "4:4"}, "PatternUnfit", "pattern: 4:4 lets 4 of 4 weights stay, so that none goes."),
        ({"exclude": ["*.dense", "*.self.*"]}, "NothingToPrune", "exclude names all of them (*.dense, *.self.*)."),
        ({"exclude": ["*.heads.*"]}, "LayerUnknown", "exclude: no layer is called '*.heads.*'"),
        ({"sparsity": 0.0001}, "NothingChanged", "should have changed 12 layers, and has changed 0."),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_a_sentence(
    subject: Subject, method: str, settings: dict[str, object], reason: str, message: str, volumes: Path
) -> None:
    with pytest.raises(Refusal) as refusal:
        pruned(subject, method, volumes, **settings)

    assert told(refusal)[1] == reason
    assert message in told(refusal)[2]
    assert set(zeros(subject).values()) == {0}


@pytest.mark.parametrize("subject", ["SequenceClassification", "CausalLM"], indirect=True)
def test_padding_does_not_count(subject: Subject, volumes: Path) -> None:
    given = rows(volumes / subject.source.task, subject.source)
    layers = methods.layers(subject.model, [])
    single = {name: torch.zeros(matrix(layer).shape[1], dtype=torch.float64) for name, layer in layers.items()}
    tokens = sum(len(example["input_ids"]) for example in given.examples)

    for one in range(len(given)):
        apart = type(given)(given.name, given.task, (given.examples[one],), given.collator)
        for name, seen in through(subject, apart, layers, Norms, silent):
            single[name] += seen.norms.double() ** 2

    for name, together in through(subject, given, layers, Gram, silent):
        assert together.tokens == tokens, name
        assert torch.allclose(together.products.diagonal().double(), single[name], rtol=1e-4), name


def test_later_blocks_are_judged_by_what_pruned_ones_put_out(subject: Subject, volumes: Path) -> None:
    given = rows(volumes / subject.source.task, subject.source)
    layers = methods.layers(subject.model, [])
    last = "bert.encoder.layer.1.intermediate.dense"

    seen_in_order = {}
    for name, seen in through(subject, given, layers, Norms, silent):
        seen_in_order[name] = seen.norms
        if ".layer.0." in name:
            matrix(layers[name]).zero_()
    squares = torch.zeros(32)
    for one in range(len(given)):  # the whole pruned model, row by row
        apart = type(given)(given.name, given.task, (given.examples[one],), given.collator)
        hook = layers[last].register_forward_pre_hook(lambda _, read: squares.add_(read[0][0].square().sum(dim=0)))
        answers(subject.model, apart)
        hook.remove()

    assert torch.allclose(seen_in_order[last], squares.sqrt(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"pattern": "2:4"}], ids=["half", "2:4"])
def test_on_a_real_bert_sparsegpt_keeps_more_of_a_layer_than_wanda_and_wanda_more_than_magnitude(
    settings: dict[str, str], tmp_path: Path
) -> None:
    errors = {method: layer_errors(method, settings, tmp_path) for method in METHODS}

    order = [sum(errors[method].values()) for method in ("SparseGPT", "Wanda", "Magnitude")]
    better = [name for name in errors["Wanda"] if errors["SparseGPT"][name] < errors["Wanda"][name]]
    assert order == sorted(order)
    assert len(better) == 6


def layer_errors(method: str, settings: dict[str, str], folder: Path) -> dict[str, float]:
    """How far each layer of the first block, pruned alone, is from what it put out, as a share of that."""
    subject, given = minilm(folder)
    layers = methods.layers(subject.model, ["*.layer.[1-5].*"])
    dense = {name: matrix(layer).clone() for name, layer in layers.items()}
    inputs = dict(through(subject, given, layers, Gram, silent))
    methods.pruner(method).prune(subject, how(method, exclude=["*.layer.[1-5].*"], **settings), lambda: given, silent)
    found = {}
    for name, layer in layers.items():
        lost, products = matrix(layer) - dense[name], inputs[name].products
        found[name] = float(((lost @ products) * lost).sum() / ((dense[name] @ products) * dense[name]).sum())
    return found
