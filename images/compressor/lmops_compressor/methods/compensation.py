"""Which inputs of a layer go, whole groups of them, and how those that stay make up for them.

They go a few at a time: those whose loss costs least when the others are fitted anew to what the layer put out on the
calibration rows (ZipLM, arXiv 2302.04089).
"""

from __future__ import annotations

import torch

from lmops_compressor.methods.activations import Gram, damping

ROUNDS = 64
"""Groups go in so many rounds; after each, those that stay are fitted anew."""


def without(
    weight: torch.Tensor, bias: torch.Tensor, seen: Gram, width: int, count: int
) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Takes `count` groups of `width` inputs out of a layer of weights [outputs, inputs].

    Returns the groups that stay, and the weights, [outputs, inputs that stay], and biases with which they come closest
    to what the layer put out on the inputs that were seen.
    """
    inverse = _inverse(seen)
    solved = torch.cat([weight, bias[:, None]], dim=1).double()  # the bias is one more input, which is always 1
    number = weight.shape[1] // width
    here = torch.ones(number, dtype=torch.bool, device=weight.device)
    while (left := count - int((~here).sum())) > 0:
        costs = _costs(solved, inverse, here, width)
        leave = costs.topk(min(left, max(1, count // ROUNDS)), largest=False).indices
        columns = places(leave.tolist(), width)
        shift = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
        solved -= solved[:, columns] @ shift
        inverse -= inverse[:, columns] @ shift
        here[leave] = False
    stay = here.repeat_interleave(width)
    return here.nonzero().flatten().tolist(), solved[:, :-1][:, stay].float(), solved[:, -1].float()


def places(groups: list[int], width: int) -> torch.Tensor:
    """The inputs of some groups."""
    return (torch.tensor(groups)[:, None] * width + torch.arange(width)).flatten()


def _inverse(seen: Gram) -> torch.Tensor:
    """The inverse Hessian, with one more input that is always 1."""
    width = len(seen.sums)
    hessian = torch.empty(width + 1, width + 1, dtype=torch.float64, device=seen.products.device)
    hessian[:-1, :-1], hessian[:-1, -1], hessian[-1, :-1], hessian[-1, -1] = (
        seen.products,
        seen.sums,
        seen.sums,
        seen.tokens,
    )
    hessian.diagonal()[:-1] += damping(seen.products)
    hessian = torch.linalg.cholesky(hessian)
    return torch.cholesky_inverse(hessian)


def _costs(solved: torch.Tensor, inverse: torch.Tensor, here: torch.Tensor, width: int) -> torch.Tensor:
    """What it costs to take out each group, [groups]; those that are gone cost more than can be paid."""
    number = len(here)
    inputs = torch.arange(number * width, device=inverse.device).view(number, width)
    squares = inverse[inputs[:, :, None], inputs[:, None, :]]
    squares[~here] = torch.eye(width, dtype=squares.dtype, device=squares.device)
    groups = solved[:, :-1].view(-1, number, width).transpose(0, 1)
    costs: torch.Tensor = (torch.linalg.solve(squares, groups.transpose(1, 2)) * groups.transpose(1, 2)).sum(dim=(1, 2))
    return costs.masked_fill(~here, torch.inf)
