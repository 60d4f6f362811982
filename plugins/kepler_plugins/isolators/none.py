"""The isolator `NoneIsolator`, which subtracts nothing."""

from __future__ import annotations

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset


class NoneIsolator(Isolator):
    """Subtracts nothing. Use it for recordings whose power is already dynamic power."""

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        return dataset.isolated(dataset.node_power() * 0.0)
