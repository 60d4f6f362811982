"""Prepare what the panels of a figure show of observations alone: power, features and power curves."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.plots.panels import Curve, NodePower, Usage
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import main_feature

NO_POWER_WATTS = 0.01
"""A component is drawn only if its power exceeds this value. On many machines, core and uncore always have 0 W."""

_UNITS = {"bpf_cpu_time_ms": "ms/s", "task_clock_ms": "ms/s", "cpu_scaling_frequency_hertz": "Hz"}


def unit(observations: Observations, feature: str) -> str:
    """Return the unit of a feature's values: "1/s" for a rate, "own unit" for a gauge whose unit is not known."""
    gauge = "own unit" if feature in observations.node_gauges else "1/s"
    return _UNITS.get(feature, gauge)


def node_names(observations: Observations) -> list[str]:
    """Return a name for each stream (a node in one recording): the node and, if there are several, the recording."""
    several = len({stream.recording for stream in observations.streams}) > 1
    names = []
    for stream in observations.streams:
        node = stream.node or "node"
        names.append(f"{node} in {PurePath(stream.recording).name}" if several else node)
    return names


def measured_power(observations: Observations, source: str) -> list[NodePower]:
    """Return the measured power of each node and component of an energy source, over time."""
    nodes = []
    for component in observations.sources.get(source, ()):
        watts = observations.power[source, component]
        if not np.nanmax(watts) > NO_POWER_WATTS:
            continue
        for name, rows in zip(node_names(observations), _samples_of_streams(observations), strict=True):
            if np.isfinite(watts[rows]).any():
                nodes.append(NodePower(name, component, observations.sample_time[rows], watts[rows]))
    return nodes


def usage(observations: Observations) -> list[Usage]:
    """Return the values of each known feature of each node, over time."""
    lines = []
    for feature in observations.features:
        values = observations.node_features[feature]
        for name, rows in zip(node_names(observations), _samples_of_streams(observations), strict=True):
            if np.isfinite(values[rows]).any():
                time = observations.sample_time[rows]
                lines.append(Usage(name, feature, unit(observations, feature), time, values[rows]))
    return lines


def measured_curves(observations: Observations, source: str) -> list[Curve]:
    """Return, for each component of an energy source, the measured power against the component's main feature."""
    curves = []
    for component in observations.sources.get(source, ()):
        watts = observations.power[source, component]
        if observations.features and np.nanmax(watts) > NO_POWER_WATTS:
            feature = main_feature(observations.features, component)
            load: FloatArray = observations.node_features[feature]
            known = np.isfinite(load) & np.isfinite(watts)
            if known.any():
                curves.append(Curve(component, feature, unit(observations, feature), load[known], watts[known]))
    return curves


def _samples_of_streams(observations: Observations) -> list[IntArray]:
    """Return, for each stream (a node in one recording), the indices of its samples."""
    return [np.flatnonzero(observations.sample_stream == at) for at in range(len(observations.streams))]
