"""Watches the loss of every step for values that are no numbers, without making an accelerator wait."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from lmops_trainer.failures import Refusal

REMEMBERED = 21


@dataclass(frozen=True)
class Seen:
    """Loss and gradient norm of one step."""

    step: int
    loss: float
    norm: float

    @property
    def line(self) -> str:
        """As a line of evidence."""
        norm = f" grad_norm {self.norm:.3g}" if math.isfinite(self.norm) else ""
        return f"step {self.step} loss {self.loss:.3g}{norm}"


class Watch:
    """The last steps. On the CPU a step is seen when it ends; an accelerator's values are copied, and seen later."""

    def __init__(self, on_cpu: bool) -> None:
        self.on_cpu = on_cpu
        self.diverged = False
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self._loss: Any = 0.0
        self._waiting: deque[tuple[int, torch.Tensor, Any]] = deque()

    def add_loss(self, loss: torch.Tensor) -> None:
        """The share of one micro-batch in the loss of the step."""
        self._loss = self._loss + (loss.item() if self.on_cpu else loss)

    def end_step(self, step: int, norm: Any) -> None:
        """The optimiser is about to step."""
        loss, self._loss = self._loss, 0.0
        if self.on_cpu:
            self._see(step, loss, float(norm))
            return
        values = torch.stack([loss.float(), torch.as_tensor(norm, device=loss.device).float()])
        copied = values.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._waiting.append((step, copied, event))
        while self._waiting and self._waiting[0][2].query():
            self._take()

    def settle(self) -> None:
        """Waits for what is still on its way: before a model is saved."""
        while self._waiting:
            self._waiting[0][2].synchronize()
            self._take()

    def refusal(self, epoch: float, remedy: str) -> Refusal:
        """The end of the run, in a sentence."""
        self.settle()
        bad = next((seen for seen in self.seen if not math.isfinite(seen.loss)), None)
        if bad is None:  # it was another process's
            message = f"The loss of another process became NaN (epoch {epoch:.2f})."
            return Refusal("Diverged", "LossNotFinite", message, remedy)
        before = [seen for seen in self.seen if seen.step < bad.step and math.isfinite(seen.norm)]
        what = "NaN" if math.isnan(bad.loss) else "infinite"
        message = f"The loss became {what} at step {bad.step} (epoch {epoch:.2f}){_rise(before)}."
        return Refusal("Diverged", "LossNotFinite", message, remedy, [seen.line for seen in [*before[-5:], bad]])

    def _take(self) -> None:
        step, values, _ = self._waiting.popleft()
        loss, norm = values.tolist()
        self._see(step, loss, norm)

    def _see(self, step: int, loss: float, norm: float) -> None:
        self.seen.append(Seen(step, loss, norm))
        self.diverged = self.diverged or not math.isfinite(loss)


def _rise(before: list[Seen]) -> str:
    if not before:
        return ""
    lowest, last = min(before, key=lambda seen: seen.norm), before[-1]
    if last.norm < 3 * lowest.norm:
        return f", with a gradient norm of {last.norm:.3g} one step before"
    steps = last.step - lowest.step
    return f", after the gradient norm rose from {lowest.norm:.3g} to {last.norm:.3g} in {steps} steps"


def not_finite(loss: float, step: int, remedy: str) -> Refusal:
    """The end of a run whose loss on the validation rows is no number."""
    what = "NaN" if math.isnan(loss) else "infinite"
    message = f"The loss on the validation rows became {what} at step {step}."
    return Refusal("Diverged", "LossNotFinite", message, remedy)
