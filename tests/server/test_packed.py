"""Packed layers give the scores of the model, free what nothing else uses, and leave alone what they cannot pack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from lmops_server import packed

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)).eval()


@pytest.mark.parametrize(("make", "kept"), [(bert, 0), (gpt2, 1)])
def test_the_scores_are_the_same_and_only_a_tied_table_stays(make: Callable[[], PreTrainedModel], kept: int):
    model = make()
    layers = [module for module in model.modules() if packed.fits(module)]
    ids = torch.randint(0, 64, (3, 9))
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        done = packed.pack(model)
        found = model(input_ids=ids).logits

    assert done == len(layers) > 8
    assert all("forward" in layer.__dict__ for layer in layers)
    assert sum(layer.weight.numel() > 0 for layer in layers) == kept
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Reads(nn.Module):
    """A layer of somebody's own that takes the weight out of another."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(given, self.layer.weight, self.layer.bias)


@pytest.mark.parametrize("fault", ["other scores", "no operator", "reads weights"])
def test_a_model_that_cannot_be_packed_is_as_it_was(fault: str, monkeypatch: pytest.MonkeyPatch):
    model, ids = bert(), torch.randint(0, 64, (2, 5))
    if fault == "reads weights":
        model.classifier = Reads(model.classifier)  # type: ignore[assignment, arg-type]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
    operators = torch.ops.mkldnn
    if fault == "no operator":
        monkeypatch.setattr(packed, "Packed", lambda *_: operators.unheard_of)
    elif fault == "other scores":
        forward = packed.Packed.forward
        monkeypatch.setattr(packed.Packed, "forward", lambda self, given: 1.1 * forward(self, given))

    assert packed.pack(model) == 0
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, wanted)
