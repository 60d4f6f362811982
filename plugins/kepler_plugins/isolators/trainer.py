"""What the background draws is estimated by a model of the node's power."""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import BoolArray
from kepler_core.containers import container_rows
from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset, power_column
from kepler_core.errors import PluginError
from kepler_core.grouping import sum_by


class TrainIsolator(Isolator):
    """Takes away the power that an AbsPower model predicts for the background containers' usage.

    The model is the one with the lowest validation error among the pipeline's AbsPower models of the
    same energy source and features. Background are the containers that `background_hints` name, or all
    that `target_hints` do not name, or those that ran in the recording of the idle machine. A hint is a
    namespace, pod, workload or container, or a pattern such as "kube-system/*". Without background
    containers, what the model predicts for no usage at all is taken away: the idle power.
    """

    def __init__(self, background_hints: list[str] | None = None, target_hints: list[str] | None = None) -> None:
        if background_hints and target_hints:
            raise ValueError("background_hints and target_hints exclude each other: one says what the other is not")
        self.background_hints = background_hints or []
        self.target_hints = target_hints or []

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        if context.abs_model is None:
            raise PluginError("no AbsPower model can be had here")
        taken = self._background(dataset, context)
        model = context.abs_model(dataset)
        n = len(dataset.first_rows)
        usage = np.empty((n, len(dataset.features)))
        for at, feature in enumerate(dataset.features):
            column = dataset.frame[feature].to_numpy(dtype=np.float64)
            if feature in dataset.repeated:
                usage[:, at] = column[dataset.first_rows]
            else:
                usage[:, at] = sum_by(np.where(taken, column, 0.0), dataset.sample, n)
        predicted = model.predict(usage, dataset.features)
        background = pd.DataFrame(
            {power_column(component): predicted[component] for component in dataset.components},
            index=dataset.node_power().index,
        )
        codes = np.asarray(dataset.index.codes[3])
        note = (
            f"{len(np.unique(codes[taken]))} of {len(np.unique(codes))} containers are background, "
            f"whose power {model.name} estimates"
        )
        return attrs.evolve(dataset.isolated(background, taken), notes=(*dataset.notes, note))

    def _background(self, dataset: Dataset, context: IsolationContext) -> BoolArray:
        """Shape (rows,): whether the row is a background container's."""
        if self.target_hints:
            targets = container_rows(dataset, context.observations, self.target_hints)
            if not targets.any():
                raise PluginError(f"target_hints: no container is {' or '.join(self.target_hints)}")
            return np.asarray(~targets)
        taken = container_rows(dataset, context.observations, self.background_hints or context.background)
        if self.background_hints and not taken.any():
            raise PluginError(f"background_hints: no container is {' or '.join(self.background_hints)}")
        if taken.all():
            raise PluginError("all containers are background: nothing is left to train on")
        return taken
