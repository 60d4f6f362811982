"""The rule by which the model with the lowest error is chosen, if errors of a recalibration are uncertain.

A recalibration measures the errors on a few minutes. They are so uncertain that the lowest of many errors is often low
by chance. So a model counts as equally good if the difference to the lowest error is within one standard error of the
difference. A similar rule is the one-standard-error rule (Breiman, Friedman, Olshen and Stone, "Classification and
Regression Trees", 1984). Of equally good models, the rule chooses the model whose trainer had the lowest error before
the recalibration. That error was measured on far more data.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray


def least_error(errors: FloatArray, standard_errors: FloatArray, earlier: FloatArray) -> tuple[int, bool]:
    """Return the index of the chosen model, and whether the error before a recalibration decided the choice.

    `errors` are the models' errors in watts, `standard_errors` their standard errors, and `earlier` the errors before
    the recalibration, all of shape (models,). Unknown values are NaN: models that were not recalibrated have no
    standard error.
    """
    order = np.argsort(unknown_last(errors), kind="stable")
    lowest = order[0]
    before = unknown_last(earlier)
    within = np.hypot(standard_errors, standard_errors[lowest])
    equal = [at for at in order if errors[at] - errors[lowest] <= within[at]]
    chosen = min(equal, key=lambda at: before[at], default=lowest)
    decided = bool(before[chosen] < before[lowest])
    return int(chosen if decided else lowest), decided


def unknown_last(error: FloatArray) -> FloatArray:
    """Return errors with infinity in place of NaN, so that unknown errors sort last."""
    return np.where(np.isnan(error), np.inf, error)
