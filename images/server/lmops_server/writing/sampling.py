"""The next token of each text: the likeliest, or drawn from the likeliest by a generator of the text's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from lmops_server.writing import Ask, Scored

FEW = 1024
"""Up to this many candidates are picked out; where more are allowed, all tokens are sorted."""


class Dice:
    """What one text draws its tokens with."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.written: Counter[int] = Counter()
        self._random = np.random.default_rng(ask.seed)
        self._biased, self._bias = torch.tensor([*ask.bias], dtype=torch.int64), torch.tensor([*ask.bias.values()])

    @property
    def adjusts(self) -> bool:
        """Whether scores are changed before a token is drawn."""
        ask = self.ask
        return bool(ask.bias or (self.written and (ask.frequency_penalty or ask.presence_penalty)))

    def adjusted(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores with bias and penalties, as OpenAI defines them."""
        scores, ask = scores.clone(), self.ask
        scores[self._biased.to(scores.device)] += self._bias.to(scores)
        if self.written and (ask.frequency_penalty or ask.presence_penalty):
            tokens, counts = (torch.tensor([*each]) for each in (self.written.keys(), self.written.values()))
            scores[tokens.to(scores.device)] -= (counts * ask.frequency_penalty + ask.presence_penalty).to(scores)
        return scores

    def throw(self) -> float:
        """A number in 0..1."""
        return float(self._random.random())


def drawn(scores: torch.Tensor, dice: Sequence[Dice]) -> list[Scored]:
    """A token for each row of scores ([rows, vocabulary], float32)."""
    plain = scores
    if any(one.adjusts for one in dice):
        scores = torch.stack([one.adjusted(row) if one.adjusts else row for row, one in zip(scores, dice, strict=True)])
    tokens = scores.argmax(-1).tolist()
    free = [row for row, one in enumerate(dice) if one.ask.temperature > 0 and one.ask.top_k != 1]
    for rows, count in _alike(free, dice, scores.shape[-1]):
        for row, token in zip(rows, _sampled(scores[rows], [dice[row] for row in rows], count), strict=True):
            tokens[row] = token
    for one, token in zip(dice, tokens, strict=True):
        one.written[token] += 1
    return _scored(plain, tokens, dice)


def _alike(free: list[int], dice: Sequence[Dice], vocabulary: int) -> list[tuple[list[int], int]]:
    """Rows that need few candidates, and rows that need all; with how many."""
    wanted = {row: dice[row].ask.top_k or vocabulary for row in free}
    few = [row for row in free if wanted[row] <= FEW]
    many = [row for row in free if wanted[row] > FEW]
    groups = [(few, min(vocabulary, max((wanted[row] for row in few), default=0))), (many, vocabulary)]
    return [(rows, count) for rows, count in groups if rows]


def _sampled(scores: torch.Tensor, dice: Sequence[Dice], count: int) -> list[int]:
    """Temperature, then top-k, then top-p, as transformers has them."""
    best = scores.topk(count, sorted=True)
    values = best.values.double().cpu().numpy()
    values = values / np.asarray([[one.ask.temperature] for one in dice])
    places = np.arange(count)
    allowed = np.asarray([[one.ask.top_k or count] for one in dice])
    chances = np.where(places < allowed, np.exp(values - values[:, :1]), 0.0)
    chances /= chances.sum(-1, keepdims=True)
    before = chances.cumsum(-1) - chances
    kept = np.where(before < np.asarray([[one.ask.top_p] for one in dice]), chances, 0.0)
    reached = kept.cumsum(-1)
    thrown = np.asarray([[one.throw()] for one in dice]) * reached[:, -1:]
    chosen = np.minimum((reached <= thrown).sum(-1), (kept > 0).sum(-1) - 1)
    return best.indices.cpu().numpy()[np.arange(len(dice)), chosen].tolist()  # type: ignore[no-any-return]


def _scored(scores: torch.Tensor, tokens: Sequence[int], dice: Sequence[Dice]) -> list[Scored]:
    """With probabilities where they are asked for: to make them costs a pass over the vocabulary."""
    found = [Scored(token, 0.0, []) for token in tokens]
    asked = [row for row, one in enumerate(dice) if one.ask.logprobs is not None]
    if not asked:
        return found
    logarithms = scores[asked].double().log_softmax(-1)
    for place, row in enumerate(asked):
        best = logarithms[place].topk(min(dice[row].ask.logprobs or 0, logarithms.shape[-1]))
        top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        found[row] = Scored(tokens[row], float(logarithms[place, tokens[row]]), top)
    return found
