"""The isolator that takes the lowest power for the idle power."""

from __future__ import annotations

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset


class MinIdleIsolator(Isolator):
    """Takes away the lowest power of each node and component in the recording.

    If the recording has no moment without load, that is more than the idle power.
    """

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        return dataset.isolated(dataset.node_power().groupby(level=["recording", "node"], sort=False).transform("min"))
