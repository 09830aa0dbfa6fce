"""Runs safetensors with transformers, on the processor or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lmops_compressor.runners import Array
from lmops_trainer import models


def weights(model: torch.nn.Module) -> tuple[int, int]:
    """How many there are, and those that are not zero; shared ones count once."""
    found = list(model.parameters())
    return sum(weight.numel() for weight in found), sum(int(weight.count_nonzero()) for weight in found)


class TorchRunner:
    """A model of transformers."""

    def __init__(
        self, folder: Path, task: str, threads: int, trust_remote_code: bool = False, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(threads)
        self.model = models.load(folder, task, trust_remote_code=trust_remote_code)
        self.model.to(device)  # type: ignore[arg-type]
        self._inputs = models.inputs(self.model)

    @torch.inference_mode()
    def logits(self, batch: Mapping[str, Array]) -> Array:
        """The scores of a batch: when they are here, a GPU has done its work."""
        here = {name: torch.from_numpy(values) for name, values in batch.items() if name in self._inputs}
        scores = self.model(**{name: values.to(self.model.device) for name, values in here.items()})["logits"]
        return scores.float().cpu().numpy()  # type: ignore[no-any-return]
