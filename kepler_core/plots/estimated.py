"""Prepare what the panels of a figure show of models: estimates for observations, and validated errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from kepler_core.arrays import FloatArray
from kepler_core.estimate import Estimate
from kepler_core.plots.panels import Curve, ModelError, NodePower
from kepler_core.plots.recorded import NO_POWER_WATTS, node_names, unit
from kepler_core.recording.observations import Observations
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import FEATURE_GROUPS, main_feature

_LEVELS = ["recording", "node", "timestamp"]


def estimated_power(estimate: Estimate, observations: Observations) -> list[NodePower]:
    """Return the estimated and the measured power of each node and component, over time.

    If the model estimates the power of containers, the power of a node is the sum over the node's containers.
    """
    sums = _node_sums(estimate.frame)
    nodes = []
    for component in estimate.components:
        predicted = _column(sums, f"{component}_predicted")
        measured = _column(sums, f"{component}_measured")
        assert predicted is not None
        if max(np.nanmax(predicted), -1.0 if measured is None else np.nanmax(measured)) <= NO_POWER_WATTS:
            continue
        for name, stream in zip(node_names(observations), observations.streams, strict=True):
            rows = np.flatnonzero(
                (sums.index.get_level_values("recording") == stream.recording)
                & (sums.index.get_level_values("node") == stream.node)
            )
            if len(rows):
                time = sums.index.get_level_values("timestamp").to_numpy(dtype=np.float64)[rows]
                nodes.append(
                    NodePower(name, component, time, None if measured is None else measured[rows], predicted[rows])
                )
    return nodes


def power_curves(estimates: Sequence[Estimate], observations: Observations) -> list[Curve]:
    """Return a power curve (power against the main feature) for each component, with the estimates of all models.

    All models must be of the same energy source, output type and feature group.
    """
    first = estimates[0]
    sums = _node_sums(first.frame)
    curves = []
    for component in first.components:
        feature = main_feature(first.model.features, component)
        measured = _column(sums, f"{component}_measured")
        models = {}
        for estimate in estimates:
            watts = _column(_node_sums(estimate.frame).reindex(sums.index), f"{component}_predicted")
            if watts is not None:
                models[estimate.model.trainer] = watts
        highest = max(np.nanmax(watts) for watts in (*models.values(), *([] if measured is None else [measured])))
        if highest > NO_POWER_WATTS:
            load = _feature(observations, feature).reindex(sums.index).to_numpy(dtype=np.float64)
            curves.append(Curve(component, feature, unit(observations, feature), load, measured, models))
    return curves


def model_errors(models: Iterable[StoredModel]) -> dict[tuple[str, str, str], list[ModelError]]:
    """Return the validated errors of models by pipeline, energy source and output type."""
    errors: dict[tuple[str, str, str], list[ModelError]] = {}
    order = {group: at for at, group in enumerate(FEATURE_GROUPS)}
    for model in sorted(models, key=lambda model: order.get(model.feature_group, len(order))):
        scores = dict(zip(model.scores.names, model.scores.values, strict=True))
        error = ModelError(model.feature_group, model.trainer, scores.get("mae"), scores.get("mape"))
        errors.setdefault((model.pipeline, model.source, model.output_type), []).append(error)
    return dict(sorted(errors.items()))


def _node_sums(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the sum over the containers of each node; NaN where the power of no container is known."""
    return frame.groupby(level=_LEVELS, sort=True).sum(min_count=1)


def _column(frame: pd.DataFrame, name: str) -> FloatArray | None:
    if name not in frame or not frame[name].notna().any():
        return None
    values: FloatArray = frame[name].to_numpy(dtype=np.float64)
    return values


def _feature(observations: Observations, feature: str) -> pd.Series:
    """Return a feature of the nodes as a series. Its index has the recording, node and time of each value."""
    streams = [observations.streams[at] for at in observations.sample_stream]
    index = pd.MultiIndex.from_arrays(
        [
            [stream.recording for stream in streams],
            [stream.node for stream in streams],
            observations.sample_time,
        ],
        names=_LEVELS,
    )
    return pd.Series(observations.node_features[feature], index=index)
