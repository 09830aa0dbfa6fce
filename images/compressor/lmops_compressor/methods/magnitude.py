"""Magnitude: the smallest weights of a layer go, or those of each group. No calibration row is looked at."""

from __future__ import annotations

from lmops.api.compression import Prune
from lmops.api.compressionreport import Change
from lmops_compressor.methods import Subject, Tell, masks
from lmops_compressor.rows import Draw


def prune(subject: Subject, how: Prune, draw: Draw, tell: Tell) -> Change:
    """Sets weights to zero in place, layer by layer."""
    layers = masks.prunable(subject.model, how)
    before = masks.zeros(layers)
    for number, layer in enumerate(layers.values()):
        weight = masks.matrix(layer)
        weight[masks.lowest(weight.abs(), how, by_row=False)] = 0
        tell((number + 1) / len(layers))
    return masks.counted(how, layers, before)
