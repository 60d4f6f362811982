"""The isolator that takes nothing away."""

from __future__ import annotations

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset


class NoneIsolator(Isolator):
    """Takes nothing away. For recordings whose power is dynamic power only."""

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        return dataset.isolated(dataset.node_power() * 0.0)
