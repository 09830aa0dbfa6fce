"""What the processes of a run tell each other besides gradients: small numbers, over a channel of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """The processes of this run. Their channel is gloo, also where gradients go by NCCL: it waits for no GPU."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._group: Any = None
        if self.count == 1:  # torch's wrapper for many processes would only cost time
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)

    def connect(self) -> None:
        """Opens the channel, once torch's process group is up; every process does so at the same point."""
        if self.count > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest value of any process, at each place."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes, at each place."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def gathered(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def of_first(self, look: Callable[[], Any]) -> Any:
        """What the first process sees, for all: a volume on the network may show each of them something else."""
        return self.gathered(look() if self.is_first else None)[0]

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=operation, group=self._group)
        reduced: list[float] = tensor.tolist()
        return reduced
