"""Which rows are held out: drawn by the seed, in the proportions and groups that were asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lmops_trainer.failures import Refusal

Indices = NDArray[np.int64]
FOLDS = 20


@dataclass(frozen=True)
class Values:
    """A column of the rows: a number for each, and the names that the numbers stand for."""

    ids: NDArray[np.int32]
    names: Sequence[str]


def hold_out(
    rows: Indices, rows_held: int, seed: int, strata: Values | None, groups: Values | None, where: str
) -> tuple[Indices, Indices]:
    """Draws `rows_held` of the rows, about so many where groups stay whole; returns the rest and those held out."""
    if rows_held < 1 or rows_held >= len(rows):
        raise _impossible(where, rows_held, len(rows), "leaves a split empty")
    if groups is not None:
        held = _grouped(rows, rows_held, seed, strata, groups, where)
    elif strata is not None:
        held = _stratified(rows, rows_held, seed, strata, where)
    else:
        held = np.random.default_rng(seed).permutation(len(rows))[:rows_held]
    mask = np.zeros(len(rows), bool)
    mask[held] = True
    if mask.all() or not mask.any():
        raise _impossible(where, int(mask.sum()), len(rows), "leaves a split empty")
    return rows[~mask], rows[mask]


def share(fraction: float, rows: int) -> int:
    """How many rows a fraction of them is: rounded up, as scikit-learn does."""
    return math.ceil(round(fraction * rows, 6))


def _stratified(rows: Indices, rows_held: int, seed: int, strata: Values, where: str) -> Indices:
    from sklearn.model_selection import StratifiedShuffleSplit

    ids = strata.ids[rows]
    present, counts = np.unique(ids, return_counts=True)
    if counts.min() < 2:
        alone = strata.names[int(present[counts.argmin()])]
        raise Refusal(
            "Data",
            "ClassTooSmall",
            f"{where} cannot keep the proportions of {alone!r}: it has one row, and both parts need one.",
            f"Add rows of {alone!r} or take it out, or stratify by another column.",
        )
    if min(rows_held, len(rows) - rows_held) < len(present):
        raise _impossible(where, rows_held, len(rows), f"cannot hold a row of each of {len(present)} classes")
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=rows_held, random_state=seed)
    held: Indices = next(splitter.split(np.zeros(len(rows)), ids))[1]
    return held


def _grouped(rows: Indices, rows_held: int, seed: int, strata: Values | None, groups: Values, where: str) -> Indices:
    """Whole groups: of K folds, as many as come nearest to the fraction."""
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    ids = groups.ids[rows]
    number = len(np.unique(ids))
    if number < 2:
        raise Refusal(
            "Data",
            "GroupsTooFew",
            f"{where} cannot be grouped: all rows have the same value in the column of groupBy.",
            "Group by another column, or leave groupBy out.",
        )
    fraction = rows_held / len(rows)
    if strata is None:
        some = min(share(fraction, number), number - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=some, random_state=seed)
        held: Indices = next(splitter.split(np.zeros(len(rows)), groups=ids))[1]
        return held
    near = Fraction(fraction).limit_denominator(min(FOLDS, number))
    folds = max(2, near.denominator)
    taken = min(max(1, near.numerator), folds - 1)
    by_label = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class smaller than the folds is fine: nobody trains on these folds
        warnings.simplefilter("ignore", UserWarning)
        try:
            parts = [part for _, part in by_label.split(np.zeros(len(rows)), strata.ids[rows], ids)]
        except ValueError as error:
            raise _impossible(where, rows_held, len(rows), "leaves too few rows of a class for its groups") from error
    return np.concatenate(parts[:taken])


def _impossible(where: str, rows_held: int, rows: int, why: str) -> Refusal:
    one = " In a text file a row of a language model is a document, which a blank line ends." if rows == 1 else ""
    return Refusal(
        "Data",
        "FractionImpossible",
        f"{where} {why}: it would take {rows_held} of {rows} rows.",
        f"Change the fraction of {where}, or bring more rows.{one}",
    )
