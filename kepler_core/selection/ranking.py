"""Rank models by their errors.

Errors measured on the same data are compared directly. Errors measured on different data are not
comparable: there, the best model of each data set competes with its error divided by the error of
always predicting the mean, if that is known for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kepler_core.arrays import FloatArray, IndexArray
from kepler_core.selection.scores import ScoreTable


class Ranking(NamedTuple):
    """The two best models of a set."""

    best: int
    """Row of the model with the lowest error."""
    runner_up: int | None
    compared_by: str
    """How the errors were compared, for the explanation."""


def rank_by_error(rows: IndexArray, error: FloatArray, error_key: str, scores: ScoreTable) -> Ranking:
    """Return the two best of the models in `rows`. `error` is the column `error_key` of all models."""
    order = np.argsort(unknown_last(error[rows]), kind="stable")
    data = scores.measured_on[rows]
    if len(rows) == 1 or (data == data[0]).all():
        compared_by = f"{error_key} on the same data" if len(rows) > 1 else "the only one left"
    elif error_key != "mae":
        compared_by = f"{error_key} on unlike data"
    else:
        winners = order[np.sort(np.unique(data[order], return_index=True)[1])]
        relative = scores.relative_mae[rows[winners]]
        if np.isnan(relative).any():
            compared_by = "mae on unlike data, whose difficulty is not known"
        else:
            ranked = winners[np.argsort(relative, kind="stable")]
            compared_by = "mae on unlike data, each relative to that of always answering the mean"
            return Ranking(int(rows[ranked[0]]), int(rows[ranked[1]]), compared_by)
    return Ranking(int(rows[order[0]]), int(rows[order[1]]) if len(rows) > 1 else None, compared_by)


def unknown_last(error: FloatArray) -> FloatArray:
    """Return errors with infinity in place of NaN, so that unknown errors sort last."""
    return np.where(np.isnan(error), np.inf, error)
