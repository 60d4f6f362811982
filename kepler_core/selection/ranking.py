"""Rank models by their errors on the hardest split that was measured.

A training measures a model's mae on several splits: blocks of time, regimes (kinds of work), recordings and nodes (see
`kepler_core.honesty`). Models are compared by their mae on the hardest part of the hardest split, e.g. on the kind of
work that is most unlike the rest of the training. A mean over all parts would hide such an error. If a split was not
measured for one of the compared models, the split is not used. Otherwise a model could be preferred because its errors
on hard splits were not measured. Models without measured splits are compared by their mae.

The errors of recalibrated models are so uncertain that models with nearly equal errors count as equally good
(`kepler_core.honesty.least_error`).

Models that were validated on the same data are compared by their errors. If the models were validated on several data
sets, the best model of each data set is a candidate. The candidates are compared by their relative errors. A relative
error is a model's error, divided by the mae of always predicting the median power. The candidates are compared by their
errors if the relative error of any candidate is unknown, or if models are ranked by another score than the mae.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kepler_core.arrays import FloatArray, IndexArray
from kepler_core.honesty.document import SPLIT_NAMES
from kepler_core.honesty.least_error import least_error, unknown_last
from kepler_core.selection.scores import ScoreTable

CLOSE = 1.05
"""A model with a twin is preferred to the best model if its error is at most this multiple of the lowest error. The
twin shows when the model meets work that it does not know."""


class Ranking(NamedTuple):
    """The two best of the compared models."""

    best: int
    """Row of the best model."""
    runner_up: int | None
    compared_by: str
    """How the errors were compared, as a text for the explanation."""


def rank_by_error(rows: IndexArray, error: FloatArray, error_key: str, scores: ScoreTable) -> Ranking:
    """Return the two best of the models in `rows`. `error` has the score `error_key` of each model in the catalogue."""
    errors, measured = _hardest(rows, scores) if error_key == "mae" else (error[rows], error_key)
    order = np.argsort(unknown_last(errors), kind="stable")
    data = scores.measured_on[rows]
    if len(rows) == 1 or (data == data[0]).all():
        compared_by = f"{measured} on the same data" if len(rows) > 1 else "the only one left"
        if error_key == "mae" and len(rows) > 1:
            order, reason = _preferring_earlier(rows, order, errors, scores)
            compared_by += reason
            order, reason = _preferring_twins(rows, order, errors, scores)
            compared_by += reason
    elif error_key != "mae":
        compared_by = f"{error_key} on unlike data"
    else:
        winners = order[np.sort(np.unique(data[order], return_index=True)[1])]
        relative = scores.relative_mae[rows[winners]] * errors[winners] / error[rows[winners]]
        if np.isnan(relative).any():
            compared_by = f"{measured} on unlike data, whose difficulty is not known"
        else:
            ranked = winners[np.argsort(relative, kind="stable")]
            compared_by = f"{measured} on unlike data, divided by the mae of a model that always predicts the median"
            return Ranking(int(rows[ranked[0]]), int(rows[ranked[1]]), compared_by)
    return Ranking(int(rows[order[0]]), int(rows[order[1]]) if len(rows) > 1 else None, compared_by)


def _hardest(rows: IndexArray, scores: ScoreTable) -> tuple[FloatArray, str]:
    """Return each model's error on the hardest part of its hardest split, and a name for these errors.

    Only splits that were measured for all models are considered. The name contains the hardest split of the best model.
    """
    columns = {name: scores.column(f"{name}_worst")[rows] for name in SPLIT_NAMES}
    measured = {name: values for name, values in columns.items() if not np.isnan(values).any()}
    if not measured:
        return scores.column("mae")[rows], "mae"
    names, table = list(measured), np.array(list(measured.values()))
    hardest = table.max(axis=0)
    deciding = names[int(table[:, int(hardest.argmin())].argmax())]
    return hardest, f"mae on the hardest of the held-out {deciding}, the hardest split that was measured,"


def _preferring_earlier(
    rows: IndexArray, order: IndexArray, errors: FloatArray, scores: ScoreTable
) -> tuple[IndexArray, str]:
    """Return the order of the models, and a text that explains a change of the order.

    Models count as equally good as the first model if their errors are higher by at most a standard error. Of these
    models, the one with the lowest error before its recalibration is moved to the first place. If this is the first
    model itself, the order stays the same, and the text is empty.
    """
    chosen, decided = least_error(
        errors, scores.column("blocks_standard_error")[rows], scores.column("blocks_earlier")[rows]
    )
    if not decided:
        return order, ""
    return _with_first(order, chosen), (
        ", then by the error before the recalibration, because errors within a standard error count as equal"
    )


def _with_first(order: IndexArray, first: int) -> IndexArray:
    """Return the order with `first` moved to the first place."""
    return np.array([first, *(at for at in order if at != first)], dtype=np.intp)


def _preferring_twins(
    rows: IndexArray, order: IndexArray, errors: FloatArray, scores: ScoreTable
) -> tuple[IndexArray, str]:
    """Return the order of the models, and a text that explains a change of the order.

    If the best model has no twin, a model with a twin whose error is close to the lowest error comes first.
    """
    if scores.has_twin[rows[order[0]]]:
        return order, ""
    close = [at for at in order[1:] if scores.has_twin[rows[at]] and errors[at] <= CLOSE * errors[order[0]]]
    if not close:
        return order, ""
    return _with_first(order, close[0]), ", then by whether a twin checks the model"
