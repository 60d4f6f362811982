"""Fits the simulation's power formula to observations of simulated recordings, and returns the errors of the fits.

A fit estimates the coefficients of the formula. The error of a fit is the difference between its predicted power and
the true power of the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.frames import node_dataset
from kepler_core.recording import Observations
from kepler_core.simulate import CORES_PER_SOCKET, HERTZ, true_power

FEWEST_ROWS = 20
"""Minimum number of rows of a data set for a fit. `train` refuses to train on fewer rows."""
LOAD_FEATURES = {"bpf_cpu_time_ms": 1000.0, "cpu_cycles": HERTZ}
"""Features that are proportional to the load. The values are their rates per second if one CPU is fully busy."""


def usage(observations: Observations, sockets: int) -> tuple[FloatArray, FloatArray]:
    """Choose nine samples. Return the busy fraction of the CPUs and the cache misses per second at these samples.

    The samples are sorted by load, and spread over almost the whole range of loads.
    """
    u = observations.node_features["bpf_cpu_time_ms"] / (1000.0 * CORES_PER_SOCKET * sockets)
    misses = observations.node_features["cache_miss"]
    known = np.flatnonzero(np.isfinite(u) & np.isfinite(misses))
    at = known[np.argsort(u[known])][(np.linspace(0.02, 0.98, 9) * (len(known) - 1)).astype(int)]
    return np.minimum(u[at], 1.0), misses[at]


def errors(
    observations: Observations, sockets: int, where: tuple[FloatArray, FloatArray]
) -> Mapping[tuple[str, str], float | None]:
    """Fit the power formula for each component and load feature. Return the largest error of each of these pairs.

    The errors are in percent of the true power. They are calculated at the loads `where`, which the function `usage`
    returns. Loads outside of the range of the observations are left out, because the fit cannot know the power there.
    An error is None if there are too few observations for a fit.
    """
    result: dict[tuple[str, str], float | None] = {}
    truth = true_power(*where, sockets)
    at = _terms(*where)
    power = dict(observations.power)
    for component in truth:
        source = "acpi" if component == "platform" else "rapl-sysfs"
        watts = power.get((source, component))
        for feature, per_cpu in LOAD_FEATURES.items():
            result[component, feature] = None
            if watts is None or not {feature, "cache_miss"} <= set(observations.node_features):
                continue
            columns = node_dataset(
                observations, observations.node_features, {component: watts}, [feature, "cache_miss"], source
            ).frame.to_numpy()
            if len(columns) < FEWEST_ROWS:
                continue
            load = np.minimum(columns[:, 0] / (per_cpu * CORES_PER_SOCKET * sockets), 1.0)
            fitted = np.linalg.lstsq(_terms(load, columns[:, 1]), columns[:, 2], rcond=None)[0]
            inside = (where[0] >= load.min()) & (where[0] <= load.max())
            deviations = np.abs(at @ fitted / truth[component] - 1)[inside]
            result[component, feature] = float(deviations.max(initial=0.0)) * 100
    return result


def _terms(u: FloatArray, misses: FloatArray) -> FloatArray:
    return np.column_stack([np.ones(len(u)), np.maximum(u, 0.0) ** 0.8, misses / 1e9])
