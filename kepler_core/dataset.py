"""Features and watts in one pandas frame, with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.vocabulary import OutputType, main_feature

NODE_LEVELS = ("recording", "node", "timestamp")
CONTAINER_LEVELS = (*NODE_LEVELS, "container")


def power_column(component: str) -> str:
    """The name of a component's power column."""
    return f"{component}_power"


@attrs.frozen(eq=False, slots=False)
class Dataset:
    """Rows to train on or to estimate.

    `frame` has one column per feature (rates per second; gauges as they are), in the order of
    `features`, and one `<component>_power` column (watts) per component. Its index has the levels
    recording, node, timestamp (Unix seconds) and, `by_container`, container; rows are sorted by
    recording, node and timestamp. By container, the power of a node's rows at a time adds up to the
    node's power.
    """

    frame: pd.DataFrame
    features: tuple[str, ...]
    source: str
    components: tuple[str, ...]
    output_type: OutputType = "AbsPower"
    feature_group: str = ""
    node_type: int = 0
    repeated: tuple[str, ...] = ()
    """Features of the node that stand in the row of each of its containers; they do not add up."""
    background: pd.DataFrame | None = None
    """Watts that an isolator took away, by node and timestamp."""
    notes: tuple[str, ...] = ()
    """What somebody who trains on it should know, one line each."""

    @property
    def by_container(self) -> bool:
        return "container" in self.frame.index.names

    @property
    def power_columns(self) -> list[str]:
        return [power_column(component) for component in self.components]

    @property
    def X(self) -> FloatArray:
        """Features, shape (rows, features)."""
        return self.frame[list(self.features)].to_numpy(dtype=np.float64)

    def y(self, component: str) -> FloatArray:
        """Watts of one component, shape (rows,)."""
        return self.frame[power_column(component)].to_numpy(dtype=np.float64)

    @property
    def index(self) -> pd.MultiIndex:
        index = self.frame.index
        assert isinstance(index, pd.MultiIndex)
        return index

    @cached_property
    def _stream_and_time(self) -> tuple[IntArray, IntArray]:
        index = self.index
        recording, node, time = (np.asarray(index.codes[at], dtype=np.int64) for at in range(3))
        return recording * len(index.levels[1]) + node, time

    @cached_property
    def instant(self) -> IntArray:
        """Per row, which (recording, node, timestamp) it belongs to: 0, 1, …; shape (rows,)."""
        stream, time = self._stream_and_time
        key = stream * (len(self.index.levels[2]) + 1) + time
        if len(key) == 0:
            return key
        step = np.diff(key)
        if (step >= 0).all():
            return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(step > 0)])
        return np.asarray(np.unique(key, return_inverse=True)[1], dtype=np.int64)

    @property
    def stream(self) -> IntArray:
        """Per row, which node in which recording: equal numbers, equal node; shape (rows,)."""
        return self._stream_and_time[0]

    @property
    def timestamps(self) -> FloatArray:
        """Per row, Unix seconds; shape (rows,)."""
        times: FloatArray = self.index.levels[2].to_numpy(dtype=np.float64)
        return times[self._stream_and_time[1]]

    @cached_property
    def first_rows(self) -> IntArray:
        """Per instant, its first row; shape (instants,)."""
        return np.unique(self.instant, return_index=True)[1].astype(np.int64)

    def node_sum(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns summed over the rows of each (recording, node, timestamp)."""
        if not self.by_container:
            return self.frame[list(columns)]
        starts = self.first_rows
        together = len(starts) == 0 or bool((np.diff(self.instant) >= 0).all())
        sums = {}
        for column in columns:
            values = self.frame[column].to_numpy()
            # rows of an instant mostly follow each other, and adding up runs is much quicker
            sums[column] = np.add.reduceat(values, starts) if together else sum_by(values, self.instant, len(starts))
        return pd.DataFrame(sums, index=self.index[self.first_rows].droplevel(["container"]))

    @cached_property
    def _node_power(self) -> pd.DataFrame:
        return self.node_sum(self.power_columns)

    def node_power(self) -> pd.DataFrame:
        """The node's watts by recording, node and timestamp."""
        return self._node_power.copy()

    def isolated(self, background: pd.DataFrame, taken: BoolArray | None = None) -> Dataset:
        """The DynPower data set that is left when `background` is taken away.

        `background` has the watts to take, a power column per component, in the rows of `node_power()`;
        below 0 counts as 0, and no more is taken than there is: dynamic + background = measured.
        Rows of `taken` (containers that belong to the background; shape (rows,)) go with it. The other
        rows keep their shares of what is left; a timestamp at which no row is left goes too.
        """
        measured = self.node_power()
        watts = np.clip(background[self.power_columns].to_numpy(), 0.0, measured.to_numpy())
        if not np.isfinite(watts).all():
            raise ValueError("the background's power is not known at all timestamps")
        frame, instant = self.frame, self.instant
        if taken is not None and taken.any():
            frame, instant = frame[~taken], instant[~taken]
        left = attrs.evolve(self, frame=frame, output_type="DynPower", background=None)
        at = instant[left.first_rows]
        shared = left._sharing(measured.to_numpy()[at] - watts[at])
        taken_away = pd.DataFrame(watts[at], index=measured.index[at], columns=self.power_columns)
        return attrs.evolve(shared, background=taken_away)

    def reconstructed(self) -> Dataset:
        """The AbsPower data set of before `isolated`: the rows share dynamic and background power."""
        if self.background is None:
            raise ValueError("nothing was taken away from this data set")
        watts = self.node_power().to_numpy() + self.background[self.power_columns].to_numpy()
        return attrs.evolve(self._sharing(watts), output_type="AbsPower", background=None)

    def _sharing(self, watts: FloatArray) -> Dataset:
        """The same rows with another node power, shape (instants, components), each keeping its share;
        where all have none, by their main feature."""
        old = self.node_power()
        frame = self.frame.copy(deep=False)
        for at, component in enumerate(self.components):
            column = power_column(component)
            before = old[column].to_numpy()
            ratio = np.divide(watts[:, at], before, out=np.zeros(len(before)), where=before > 0)
            rows = ratio[self.instant] * frame[column].to_numpy()
            lost = (before <= 0) & (watts[:, at] > 0)
            if lost.any():
                rows = np.where(lost[self.instant], self._usage_shares(component) * watts[self.instant, at], rows)
            frame[column] = rows
        return attrs.evolve(self, frame=frame)

    def _usage_shares(self, component: str) -> FloatArray:
        """Each row's share of its instant by the component's main feature, equal where nothing is used."""
        n = len(self.first_rows)
        own = [name for name in self.features if name not in self.repeated] or list(self.features)
        usage = np.maximum(self.frame[main_feature(own, component)].to_numpy(dtype=np.float64), 0.0)
        total, count = sum_by(usage, self.instant, n), np.bincount(self.instant, minlength=n)
        usage = np.where(total[self.instant] > 0, usage, 1.0)
        total = np.where(total > 0, total, count)
        return usage / total[self.instant]
