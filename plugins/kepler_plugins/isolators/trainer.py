"""The isolator `TrainIsolator`, which estimates background power with an AbsPower model."""

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
    """Subtracts the power that an AbsPower model predicts for the usage of the background containers.

    The model is one of the pipeline's AbsPower models for the data set's energy source and features: the one
    with the lowest validation error.

    The background containers are the containers that match `background_hints`, or the containers that do not
    match `target_hints`. A hint is a namespace, pod, workload or container, or a pattern such as
    "kube-system/*". If neither argument is given, the background containers are the containers in the recording of
    the idle machine. The user can pass such a recording together with the other recordings. If there are no background
    containers, the isolator subtracts the power that the model predicts for zero usage, which is the idle power.
    """

    def __init__(self, background_hints: list[str] | None = None, target_hints: list[str] | None = None) -> None:
        if background_hints and target_hints:
            message = "background_hints and target_hints exclude each other; give one of them"
            raise PluginError(message, path=("target_hints",))
        self.background_hints = background_hints or []
        self.target_hints = target_hints or []

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        if context.abs_model is None:
            raise PluginError("no AbsPower model is available to the isolator")
        background_rows = self._background_rows(dataset, context)
        model = context.abs_model(dataset)
        n = len(dataset.first_rows)
        usage = np.empty((n, len(dataset.features)))
        for number, feature in enumerate(dataset.features):
            values = dataset.frame[feature].to_numpy(dtype=np.float64)
            if feature in dataset.repeated:
                usage[:, number] = values[dataset.first_rows]
            else:
                usage[:, number] = sum_by(np.where(background_rows, values, 0.0), dataset.sample, n)
        predicted = model.predict(usage, dataset.features)
        background = pd.DataFrame(
            {power_column(component): predicted[component] for component in dataset.components},
            index=dataset.node_power().index,
        )
        codes = np.asarray(dataset.index.codes[3])
        note = (
            f"{len(np.unique(codes[background_rows]))} of {len(np.unique(codes))} containers are background, "
            f"whose power {model.name} estimates"
        )
        return attrs.evolve(dataset.isolated(background, background_rows), notes=(*dataset.notes, note))

    def _background_rows(self, dataset: Dataset, context: IsolationContext) -> BoolArray:
        """Return for each row of the data set whether it belongs to a background container, shape (rows,)."""
        if self.target_hints:
            targets = container_rows(dataset, context.observations, self.target_hints)
            if not targets.any():
                raise PluginError(f"target_hints: no container matches {' or '.join(self.target_hints)}")
            return np.asarray(~targets)
        rows = container_rows(dataset, context.observations, self.background_hints or context.background)
        if self.background_hints and not rows.any():
            raise PluginError(f"background_hints: no container matches {' or '.join(self.background_hints)}")
        if rows.all():
            raise PluginError("all containers are background: nothing is left to train on")
        return rows
