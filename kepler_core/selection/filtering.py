"""Apply the filter of a request to the models of a catalogue."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.errors import RequestError, close_matches
from kepler_core.honesty.least_error import unknown_last
from kepler_core.messages import quoted
from kepler_core.selection.columns import ModelColumns
from kepler_core.selection.explanation import Drop, no_model
from kepler_core.selection.filters import Filter


def check_filter(columns: ModelColumns, conditions: Filter) -> None:
    """Raise `RequestError` if the filter names an unknown score (see `ScoreTable.known_names`)."""
    for threshold in conditions.thresholds:
        if (key := threshold.key) not in columns.scores.known_names:
            close = close_matches(key[:60], columns.scores.known_names)
            raise RequestError("filter", f"unknown attribute {quoted(key)}; {close}")


def meets_filter(columns: ModelColumns, conditions: Filter, rows: IndexArray) -> BoolArray:
    """Return which of the models in `rows` meet all conditions of the filter, as a mask."""
    mask = np.ones(len(rows), dtype=bool)
    for threshold in conditions.thresholds:
        values = columns.scores.column(threshold.key)[rows]
        # The score of a model without this score is NaN. Comparisons with NaN are false, so the model is excluded.
        mask &= (values >= threshold.limit) if threshold.at_least else (values <= threshold.limit)
    if conditions.features is not None:
        sets = enumerate(columns.feature_sets.values)
        allowed = [code for code, needed in sets if needed <= conditions.features]
        mask &= columns.feature_sets.with_codes(allowed, rows)
    return mask


def apply_filter(
    columns: ModelColumns,
    conditions: Filter,
    rows: IndexArray,
    dropped: tuple[Drop, ...],
    error: FloatArray,
    error_key: str,
) -> tuple[IndexArray, Drop]:
    """Return the models of `rows` that meet the filter, and the number of models that the filter excludes.

    `error` has each model's score `error_key`, by which models are ranked. Raises `NoModelError` if no model meets the
    filter. The error message names the model in `rows` with the lowest error, and shows this model's scores.
    """
    mask = meets_filter(columns, conditions, rows)
    texts = [str(threshold) for threshold in conditions.thresholds]
    if conditions.features is not None:
        texts.append("only " + ", ".join(sorted(conditions.features)))
    drop = Drop("filter", int((~mask).sum()), f"not {' and '.join(texts)}")
    if not mask.any():
        nearest = int(rows[np.argmin(unknown_last(error[rows]))])
        model = columns.models[nearest]
        scores = [f"{t.key} {_score_text(columns, t.key, nearest)}" for t in conditions.thresholds]
        if conditions.features is not None:
            scores.append("features " + ", ".join(model.features))
        raise no_model(
            f"none of {len(rows)} models meets {' and '.join(texts)}; the one with the lowest "
            f"{error_key} is {model.pipeline}/{model.path} ({', '.join(scores)})",
            len(columns.models),
            (*dropped, drop),
        )
    return rows[mask], drop


def _score_text(columns: ModelColumns, name: str, row: int) -> str:
    value = columns.scores.column(name)[row]
    return "unknown" if np.isnan(value) else f"{value:g}"
