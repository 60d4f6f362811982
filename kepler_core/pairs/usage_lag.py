"""The lag of the CPU usage ratio in some releases of Kepler.

Kepler 0.10.0 to 0.11.4 calculates the power of a node before it reads /proc. So the usage ratio of a reading belongs to
the previous window, and the ratio of a window comes with the next reading.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray

FEWEST_WINDOWS = 10
"""If there are fewer windows, Kepler Core does not look for a lag of the usage ratio."""
CLEARLY = 0.7
"""The usage ratio lags by one window if a shift by one reading makes it fit the CPU seconds better. Its deviation must
then be less than this multiple of the deviation without the shift."""
LEAST_DEVIATION = 0.01
"""If the usage ratio deviates from the CPU seconds by at most this value, it is used without a correction."""


def usage_of_windows(ratios: FloatArray, shares: FloatArray) -> tuple[FloatArray, bool]:
    """Return the usage of each window, shape (windows,), and whether Kepler's usage ratio lags by one window.

    `ratios` are the usage ratios that were read at the end of each window. `shares` are the CPU seconds of all
    processes in each window, as a fraction of the seconds of all CPUs. Both have the shape (windows,). With a lag, the
    usage of the last window is unknown (NaN).
    """
    later = np.append(ratios[1:], np.nan)
    known = np.isfinite(ratios) & np.isfinite(later) & np.isfinite(shares)
    if known.sum() < FEWEST_WINDOWS:
        return ratios, False
    at_once, one_later = _deviation(ratios[known] - shares[known]), _deviation(later[known] - shares[known])
    lags = at_once > LEAST_DEVIATION and one_later < CLEARLY * at_once
    return (later, True) if lags else (ratios, False)


def _deviation(differences: FloatArray) -> float:
    """Return the mean absolute deviation from the median.

    The median is subtracted, because a constant difference is no lag: the CPU seconds of the processes lack the work of
    the kernel and of processes that ended.
    """
    return float(np.mean(np.abs(differences - np.median(differences))))
