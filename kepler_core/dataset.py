"""Features and watts in one pandas frame, with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import attrs
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kepler_core.grouping import sum_by
from kepler_core.vocabulary import OutputType

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

    @property
    def by_container(self) -> bool:
        return "container" in self.frame.index.names

    @property
    def power_columns(self) -> list[str]:
        return [power_column(component) for component in self.components]

    @property
    def X(self) -> NDArray[np.float64]:
        """Features, shape (rows, features)."""
        return self.frame[list(self.features)].to_numpy(dtype=np.float64)

    def y(self, component: str) -> NDArray[np.float64]:
        """Watts of one component, shape (rows,)."""
        return self.frame[power_column(component)].to_numpy(dtype=np.float64)

    @property
    def index(self) -> pd.MultiIndex:
        index = self.frame.index
        assert isinstance(index, pd.MultiIndex)
        return index

    @cached_property
    def _stream_and_time(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        index = self.index
        recording, node, time = (np.asarray(index.codes[at], dtype=np.int64) for at in range(3))
        return recording * len(index.levels[1]) + node, time

    @cached_property
    def instant(self) -> NDArray[np.int64]:
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
    def stream(self) -> NDArray[np.int64]:
        """Per row, which node in which recording: equal numbers, equal node; shape (rows,)."""
        return self._stream_and_time[0]

    @property
    def timestamps(self) -> NDArray[np.float64]:
        """Per row, Unix seconds; shape (rows,)."""
        times: NDArray[np.float64] = self.index.levels[2].to_numpy(dtype=np.float64)
        return times[self._stream_and_time[1]]

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
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

    def with_node_power(self, watts: pd.DataFrame, output_type: OutputType) -> Dataset:
        """The same rows with another node power, each keeping its share; what is missing from the
        old power becomes `background`."""
        old = self.node_power()
        frame = self.frame.copy(deep=False)
        for column in self.power_columns:
            before, after = old[column].to_numpy(), watts[column].to_numpy()
            ratio = np.divide(after, before, out=np.zeros(len(before)), where=before > 0)
            rows = ratio[self.instant]
            rows *= frame[column].to_numpy()
            frame[column] = rows
        return attrs.evolve(
            self,
            frame=frame,
            output_type=output_type,
            background=old - watts[self.power_columns].to_numpy(),
        )
