"""Data sets: features and power in one pandas frame, with the energy source and the components."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.vocabulary import OutputType, main_feature

NODE_LEVELS = ("recording", "node", "timestamp")
CONTAINER_LEVELS = (*NODE_LEVELS, "container")


def power_column(component: str) -> str:
    """Return the name of a component's power column."""
    return f"{component}_power"


def stream_of(index: pd.MultiIndex) -> IntArray:
    """Return the number of the stream (node in a recording) of each row of an index, shape (rows,)."""
    recording, node = (np.asarray(index.codes[at], dtype=np.int64) for at in range(2))
    return recording * len(index.levels[1]) + node


def time_of(index: pd.MultiIndex) -> FloatArray:
    """Return the Unix seconds of each row of an index, shape (rows,)."""
    times: FloatArray = index.levels[2].to_numpy(dtype=np.float64)
    return times[np.asarray(index.codes[2])]


@attrs.frozen(eq=False, slots=False)
class RowNumbers:
    """The sample of each row of an index, and the first row of each sample, calculated when they are first needed."""

    index: pd.MultiIndex

    @cached_property
    def sample(self) -> IntArray:
        key = stream_of(self.index) * (len(self.index.levels[2]) + 1) + self.index.codes[2]
        if len(key) == 0:
            return key
        step = np.diff(key)
        if (step >= 0).all():
            return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(step > 0)])
        return np.asarray(np.unique(key, return_inverse=True)[1], dtype=np.int64)

    @cached_property
    def is_contiguous(self) -> bool:
        """Whether the rows of each sample follow one another, and the samples are in sorted order."""
        return bool((np.diff(self.sample) >= 0).all())

    @cached_property
    def first_rows(self) -> IntArray:
        if self.is_contiguous:
            return np.flatnonzero(np.diff(self.sample, prepend=-1))
        return np.unique(self.sample, return_index=True)[1].astype(np.int64)

    @cached_property
    def index_of_samples(self) -> pd.Index[Any]:
        """The recording, node and timestamp of each sample, in a data set by container."""
        return self.index[self.first_rows].droplevel(["container"])


@attrs.frozen(eq=False, slots=False)
class Dataset:
    """Rows to train a model on, or to estimate power for.

    A *sample* is a node at a timestamp. A node's data set has one row per sample. A data set by container
    has one row per container in a sample, and the power of a sample's rows adds up to the node's power.
    """

    frame: pd.DataFrame
    """One column per feature (rates per second; gauges in their own unit) in the order of `features`, then
    one column `<component>_power` (watts) per component. The levels of the index are recording, node,
    timestamp (Unix seconds) and, in a data set by container, container. Rows are sorted by recording, node
    and timestamp."""
    features: tuple[str, ...]
    """Names of the feature columns, in order."""
    source: str
    """Name of the energy source."""
    components: tuple[str, ...]
    """The components with a power column, in order; empty if the data set has no power."""
    output_type: OutputType = "AbsPower"
    """"AbsPower": the watts are a node's whole power. "DynPower": they are dynamic power."""
    feature_group: str = ""
    """Name of the feature group."""
    node_type: int = 0
    """Number of the node type in the pipeline."""
    repeated: tuple[str, ...] = ()
    """Features of the whole node, whose values are repeated in the rows of all its containers. Do not add them up."""
    background: pd.DataFrame | None = None
    """Watts that an isolator subtracted, one row per sample and one power column per component."""
    notes: tuple[str, ...] = ()
    """Remarks for the user who trains models on the data set, one line each."""
    _row_numbers: RowNumbers | None = attrs.field(default=None, repr=False)
    """Row numbers that several data sets share. They are used only if `frame` still has their index."""

    @property
    def by_container(self) -> bool:
        """Whether each row is a container in a sample. Otherwise each row is a sample."""
        return "container" in self.frame.index.names

    @property
    def power_columns(self) -> list[str]:
        """Names of the power columns, in the order of `components`."""
        return [power_column(component) for component in self.components]

    @property
    def X(self) -> FloatArray:
        """Features, shape (rows, features)."""
        return self.frame[list(self.features)].to_numpy(dtype=np.float64)

    def y(self, component: str) -> FloatArray:
        """Return the watts of one component, shape (rows,)."""
        return self.frame[power_column(component)].to_numpy(dtype=np.float64)

    @property
    def index(self) -> pd.MultiIndex:
        """The index of `frame`."""
        index = self.frame.index
        assert isinstance(index, pd.MultiIndex)
        return index

    @cached_property
    def _rows(self) -> RowNumbers:
        shared = self._row_numbers
        return shared if shared is not None and shared.index.is_(self.index) else RowNumbers(self.index)

    @property
    def sample(self) -> IntArray:
        """Index of each row's sample, shape (rows,). Samples are numbered 0, 1, … in sorted order."""
        return self._rows.sample

    @property
    def stream(self) -> IntArray:
        """Number of each row's stream (node in a recording), shape (rows,). Numbers need not be contiguous."""
        return stream_of(self.index)

    @property
    def timestamps(self) -> FloatArray:
        """Unix seconds of each row, shape (rows,)."""
        return time_of(self.index)

    @property
    def first_rows(self) -> IntArray:
        """Index of each sample's first row, shape (samples,)."""
        return self._rows.first_rows

    def node_sum(self, columns: Sequence[str]) -> pd.DataFrame:
        """Return `columns` with one row per sample: the sums over the containers of the sample.

        The index of the result has recording, node and timestamp.
        """
        if not self.by_container:
            return self.frame[list(columns)]
        starts, contiguous = self.first_rows, self._rows.is_contiguous
        sums = {}
        for column in columns:
            values = self.frame[column].to_numpy()
            # the rows of a sample are usually contiguous, and adding up contiguous rows is much faster
            sums[column] = np.add.reduceat(values, starts) if contiguous else sum_by(values, self.sample, len(starts))
        return pd.DataFrame(sums, index=self._rows.index_of_samples)

    @cached_property
    def _node_power(self) -> pd.DataFrame:
        return self.node_sum(self.power_columns)

    def node_power(self) -> pd.DataFrame:
        """Return the node's watts for each sample, one power column per component."""
        return self._node_power.copy()

    def isolated(self, background: pd.DataFrame, taken: BoolArray | None = None) -> Dataset:
        """Return the DynPower data set that remains when background power is subtracted.

        `background` holds the watts to subtract, in the same rows and columns as `node_power()`. They are clipped to
        [0, node power], so that dynamic + background = measured. `taken`, shape (rows,), marks rows of
        containers that belong to the background and are dropped. The other rows share the remaining power
        in the same proportions as before. A sample in which all rows are marked is dropped.

        Raises `ValueError` if a background power is not finite.
        """
        measured = self.node_power()
        watts = np.clip(background[self.power_columns].to_numpy(), 0.0, measured.to_numpy())
        if not np.isfinite(watts).all():
            raise ValueError("the background power is unknown at some timestamps")
        frame, sample = self.frame, self.sample
        if taken is not None and taken.any():
            frame, sample = frame[~taken], sample[~taken]
        remaining = attrs.evolve(self, frame=frame, output_type="DynPower", background=None)
        at = sample[remaining.first_rows]
        earlier = measured if frame is self.frame else remaining.node_power()
        shared = remaining._sharing(measured.to_numpy()[at] - watts[at], earlier)
        subtracted = pd.DataFrame(watts[at], index=measured.index[at], columns=self.power_columns)
        return attrs.evolve(shared, background=subtracted)

    def reconstructed(self) -> Dataset:
        """Return the AbsPower data set that results when `background` is added back to the dynamic power.

        The rows of a sample share the sum in the proportions of their dynamic power. Raises `ValueError` if the
        data set has no background.
        """
        if self.background is None:
            raise ValueError("no background power was subtracted from this data set")
        watts = self.node_power().to_numpy() + self.background[self.power_columns].to_numpy()
        return attrs.evolve(self._sharing(watts, self.node_power()), output_type="AbsPower", background=None)

    def _sharing(self, watts: FloatArray, earlier: pd.DataFrame) -> Dataset:
        """Return a data set with the same rows and the node power `watts`, shape (samples, components).

        `earlier` is the result of `node_power`. Each row keeps its share of its sample's power. If no row of a sample
        had any power, the rows share the new power in the proportions of the component's main feature.
        """
        frame = self.frame.copy(deep=False)
        for at, component in enumerate(self.components):
            column = power_column(component)
            before = earlier[column].to_numpy()
            ratio = np.divide(watts[:, at], before, out=np.zeros(len(before)), where=before > 0)
            rows = ratio[self.sample] * frame[column].to_numpy()
            no_shares = (before <= 0) & (watts[:, at] > 0)
            if no_shares.any():
                rows = np.where(no_shares[self.sample], self._usage_shares(component) * watts[self.sample, at], rows)
            frame[column] = rows
        return attrs.evolve(self, frame=frame)

    def _usage_shares(self, component: str) -> FloatArray:
        """Return each row's share of the usage in its sample, shape (rows,). Usage is the component's main feature.

        If the main feature is 0 in all rows of a sample, these rows have equal shares.
        """
        n = len(self.first_rows)
        own = [name for name in self.features if name not in self.repeated] or list(self.features)
        usage = np.maximum(self.frame[main_feature(own, component)].to_numpy(dtype=np.float64), 0.0)
        total, count = sum_by(usage, self.sample, n), np.bincount(self.sample, minlength=n)
        usage = np.where(total[self.sample] > 0, usage, 1.0)
        total = np.where(total > 0, total, count)
        return usage / total[self.sample]
