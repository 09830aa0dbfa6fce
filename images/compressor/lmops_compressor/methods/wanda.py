"""Wanda: in each row those weights go that, times the norm of their input, are least (arXiv 2306.11695)."""

from __future__ import annotations

from lmops.api.compression import Prune
from lmops.api.compressionreport import Change
from lmops_compressor.methods import Subject, Tell, masks
from lmops_compressor.methods.activations import Norms, through
from lmops_compressor.rows import Draw


def prune(subject: Subject, how: Prune, draw: Draw, tell: Tell) -> Change:
    """Sets weights to zero in place, block by block: later blocks are judged by what the pruned ones put out."""
    layers = masks.prunable(subject.model, how)
    before = masks.zeros(layers)
    for name, seen in through(subject, draw(), layers, Norms, tell):
        weight = masks.matrix(layers[name])
        weight[masks.lowest(weight.abs() * seen.norms, how, by_row=True)] = 0
    return masks.counted(how, layers, before)
