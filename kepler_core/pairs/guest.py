"""The features that a guest (the operating system in a virtual machine) measured of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.errors import RecordingError, UsageError, close_matches
from kepler_core.messages import quoted
from kepler_core.recording.observations import Observations
from kepler_core.recording.rates import GAP_FACTOR
from kepler_core.tables.table import Table

LEAST_KNOWN = 0.99
"""The mean of a feature in a window is known if its values are known for at least this part of the window."""


@attrs.frozen(eq=False)
class GuestUsage:
    """Features of a guest. The value at a timestamp is the mean since the previous timestamp."""

    node: str
    """Name of the guest; "" if its recording has none."""
    time: FloatArray
    """Unix seconds of the guest's clock, shape (samples,), ascending."""
    features: Mapping[str, FloatArray]
    """Values by feature, each of shape (samples,); NaN for an unknown value."""

    @property
    def step(self) -> float:
        """Usual time between two samples, in seconds."""
        return float(np.median(np.diff(self.time)))

    def means(self, feature: str, start: FloatArray, end: FloatArray) -> FloatArray:
        """Return the mean of a feature in windows of the guest's clock, shape (windows,); NaN if it is not known.

        A window may begin and end between two samples.
        """
        seconds = np.diff(self.time)
        values = self.features[feature][1:]
        known: BoolArray = np.isfinite(values) & (seconds <= GAP_FACTOR * self.step)
        amount = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0) * seconds)])
        covered = np.concatenate([[0.0], np.cumsum(np.where(known, seconds, 0.0))])

        def within(total: FloatArray) -> FloatArray:
            # np.interp returns the first total before the first sample, and the last total after the last sample. So
            # time outside of the samples adds nothing.
            return np.asarray(np.interp(end, self.time, total) - np.interp(start, self.time, total))

        known_seconds = within(covered)
        enough = (end > start) & (known_seconds >= LEAST_KNOWN * (end - start))
        means = np.full(len(start), np.nan)
        np.divide(within(amount), known_seconds, out=means, where=enough)
        return means


def guest_of_observations(observations: Observations, node: str | None, name: str) -> GuestUsage:
    """Return the features of one node in observations. `name` is the recording's name in messages.

    `node` may be None if there is only one node. Raises `RecordingError` or `UsageError` if there is no such node.
    """
    nodes = [stream.node for stream in observations.streams]
    stream = nodes.index(_chosen(nodes, node, name))
    at = observations.sample_stream == stream
    features = {feature: values[at] for feature, values in observations.node_features.items()}
    return _usage(nodes[stream], observations.sample_time[at], features, name)


def guest_of_table(table: Table, node: str | None) -> GuestUsage:
    """Return the features of one node in a table. `node` may be None if there is only one node."""
    if table.time is None:
        raise RecordingError("the table of a guest needs a column timestamp", document=table.name)
    if table.container is not None:
        raise RecordingError(
            "the table has rows of containers; the table of a guest must have one row per time", document=table.name
        )
    nodes = np.array(table.node)
    chosen = _chosen(list(dict.fromkeys(table.node)), node, table.name)
    at = np.flatnonzero(nodes == chosen)
    at = at[np.argsort(table.time[at], kind="stable")]
    features = {feature: values[at] for feature, values in table.features.items()}
    return _usage(chosen, table.time[at], features, table.name)


def _chosen(nodes: Sequence[str], node: str | None, name: str) -> str:
    if node is None:
        if len(nodes) > 1:
            shown = ", ".join(map(quoted, nodes[:4]))
            raise UsageError(f"{name} has {len(nodes)} nodes ({shown}); choose the guest with --guest-node")
        return nodes[0]
    if node not in nodes:
        raise UsageError(f"--guest-node {node}: not in {name}; {close_matches(node, nodes)}")
    return node


def _usage(node: str, time: FloatArray, features: Mapping[str, FloatArray], name: str) -> GuestUsage:
    distinct = np.concatenate([[True], np.diff(time) > 0])
    if distinct.sum() < 3:
        raise RecordingError("fewer than 3 samples of the guest", document=name)
    known = {feature: values[distinct] for feature, values in features.items() if np.isfinite(values).any()}
    if not known:
        raise RecordingError("no feature of the guest is known", document=name)
    return GuestUsage(node, time[distinct], known)
