"""Text that goes on: many texts are written at once, a token each in every step, and each by its own rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Ask:
    """One text to write, and how."""

    prompt: list[int]
    new: int
    """The most tokens to write."""
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    top_k: int
    """0 is all."""
    seed: tuple[int, ...]
    """The same seed gives the same text, whatever else is written beside it."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    """What is added to the scores of tokens."""
    logprobs: int | None = None
    """Of how many of the likeliest tokens the logarithm of the probability is told, at each place."""
    ignore_end: bool = False
    """Whether to go on where the model would end."""


@dataclass(frozen=True)
class Scored:
    """A token, and how probable it was: by the model alone, before temperature and penalties."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Piece:
    """What a step has added to a text."""

    text: str
    """Whole characters that no stop word can take back; often empty."""
    tokens: int
    """Tokens that were written so far."""
    scored: list[Scored] = field(default_factory=list)
    """The tokens of this step, where they were asked for."""
    finish: Finish | None = None
    """Why it is the last."""
