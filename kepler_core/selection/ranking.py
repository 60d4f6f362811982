"""Rank models by their errors.

Models that were validated on the same data are compared by their errors. If the models were validated on
several data sets, the best model of each data set is a candidate, and the candidates are compared by their
relative errors. A relative error is a model's mae, divided by the mae of always predicting the median power. The
candidates are compared by their errors if the relative error of any candidate is unknown, or if models are
ranked by another score than the mae.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kepler_core.arrays import FloatArray, IndexArray
from kepler_core.selection.scores import ScoreTable


class Ranking(NamedTuple):
    """The two best of the compared models."""

    best: int
    """Row of the best model."""
    runner_up: int | None
    compared_by: str
    """How the errors were compared, as a text for the explanation."""


def rank_by_error(rows: IndexArray, error: FloatArray, error_key: str, scores: ScoreTable) -> Ranking:
    """Return the two best of the models in `rows`. `error` contains the score `error_key` of all models."""
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
            compared_by = "mae on unlike data, divided by the mae of a model that always predicts the median"
            return Ranking(int(rows[ranked[0]]), int(rows[ranked[1]]), compared_by)
    return Ranking(int(rows[order[0]]), int(rows[order[1]]) if len(rows) > 1 else None, compared_by)


def unknown_last(error: FloatArray) -> FloatArray:
    """Return errors with infinity in place of NaN, so that unknown errors sort last."""
    return np.where(np.isnan(error), np.inf, error)
