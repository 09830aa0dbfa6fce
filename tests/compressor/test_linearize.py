"""GPT-2's layers become `nn.Linear` and `Conv1D` again without the loss of a bit."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmops_compressor.linearize import delinearize, linearize

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16))
    nn.init.normal_(model.get_submodule("transformer.h.1.mlp.c_fc").bias)
    return model.eval()


def kinds(model: PreTrainedModel) -> dict[str, int]:
    """Layers of the blocks, by class."""
    found = [type(module).__name__ for name, module in model.named_modules() if ".h." in name]
    return {kind: found.count(kind) for kind in ("Conv1D", "Linear")}


def test_every_conv1d_becomes_a_linear_layer_that_gives_the_same_scores():
    model = gpt2()
    before = model(TOKENS).logits

    linear = linearize(model)

    assert linear is model
    assert kinds(model) == {"Conv1D": 0, "Linear": 8}
    layer = model.get_submodule("transformer.h.0.attn.c_attn")
    assert (layer.in_features, layer.out_features, layer.weight.shape) == (16, 48, (48, 16))
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=0, atol=1e-5)


def test_the_way_back_loses_no_bit():
    model = gpt2()
    before, scores = copy.deepcopy(model.state_dict()), model(TOKENS).logits

    delinearize(linearize(model))

    assert kinds(model) == {"Conv1D": 8, "Linear": 0}
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(after[name].is_contiguous() for name in after)
    assert torch.equal(model(TOKENS).logits, scores)


def test_views_share_the_memory_of_the_weights():
    model = gpt2()
    before = {name: values.data_ptr() for name, values in model.state_dict().items()}
    scores = model(TOKENS).logits

    linearize(model, views=True)

    assert {name: values.data_ptr() for name, values in model.state_dict().items()} == before
    torch.testing.assert_close(model(TOKENS).logits, scores, rtol=0, atol=1e-5)
    delinearize(model)
    assert {name: values.data_ptr() for name, values in model.state_dict().items()} == before
    assert torch.equal(model(TOKENS).logits, scores)


def test_twice_is_as_good_as_once():
    model = gpt2()
    before = copy.deepcopy(model.state_dict())

    delinearize(delinearize(linearize(linearize(model))))

    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_layer_that_was_replaced_by_a_smaller_one_is_turned_back_too():
    model = linearize(gpt2())
    model.set_submodule("transformer.h.0.mlp.c_fc", nn.Linear(16, 40))
    model.set_submodule("transformer.h.0.mlp.c_proj", nn.Linear(40, 16))
    scores = model(TOKENS).logits

    delinearize(model)

    layer = model.get_submodule("transformer.h.0.mlp.c_fc")
    assert isinstance(layer, Conv1D)
    assert (layer.nx, layer.nf, layer.weight.shape) == (16, 40, (16, 40))
    torch.testing.assert_close(model(TOKENS).logits, scores, rtol=0, atol=1e-5)


def test_frozen_layers_stay_frozen():
    model = gpt2()
    model.get_submodule("transformer.h.0.mlp.c_fc").weight.requires_grad_(False)

    linearize(model)

    assert not model.get_submodule("transformer.h.0.mlp.c_fc").weight.requires_grad
    assert model.get_submodule("transformer.h.1.mlp.c_fc").weight.requires_grad
    delinearize(model)
    assert not model.get_submodule("transformer.h.0.mlp.c_fc").weight.requires_grad


def test_a_model_without_conv1d_stays_as_it_is():
    model = BertForMaskedLM(BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    modules = list(model.modules())

    delinearize(linearize(model))

    assert list(model.modules()) == modules
