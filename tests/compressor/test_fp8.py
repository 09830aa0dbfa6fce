"""FP8: a folder that plain transformers loads, in the layout that vLLM reads, with floats of eight bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import compressed
import tuned
from compressed import unread
from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor.methods import fp8
from lmops_compressor.runners import format_of, weights
from lmops_compressor.runners.torch import TorchRunner
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal
from volumes import told

pytestmark = pytest.mark.slow
QUERY, SECOND = "bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def made(bert: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Change]:
    """The classifier in FP8, but for its second layer's last product."""
    return written(bert, tmp_path_factory.mktemp("fp8"), exclude=[SECOND])


def written(source: Source, target: Path, **settings: object) -> tuple[Path, Change]:
    how = Quantize.model_validate({"method": "FP8", **settings})
    return target, fp8.quantize(compressed.subject(source), how, unread, target, lambda _: None)


def test_every_layer_of_the_encoder_becomes_fp8_but_those_that_are_excluded_and_the_heads(bert, made):
    folder, change = made
    stored = load_file(folder / "model.safetensors")
    small = sorted(name.removesuffix(".weight") for name, value in stored.items() if value.dtype == torch.float8_e4m3fn)
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]

    assert (len(small), change.layers, change.step) == (11, 11, "FP8 8 bit")
    assert {name.split(".layer.")[0] for name in small} == {"bert.encoder"}
    assert SECOND not in small
    assert sorted(settings["ignore"]) == [SECOND, "bert.pooler.dense", "classifier"]
    assert (settings["quant_method"], settings["format"]) == ("compressed-tensors", "float-quantized")
    assert format_of(folder) == "safetensors"
    print(f"{weights(bert.folder) / weights(folder):.2f} times smaller: the embeddings stay")
    assert weights(bert.folder) - weights(folder) > 3 * sum(stored[f"{name}.weight"].numel() for name in small) * 0.99


def test_each_output_channel_has_a_scale_of_its_own_and_its_weights_are_right_to_three_bits(bert, made):
    stored = load_file(made[0] / "model.safetensors")
    weight, scale = stored[f"{QUERY}.weight"].float(), stored[f"{QUERY}.weight_scale"]
    original = bert.model().get_submodule(QUERY).weight.detach()

    assert scale.shape == (384, 1)
    torch.testing.assert_close(scale, original.abs().amax(1, keepdim=True) / 448)
    usual = original.abs() > scale * 2**-6  # what is smaller is stored in steps, not in bits
    error = ((weight * scale - original).abs() / original.abs())[usual]
    assert 0.02 < float(error.max()) <= 1 / 16 + 1e-5


def test_plain_transformers_loads_the_folder_and_says_what_the_original_says(bert, made):
    [(_, batch)] = tuned.reviews(bert, 60, skip=2000).batches(10**6)
    given = {name: values for name, values in batch.items() if name != "labels"}
    model = AutoModelForSequenceClassification.from_pretrained(made[0]).eval()
    with torch.no_grad():
        plain = model(**given).logits.float().numpy()
    arrays = {name: values.numpy() for name, values in given.items()}
    ours, original = (
        TorchRunner(made[0], bert.task, 1).logits(arrays),
        TorchRunner(bert.folder, bert.task, 1).logits(arrays),
    )

    np.testing.assert_allclose(plain, ours, atol=1e-5)
    agreed = float((ours.argmax(1) == original.argmax(1)).mean())
    x, y = ours - original.mean(0), original - original.mean(0)  # what is common to all would make any two alike
    alike = float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    print(f"cosine {alike:.5f}, agreement {agreed:.3f}, at most {np.abs(ours - original).max():.3f} apart")
    assert alike > 0.995
    assert np.abs(ours - original).max() > 1e-3  # it is another model
    assert agreed >= 0.95


def test_channels_of_zeros_stay_zeros(bert, tmp_path):
    subject = compressed.subject(bert)
    with torch.no_grad():
        subject.model.get_submodule(QUERY).weight[:7] = 0
    fp8.quantize(subject, Quantize(method="FP8"), unread, tmp_path, lambda _: None)

    stored = load_file(tmp_path / "model.safetensors")
    decoded = stored[f"{QUERY}.weight"].float() * stored[f"{QUERY}.weight_scale"]
    assert bool((decoded[:7] == 0).all())
    assert bool(decoded.isfinite().all())


def test_gpt2_is_refused_for_its_layers_lie_the_other_way_round(gpt2, tmp_path):
    with pytest.raises(Refusal) as refusal:
        fp8.quantize(compressed.subject(gpt2), Quantize(method="FP8"), unread, tmp_path, lambda _: None)

    assert told(refusal) == (
        "Model",
        "NotServedInFP8",
        "GPT2LMHeadModel has Conv1D layers, for which the layout of FP8 models has no place.",
        "Take WeightOnly or Dynamic for this architecture.",
    )
    assert list(tmp_path.iterdir()) == []


def test_an_exclusion_that_fits_no_layer_is_refused(bert, tmp_path):
    with pytest.raises(Refusal, match=r"no layer is called 'encoder.layer.99'"):
        written(bert, tmp_path, exclude=["encoder.layer.99"])


def test_a_library_that_leaves_the_weights_alone_is_found_out(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("compressed_tensors.compressors.ModelCompressor.compress_model", lambda *_: None)

    with pytest.raises(Refusal, match="should have changed 12 layers, and has changed 0"):
        written(bert, tmp_path)
