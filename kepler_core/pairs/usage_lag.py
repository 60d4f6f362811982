"""The lag of the CPU usage ratio in some releases of Kepler.

Kepler 0.10.0 to 0.11.4 calculates the power of a node before it reads /proc. So the usage ratio of a reading belongs to
the previous window, and the ratio of a window comes with the next reading.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray

FEWEST_WINDOWS = 10
"""Minimum number of windows to look for a lag."""
CLEARLY = 0.7
"""The usage ratio lags if its deviation from the CPU seconds, compared one reading later, is less than this multiple of
its deviation without a shift."""
LEAST_DEVIATION = 0.01
"""If a usage ratio deviates from the CPU seconds by at most this value, its lag does not matter."""


def usage_of_windows(ratios: FloatArray, shares: FloatArray) -> tuple[FloatArray, bool]:
    """Return the usage of each window, shape (windows,), and whether the usage ratio lags by one window.

    `ratios` are the usage ratios that were read at the end of each window. `shares` are the CPU seconds of all
    processes in each window, divided by the seconds of all CPUs. Both have the shape (windows,). With a lag, the usage
    of the last window is unknown (NaN).
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

    A constant difference does not mean a lag: the processes' CPU seconds lack the work of the kernel and of processes
    that ended.
    """
    return float(np.mean(np.abs(differences - np.median(differences))))
