"""Feed-forward neurons and attention heads that are really gone, from the layers, the configuration and the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    PretrainedConfig,
    RobertaConfig,
)

from lmops_compressor import methods
from lmops_compressor.methods import Subject
from lmops_compressor.methods.activations import Gram, through
from lmops_compressor.methods.compensation import without
from lmops_compressor.methods.masks import matrix
from lmops_compressor.source import Source
from lmops_trainer import models
from lmops_trainer.failures import Refusal
from lmops_trainer.heads import attentions
from subjects import answers, config, how, minilm, rows, silent
from volumes import told

BERT, GPT2 = "SequenceClassification", "CausalLM"
SMALL = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}


@pytest.fixture(params=[BERT, GPT2])
def subject(sources: dict[str, Source], request: pytest.FixtureRequest) -> Subject:
    source = sources[request.param]
    return Subject(source, source.model())


@pytest.fixture
def bert(sources: dict[str, Source]) -> Subject:
    return Subject(sources[BERT], sources[BERT].model())


def pruned(subject: Subject, volumes: Path, **settings: object) -> tuple[str, int, str]:
    given = rows(volumes / subject.source.task, subject.source)
    change = methods.pruner("Neurons").prune(subject, how("Neurons", **settings), lambda: given, silent)
    return change.step, change.layers, change.detail


def stored(subject: Subject, folder: Path) -> Path:
    shutil.copytree(subject.source.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    subject.model.save_pretrained(folder)
    return folder


def parameters(subject: Subject) -> int:
    return sum(weight.numel() for weight in subject.model.parameters())


def test_neurons_are_gone_from_both_layers_of_every_block_and_from_the_configuration(
    subject: Subject, volumes: Path
) -> None:
    before = parameters(subject)

    said = pruned(subject, volumes)

    widths = {matrix(layer).shape for layer in methods.layers(subject.model, []).values()}
    assert said == ("Neurons 25%", 4, "32 of 128 neurons are gone; of 0.0 M weights 0.0 M are left")
    assert {(48, 32), (32, 48)} <= widths
    assert not {(64, 32), (32, 64)} & widths
    assert before - parameters(subject) == 2 * 16 * (32 + 1 + 32)
    assert {"bert": "intermediate_size", "gpt2": "n_inner"}[subject.model.config.model_type] in {
        name for name, value in subject.model.config.to_dict().items() if value == 48
    }


def test_a_model_of_fewer_neurons_is_loaded_by_transformers_alone(
    subject: Subject, volumes: Path, tmp_path: Path
) -> None:
    pruned(subject, volumes, sparsity=0.5)
    given = rows(volumes / subject.source.task, subject.source)
    auto = {BERT: AutoModelForSequenceClassification, GPT2: AutoModelForCausalLM}[subject.source.task]

    again = auto.from_pretrained(stored(subject, tmp_path / "model"))

    assert torch.equal(answers(again, given), answers(subject.model, given))


def test_heads_are_gone_from_all_projections(subject: Subject, volumes: Path) -> None:
    before = parameters(subject)

    step, layers, detail = pruned(subject, volumes, heads=0.25)

    each = 2 if subject.source.task == GPT2 else 4
    assert (step, layers) == ("Neurons 25% heads 25%", 2 * (2 + each))
    assert detail.startswith("32 of 128 neurons and 2 of 8 heads are gone;")
    assert [attention.heads for attention in attentions(subject.model)] == [3, 3]
    assert {matrix(attention.output).shape for attention in attentions(subject.model)} == {(32, 24)}
    assert before - parameters(subject) == 2 * 16 * (32 + 1 + 32) + 2 * 8 * (3 * (32 + 1) + 32)
    assert subject.model.config.lmops_pruned_heads == [1, 1]


def test_a_model_of_fewer_heads_is_loaded_by_lmops_and_is_the_same(
    subject: Subject, volumes: Path, tmp_path: Path
) -> None:
    pruned(subject, volumes, heads=0.5)
    given = rows(volumes / subject.source.task, subject.source)
    folder = stored(subject, tmp_path / "model")

    again = models.load(folder, subject.source.task)

    assert torch.equal(answers(again, given), answers(subject.model, given))
    assert config(folder)["architectures"] == [type(subject.model).__name__] == [type(again).__name__]
    again.save_pretrained(tmp_path / "twice")
    assert torch.equal(answers(models.load(tmp_path / "twice", subject.source.task), given), answers(again, given))


def test_transformers_alone_fails_on_a_model_of_fewer_heads(subject: Subject, volumes: Path, tmp_path: Path) -> None:
    pruned(subject, volumes, heads=0.5)
    auto = {BERT: AutoModelForSequenceClassification, GPT2: AutoModelForCausalLM}[subject.source.task]

    with pytest.raises(RuntimeError, match="mismatch"):
        auto.from_pretrained(stored(subject, tmp_path / "model"))


def test_a_language_model_of_fewer_heads_writes_on_from_its_cache(
    sources: dict[str, Source], volumes: Path, tmp_path: Path
) -> None:
    subject = Subject(sources[GPT2], sources[GPT2].model())
    pruned(subject, volumes, heads=0.5)
    model = models.load(stored(subject, tmp_path / "model"), GPT2)
    start = torch.tensor([[3, 4, 5]])

    written = [
        model.generate(start, max_new_tokens=12, do_sample=False, use_cache=cached, pad_token_id=0).tolist()
        for cached in (True, False)
    ]

    assert written[0] == written[1]


def test_more_heads_go_in_a_second_step_and_both_are_remembered(bert: Subject, volumes: Path, tmp_path: Path) -> None:
    pruned(bert, volumes, heads=0.25, exclude=["*.layer.1.attention.*"])
    said = pruned(bert, volumes, heads=0.5)
    given = rows(volumes / BERT, bert.source)

    again = models.load(stored(bert, tmp_path / "model"), BERT)

    assert said[2].startswith("24 of 96 neurons and 4 of 7 heads are gone;")
    assert bert.model.config.lmops_pruned_heads == [3, 2]
    assert [attention.heads for attention in attentions(again)] == [1, 2]
    assert torch.equal(answers(again, given), answers(bert.model, given))


def test_heads_alone_go_where_all_neurons_are_excluded(bert: Subject, volumes: Path) -> None:
    said = pruned(bert, volumes, heads=0.25, exclude=["*.intermediate.*"])

    assert said[1] == 8
    assert said[2].startswith("2 of 8 heads are gone;")
    assert bert.model.config.intermediate_size == 64


def test_zeros_of_an_earlier_step_stay_zero(bert: Subject, volumes: Path) -> None:
    given = rows(volumes / BERT, bert.source)
    methods.pruner("Magnitude").prune(bert, how("Magnitude"), lambda: given, silent)
    layer = bert.model.get_submodule("bert.encoder.layer.0.output.dense")
    dense = matrix(layer).clone()

    pruned(bert, volumes)

    kept = {tuple(column) for column in dense.T.tolist()}
    assert {tuple(column) for column in matrix(layer).T.tolist()} < kept


@pytest.mark.parametrize(
    "settings",
    [
        RobertaConfig(**SMALL, num_attention_heads=4, pad_token_id=0),
        DistilBertConfig(vocab_size=32, n_layers=2, n_heads=4, dim=32, hidden_dim=64),
        ElectraConfig(**SMALL, num_attention_heads=4, embedding_size=16),
    ],
    ids=lambda settings: settings.model_type,
)
def test_kin_of_bert_lose_neurons_and_weights_too(
    sources: dict[str, Source], volumes: Path, settings: PretrainedConfig, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(settings).eval()
    subject, given = Subject(sources[BERT], model), rows(volumes / BERT, sources[BERT])

    said = pruned(subject, volumes)
    change = methods.pruner("SparseGPT").prune(subject, how("SparseGPT", pattern="2:4"), lambda: given, silent)
    model.save_pretrained(tmp_path)

    assert said[:2] == ("Neurons 25%", 4)
    assert change.layers == len(methods.layers(model, []))
    assert torch.equal(
        answers(AutoModelForSequenceClassification.from_pretrained(tmp_path), given), answers(model, given)
    )


@pytest.mark.parametrize(
    ("settings", "reason", "message"),
    [
        (
            {"exclude": ["*.layer.0.intermediate.dense"]},
            "ExcludeUnfit",
            "exclude: Neurons takes the same share from all blocks, for a configuration knows one width; "
            "1 of 2 are excluded.",
        ),
        ({"sparsity": 0.001}, "ShareUnfit", "Neurons 0%: 0.001 of 64 is none."),
        ({"heads": 0.95}, "ShareUnfit", "Neurons 25% heads 95%: 0.95 of 4 is all."),
        (
            {"exclude": ["*.dense"]},
            "NothingToPrune",
            "Neurons finds no layer to prune: exclude names all of them (*.dense).",
        ),
    ],
)
def test_what_cannot_be_taken_out_is_refused_in_a_sentence(
    bert: Subject, volumes: Path, settings: dict[str, object], reason: str, message: str
) -> None:
    before = parameters(bert)

    with pytest.raises(Refusal) as refusal:
        pruned(bert, volumes, **settings)

    assert told(refusal)[1:3] == (reason, message)
    assert parameters(bert) == before


def test_heads_that_do_not_fit_the_blocks_are_refused(bert: Subject, tmp_path: Path) -> None:
    bert.model.config.lmops_pruned_heads = [1, 1, 1]

    with pytest.raises(Refusal) as refusal:
        models.load(stored(bert, tmp_path / "model"), BERT)

    assert told(refusal)[1:3] == (
        "HeadsUnfit",
        "lmops_pruned_heads in config.json says [1, 1, 1]; this BertForSequenceClassification has 2 blocks of 4 heads "
        "whose number can be changed.",
    )


@pytest.mark.slow
def test_on_a_real_bert_chosen_neurons_that_are_made_up_for_lose_less_than_the_smallest(tmp_path: Path) -> None:
    subject, given = minilm(tmp_path, sentences=24)
    name = "bert.encoder.layer.0.output.dense"
    layer = subject.model.get_submodule(name)
    dense, bias = matrix(layer).clone(), layer.bias.data.clone()
    _, seen = next(through(subject, given, {name: layer}, Gram, silent))

    kept, fitted, constant = without(dense, bias, seen, 1, 384)

    def lost(weight: torch.Tensor, shift: torch.Tensor | float = 0.0) -> float:
        """The squared error over all tokens, as a share of that without any neuron."""
        gap = torch.cat(
            [weight - dense, torch.zeros(len(dense), 1) + torch.as_tensor(shift)[..., None]], dim=1
        ).double()
        products = torch.zeros(len(seen.sums) + 1, len(seen.sums) + 1, dtype=torch.float64)
        products[:-1, :-1], products[:-1, -1], products[-1, :-1] = seen.products, seen.sums, seen.sums
        products[-1, -1] = seen.tokens
        return float(((gap @ products) * gap).sum() / ((dense.double() @ products[:-1, :-1]) * dense).sum())

    weighted = dense.norm(dim=0) * seen.products.diagonal().sqrt()
    only_kept = dense * torch.zeros(1536).index_fill(0, torch.tensor(kept), 1)
    largest = dense * torch.zeros(1536).index_fill(0, weighted.topk(1152).indices, 1)
    smallest_norms = dense * torch.zeros(1536).index_fill(0, dense.norm(dim=0).topk(1152).indices, 1)
    assert len(kept) == 1152
    whole = torch.zeros_like(dense).index_copy(1, torch.tensor(kept), fitted)
    assert lost(whole, constant - bias) < 0.5 * lost(largest) < 0.5 * lost(smallest_norms)
    assert lost(whole, constant - bias) < lost(only_kept)
