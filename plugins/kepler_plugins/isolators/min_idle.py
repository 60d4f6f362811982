"""The isolator `MinIdleIsolator`, which regards the lowest power in a recording as the idle power."""

from __future__ import annotations

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset


class MinIdleIsolator(Isolator):
    """Subtracts the lowest power of each node and component in the recording.

    If a node was never without load during the recording, the isolator subtracts more than the node's idle
    power.
    """

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        return dataset.isolated(dataset.node_power().groupby(level=["recording", "node"], sort=False).transform("min"))
