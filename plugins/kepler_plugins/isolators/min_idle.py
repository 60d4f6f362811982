"""The isolator `MinIdleIsolator`, which regards the power in the quietest times of a recording as the idle power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import FloatArray
from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset, stream_of, time_of
from kepler_core.recording.quiet import FEWEST_IDLE_SAMPLES, idle_samples
from kepler_core.vocabulary import load_feature

LEAST_LOADED_PART = 0.1
"""If a node was never idle, its idle power is estimated from the samples with the least load. They are this fraction of
all samples of the node."""
LOW_QUANTILE = 0.05
"""If a node was never idle, its idle power is this quantile of the power in the samples with the least load.

The minimum would be too low if one reading is low because of noise."""

STEADY_PART = 0.1
"""Idle power is steady: its interquartile range is at most this fraction of its median. If the range is larger, the
readings of load and power do not belong to the same times. The node then counts as never idle."""
STEADY_WATTS = 0.5
"""If the interquartile range of the power at the idle times is at most this number of watts, the power is steady."""


class MinIdleIsolator(Isolator):
    """Subtracts the idle power of each node and component in each recording.

    The idle power is the median power at the times when the node was idle. These times are quiet blocks of at least
    three timestamps (see `kepler_core.recording.quiet`), which are found by the load feature of the data set. Perhaps
    the node was never idle in the recording, or its power was not steady at these times. Then the isolator takes the
    tenth of the samples with the least load. The idle power is the 5 % quantile of the power in these samples. It may
    be too high, so the isolator adds a note to the data set.

    The isolator does not use the energy that an exporter reports with `mode="idle"`: Kepler 0.10 and newer compute it
    from the share of idle CPU time, and no meter measures it.
    """

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        power = dataset.node_power()
        background = power * 0.0
        index = cast("pd.MultiIndex", power.index)
        stream, time = stream_of(index), time_of(index)
        load = _load(dataset)
        codes = {(s.recording, s.node): code for code, s in enumerate(context.observations.streams)}
        notes = list(dataset.notes)
        for number in np.unique(stream):
            rows = np.flatnonzero(stream == number)
            recording, node = power.index[rows[0]][:2]
            of_stream = power.iloc[rows]
            watts = _idle_power(of_stream, time[rows], context, codes.get((recording, node)), dataset.features)
            if watts is None:
                least = load[rows] <= np.quantile(load[rows], LEAST_LOADED_PART)
                watts = of_stream[least].quantile(LOW_QUANTILE)
                notes.append(
                    f"node {node!r} of {recording} was never idle: its idle power is estimated from the times with the "
                    "least load, and may be too high; record the node while it is idle, too"
                )
            background.iloc[rows] = watts.to_numpy()
        return attrs.evolve(dataset.isolated(background), notes=tuple(notes))


def _idle_power(
    power: pd.DataFrame, time: FloatArray, context: IsolationContext, stream: int | None, features: Sequence[str]
) -> pd.Series[float] | None:
    """Return the median power of each component while the node was idle, in watts; None if it never was.

    `power` has the node's power in watts, one row per timestamp in `time` and one column per component. `stream` is
    the number of the node's stream in the observations; None if they have no such stream.
    """
    if stream is None:
        return None
    for idle in idle_samples(context.observations, context.machine_spec, stream, features):
        while_idle = power[np.isin(time, context.observations.sample_time[idle])]
        if len(while_idle) >= FEWEST_IDLE_SAMPLES and _is_steady(while_idle):
            return while_idle.median()
    return None


def _is_steady(power: pd.DataFrame) -> bool:
    """Return whether the power of every component, in watts, hardly varies."""
    low, middle, high = (power.quantile(level) for level in (0.25, 0.5, 0.75))
    return bool((high - low <= np.maximum(STEADY_PART * middle, STEADY_WATTS)).all())


def _load(dataset: Dataset) -> FloatArray:
    """Return the load of the node in each sample, shape (samples,)."""
    feature = load_feature(dataset.features)
    if feature in dataset.repeated:
        return dataset.frame[feature].to_numpy(dtype=np.float64)[dataset.first_rows]
    return dataset.node_sum([feature])[feature].to_numpy(dtype=np.float64)
