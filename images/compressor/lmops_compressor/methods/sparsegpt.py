"""SparseGPT: weights go where that costs least, and those that stay make up for them (arXiv 2301.00774)."""

from __future__ import annotations

from functools import partial

import torch

from lmops.api.compression import Prune
from lmops.api.compressionreport import Change
from lmops_compressor.methods import Subject, Tell, masks
from lmops_compressor.methods.activations import Gram, damping, through
from lmops_compressor.rows import Draw

COLUMNS = 128
"""Inputs whose errors are made up for together."""


def prune(subject: Subject, how: Prune, draw: Draw, tell: Tell) -> Change:
    """Prunes in place, block by block: later blocks are judged by what the pruned ones put out."""
    layers = masks.prunable(subject.model, how)
    before = masks.zeros(layers)
    for name, seen in through(subject, draw(), layers, Gram, tell):
        weight = masks.matrix(layers[name])
        weight.copy_(solved(weight, seen.products, how))
    return masks.counted(how, layers, before)


def solved(weight: torch.Tensor, products: torch.Tensor, how: Prune) -> torch.Tensor:
    """Sparse weights [outputs, inputs] whose outputs are close to those of `weight` on inputs of these products.

    From left to right: what a weight leaves behind when it goes is spread over the columns to its right.
    """
    found, factor = weight.clone(), _factor(products)
    width = COLUMNS
    if how.pattern:
        _, of = masks.groups(how.pattern)
        width = of * max(1, COLUMNS // of)  # a group does not lie in two blocks of columns
    for begin in range(0, weight.shape[1], width):
        end = min(begin + width, weight.shape[1])
        found[:, begin:end], errors = _block(found[:, begin:end].clone(), factor[begin:end, begin:end], how)
        found[:, end:] -= errors @ factor[begin:end, end:]
    return found


def _factor(products: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse Hessian: row i is the inverse over the inputs from i on, scaled."""
    hessian = products.double()
    hessian.diagonal().add_(damping(products))
    for turn in (torch.linalg.cholesky, torch.cholesky_inverse, partial(torch.linalg.cholesky, upper=True)):
        hessian = turn(hessian)  # one name for all: three of them at once are most of what a wide layer needs
    return hessian.float()


def _block(block: torch.Tensor, factor: torch.Tensor, how: Prune) -> tuple[torch.Tensor, torch.Tensor]:
    """Prunes some columns; the errors, [outputs, columns], are what the columns after them have to make up for."""
    scales, errors = factor.diagonal(), torch.zeros_like(block)
    of = masks.groups(how.pattern)[1] if how.pattern else block.shape[1]
    goes = torch.zeros_like(block, dtype=torch.bool)
    for i in range(block.shape[1]):
        if i % of == 0:  # a group is chosen when all before it has been made up for
            group = slice(i, i + of)
            goes[:, group] = masks.lowest((block[:, group] / scales[group]).square(), how, by_row=False)
        kept = block[:, i].masked_fill(goes[:, i], 0)
        errors[:, i] = (block[:, i] - kept) / scales[i]
        block[:, i:] -= torch.outer(errors[:, i], factor[i, i:])
        block[:, i] = kept
    return block, errors
