"""The scaling of features for trainers that compare rows by their distance."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

from kepler_core.arrays import BoolArray, FloatArray

LEAST_RANGE = 0.01
"""A feature whose values differ by at most this fraction of the feature's scale counts as constant.

The exporter reads a counter some time before Prometheus scrapes it. This delay varies by about 30 ms, which is a
hundredth of the usual scrape interval, 3 s. So even the rate of a counter that rises steadily varies by a hundredth.
Smaller differences of a feature do not tell two states of the machine apart.
"""


def varying(X: FloatArray) -> BoolArray:
    """Return which columns of X are not constant, shape (features,).

    X has the scaled features, shape (samples, features).
    """
    return np.asarray(np.ptp(X, axis=0) > LEAST_RANGE)


def standardiser(X: FloatArray) -> StandardScaler:
    """Return a scaler that gives varying columns of X the mean 0 and the variance 1, and constant columns the value 0.

    `StandardScaler` alone divides a column by its standard deviation, however small that is. So rounding
    errors in a constant column, or its first change after the training, would weigh as much as the load.
    """
    scaler = StandardScaler().fit(X)
    # A feature that was constant in training is divided by infinity. So each of its values becomes 0, even a value that
    # did not occur in training.
    scaler.scale_ = np.where(varying(X), scaler.scale_, np.inf)
    return scaler
