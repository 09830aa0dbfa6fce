"""FP8: weights in eight-bit floats (e4m3) by output channel, activations as they come, for serving on GPUs.

The folder is the layout of `compressed-tensors`, scheme FP8_DYNAMIC, which vLLM and transformers read. It needs no
data: a scale maps the largest weight of its channel to the largest such float (the format: arXiv 2209.05433).
transformers has no arithmetic for them: it makes the weights fp32 again when it loads them, and rounds what flows
between the layers as vLLM would, on a processor and on a GPU alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from lmops.api.compression import Quantize
from lmops.api.compressionreport import Change
from lmops_compressor.methods import Subject, Tell, quantizable, unchanged
from lmops_compressor.rows import Draw
from lmops_trainer.failures import Refusal

STORED = "F8_E4M3"
"""What safetensors calls such a weight."""
NOTE = (
    "transformers computes FP8 as wider floats, on a GPU too: the latency, memory and energy measured here say nothing "
    "of a server that multiplies it, as vLLM does."
)


def quantize(subject: Subject, how: Quantize, draw: Draw, target: Path, tell: Tell) -> Change:
    """Writes `model.safetensors` and `config.json`; the model itself becomes what is written."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import apply_quantization_config

    step = f"{how.method} {how.weight_bits:g} bit"
    chosen = quantizable(subject.model, how)
    _is_linear(subject.model, chosen)
    apply_quantization_config(subject.model, _settings(subject.model, chosen))
    for module in chosen.values():
        _scale(module)
    tell(0.3)
    compressor = ModelCompressor.from_pretrained_model(subject.model)
    compressor.compress_model(subject.model)
    tell(0.6)
    subject.model.save_pretrained(target)
    compressor.update_config(str(target))
    found = stored(target)
    if found != len(chosen):
        raise unchanged(step, len(chosen), found)
    tell(1)
    return Change(
        step=step,
        layers=found,
        detail=f"e4m3 weights in {found} linear layers, a scale by output channel; what else there is stays as it was",
    )


def stored(folder: Path) -> int:
    """How many weights of a folder are such floats."""
    found = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(".weight")]  # noqa: SIM118  # it is no dict
            found += sum(tensors.get_slice(name).get_dtype() == STORED for name in names)
    return found


def _is_linear(model: PreTrainedModel, chosen: dict[str, nn.Module]) -> None:
    """GPT-2's layers lie the other way round: transformers would read them as if there were no scales, and vLLM turns
    weights without a word of their scales."""
    if any(not isinstance(module, nn.Linear) for module in chosen.values()):
        raise Refusal(
            "Model",
            "NotServedInFP8",
            f"{type(model).__name__} has Conv1D layers, for which the layout of FP8 models has no place.",
            "Take WeightOnly or Dynamic for this architecture.",
        )


def _settings(model: PreTrainedModel, chosen: dict[str, nn.Module]) -> object:
    """All linear layers but those that stay, which are named: that is how the layout says it."""
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    stays = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in chosen]
    return QuantizationConfig(config_groups={"group_0": preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])}, ignore=stays)


@torch.no_grad()
def _scale(module: Any) -> None:
    """The scale of each output channel: its largest weight is the largest float there is."""
    from compressed_tensors.quantization.utils import calculate_qparams

    low, high = torch.aminmax(module.weight, dim=1, keepdim=True)
    scale, _ = calculate_qparams(low, high, module.quantization_scheme.weights)
    module.weight_scale.copy_(scale)
