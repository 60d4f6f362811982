"""Regimes: groups of samples in which a machine does the same kind of work.

If a model is validated on blocks of time, its training data contain the same work as the test samples, only a few
minutes earlier or later. The error on held-out regimes shows how wrong the model is for work that is not in its
training data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.honesty.ratios import Ratio, ratios

MIN_REGIME_SAMPLES = 15
"""Minimum mean number of samples per regime. A smaller data set is divided into fewer regimes."""

_LOGARITHMIC = ("cpu_cycles", "cpu_instructions", "bpf_cpu_time_ms")
"""Features that measure the amount of work. Of these features, the clustering into regimes uses the first that a data
set has, on a logarithmic scale."""


def regimes(features: Sequence[str], X: FloatArray, seed: int, most: int) -> IntArray | None:
    """Return the regime of each sample, shape (samples,); None if the samples cannot be divided into two regimes.

    There are at most `most` regimes. `X` holds the features of whole nodes in their own units, shape (samples,
    features). The regimes are clusters (k-means) of standardised quantities: instructions per cycle, cache misses per
    instruction, cycles per CPU time and the amount of work, as far as the features allow. If the features allow none
    of these quantities, the logarithms of all features are used instead.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = min(most, len(X) // MIN_REGIME_SAMPLES)
    described = _standardised(_descriptions(features, X))
    if count < 2 or described.shape[1] == 0:
        return None
    count = min(count, len(np.unique(described, axis=0)))
    if count < 2:
        return None
    # With several threads, k-means takes longer for so few samples: the threads wait for each other in each iteration.
    # With one thread, sums are also added up in the same order on every machine.
    with threadpool_limits(1):
        labels = KMeans(count, n_init=10, random_state=seed).fit_predict(described)
    return np.asarray(labels, dtype=np.int64)


def _descriptions(features: Sequence[str], X: FloatArray) -> FloatArray:
    """Return the quantities that describe the kind of work in each sample, shape (samples, quantities)."""
    columns: Mapping[str, FloatArray] = dict(zip(features, X.T, strict=True))
    quantities = [_SCALES[ratio](values) for ratio, values in ratios(columns).items()]
    work = next((columns[name] for name in _LOGARITHMIC if name in columns), None)
    if work is not None:
        quantities.append(_log(work))
    elif not quantities:
        quantities = [_log(values) for values in columns.values()]
    return np.column_stack(quantities) if quantities else np.empty((len(X), 0))


def _log(values: FloatArray) -> FloatArray:
    """Return logarithms of values that may be 0.

    The lower limit of the values is a millionth of the highest absolute value. Lower values are replaced by this limit.
    """
    floor = float(np.abs(values).max(initial=0.0)) * 1e-6
    return np.log(np.maximum(values, floor)) if floor > 0 else np.zeros(len(values))


_SCALES: Mapping[Ratio, Callable[[FloatArray], FloatArray]] = {
    "instructions_per_cycle": lambda values: values,
    "misses_per_instruction": _log,
    "cycles_per_cpu_ms": lambda values: values,
}
"""How the values of a ratio are scaled before they are compared. Misses per instruction span several powers of ten, so
their logarithms are compared."""


def _standardised(quantities: FloatArray) -> FloatArray:
    """Leave out constant columns, and scale all other columns to mean 0 and standard deviation 1."""
    spread = quantities.std(axis=0)
    varying = spread > 1e-12
    return np.asarray((quantities[:, varying] - quantities[:, varying].mean(axis=0)) / spread[varying])
