"""The lowest power seen is taken for the idle power."""

from __future__ import annotations

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset


class MinIdleIsolator(Isolator):
    """Takes away the lowest power that was seen of each node and component.

    Right where the recording holds a quiet moment; elsewhere it takes away too much.
    """

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        return dataset.isolated(dataset.node_power().groupby(level=["recording", "node"], sort=False).transform("min"))
