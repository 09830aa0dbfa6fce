"""A model is loaded from safetensors or made from a configuration, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config, RobertaConfig

from lmops.api.model import ModelSpec
from lmops_trainer import models
from lmops_trainer.data.configs import model_config
from lmops_trainer.failures import Refusal
from runs import TINY, TINY_GPT2, tokenizer

LABELS = ["bad", "good"]


def architecture(name: str, task: str = "SequenceClassification", **config: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "from": {"architecture": {"name": name, "config": (TINY if name == "bert" else TINY_GPT2) | config}},
            "tokenizer": {"uri": "pvc://models/unused"},
            "task": task,
        }
    )


def stored(uri: str = "pvc://models/tiny", task: str = "SequenceClassification", **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"from": {"uri": uri}, "task": task, **more})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny BERT with a classification head, on a volume."""
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    target = tmp_path / "models" / "tiny"
    models.start(architecture("bert"), tokenizer(), LABELS, seed=1).save_pretrained(target)
    return target


def refused(spec: ModelSpec, words: Any = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        models.start(spec, words or tokenizer(), LABELS, seed=1)
    return caught.value


def test_an_architecture_takes_its_vocabulary_and_special_tokens_from_the_tokenizer() -> None:
    words = tokenizer()

    config = models.start(architecture("bert", hidden_dropout_prob="0.2"), words, LABELS, seed=1).config

    assert (config.vocab_size, config.pad_token_id, config.hidden_dropout_prob) == (len(words), 0, 0.2)
    assert config.id2label == {0: "bad", 1: "good"}
    assert config.label2id == {"bad": 0, "good": 1}


def test_equal_seeds_make_equal_models() -> None:
    made = [models.start(architecture("bert"), tokenizer(), LABELS, seed).state_dict() for seed in (1, 1, 2)]
    first, second, other = made

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_a_misspelled_setting_is_refused_with_the_one_that_was_meant() -> None:
    refusal = refused(architecture("bert", hiden_size=64))

    assert (refusal.class_, refusal.reason) == ("Model", "UnknownSetting")
    assert refusal.message == "bert has no setting 'hiden_size'; did you mean 'hidden_size'?"


def test_a_misspelled_architecture_is_refused_with_the_one_that_was_meant() -> None:
    assert refused(architecture("brt")).remedy == "Did you mean 'bert'?"


@pytest.mark.parametrize("config", [{"hidden_size": 33}, {"hidden_size": "wide"}])
def test_settings_that_make_no_model_are_refused(config: dict[str, Any]) -> None:
    assert refused(architecture("bert", **config)).reason == "SettingRefused"


def test_gpt2_without_a_pad_token_pads_with_the_end_of_text() -> None:
    model = models.start(architecture("gpt2"), tokenizer("gpt2"), LABELS, seed=1)

    assert model.config.pad_token_id == model.config.eos_token_id == 0
    assert model(torch.tensor([[3, 4, 0, 0], [3, 4, 5, 6]])).logits.shape == (2, 2)


def test_a_folder_is_loaded_with_the_labels_of_the_data(folder: Path) -> None:
    model = models.start(stored(), tokenizer(), ["no", "perhaps", "yes"], seed=1)

    assert model.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert model(torch.tensor([[2, 5, 3]])).logits.shape == (1, 3)


def test_a_trained_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    model = models.load(folder, "SequenceClassification")

    assert not model.training
    assert model.config.id2label == {0: "bad", 1: "good"}


def test_the_window_of_a_model_is_that_which_its_configuration_told_when_the_data_was_prepared(
    folder: Path,
) -> None:
    for config in (RobertaConfig(), BertConfig(), GPT2Config(n_positions=64)):
        config.save_pretrained(folder)

        assert models.window(config) == model_config(stored()).window
    assert models.window(RobertaConfig(max_position_embeddings=514)) == 512


def test_an_unknown_architecture_is_refused_as_it_is_when_data_is_prepared() -> None:
    with pytest.raises(Refusal) as first:
        model_config(architecture("gtp2"))

    assert vars(refused(architecture("gtp2"))) == vars(first.value)


def test_a_missing_folder_is_refused(folder: Path) -> None:
    refusal = refused(stored("pvc://models/other"))

    assert (refusal.class_, refusal.reason) == ("Model", "ModelMissing")
    assert "pvc://models/other" in refusal.message


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()

    assert refused(stored()).message == "pvc://models/tiny is no model: it holds no config.json."


def test_a_compressed_model_is_told_from_a_folder_that_lacks_its_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.onnx")

    refusal = refused(stored())

    assert (refusal.reason, refusal.message) == (
        "FormatUnfit",
        "pvc://models/tiny is a compressed model, model.onnx, and safetensors weights are read here.",
    )


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    refusal = refused(stored())

    assert refusal.reason == "PickledWeights"
    assert "only pytorch_model.bin, which can run code" in refusal.message


def test_weights_that_are_cut_short_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])

    assert refused(stored()).reason == "ModelUnreadable"


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))

    refusal = refused(stored())

    assert refusal.reason == "WeightsMissing"
    assert "bert.encoder.layer.0.intermediate.dense.weight" in refusal.evidence


def test_a_model_without_a_class_for_the_task_is_refused(folder: Path) -> None:
    assert refused(architecture("gpt2", task="MaskedLM")).reason == "WrongArchitecture"
    assert refused(architecture("gpt2", task="BertPreTraining")).reason == "WrongArchitecture"


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(folder: Path) -> None:
    words = tokenizer()
    words.add_tokens([f"more-{i}" for i in range(10)])

    refusal = refused(stored(), words)

    assert (refusal.class_, refusal.reason) == ("Model", "TokenizerMismatch")
    assert f"knows {len(words)} tokens, and the model has embeddings for {len(words) - 10}" in refusal.message


def trainable(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_a_frozen_encoder_leaves_the_head(folder: Path) -> None:
    model = models.start(stored(freeze="Encoder"), tokenizer(), LABELS, seed=1)

    assert trainable(model) == {"classifier.weight", "classifier.bias"}


def test_frozen_embeddings_leave_the_layers(folder: Path) -> None:
    model = models.start(stored(freeze="Embeddings"), tokenizer(), LABELS, seed=1)

    assert not any("embeddings" in name for name in trainable(model))
    assert "bert.encoder.layer.0.attention.self.query.weight" in trainable(model)


def test_freezing_all_there_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    spec = architecture("gpt2", task="CausalLM")
    models.start(spec, tokenizer("gpt2"), [], seed=1).save_pretrained(tmp_path / "models" / "tiny")

    refusal = refused(stored(task="CausalLM", freeze="Encoder"), tokenizer("gpt2"))

    assert (refusal.class_, refusal.reason) == ("Settings", "NothingToTrain")


def test_token_types_are_read_only_by_a_model_that_has_several() -> None:
    bert = models.start(architecture("bert"), tokenizer(), LABELS, seed=1)
    gpt2 = models.start(architecture("gpt2", task="CausalLM"), tokenizer("gpt2"), [], seed=1)

    assert models.inputs(bert) == {"input_ids", "attention_mask", "token_type_ids"}
    assert models.inputs(gpt2) == {"input_ids", "attention_mask"}


def test_a_model_that_is_gone_is_named_as_its_owner_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))

    with pytest.raises(Refusal) as refusal:
        models.load(tmp_path / "models" / "gone", "SequenceClassification")

    assert refusal.value.message == "pvc://models/gone is no model: there is no such folder."
