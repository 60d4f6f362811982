"""Apply a stored model to observations, and compare the estimates with the measured power."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd

from kepler_core.arrays import FloatArray
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import RecordingError, StoreError
from kepler_core.grouping import sum_by
from kepler_core.intervals import intervals_of, with_twin
from kepler_core.models.power_model import METADATA_FILE, PowerModel
from kepler_core.pipeline.node_types import profile_file
from kepler_core.pipeline.validation import score
from kepler_core.plugins import registry
from kepler_core.recording.observations import Observations
from kepler_core.store.models import StoredModel, best_abs_model
from kepler_core.vocabulary import load_feature


@attrs.frozen(eq=False)
class Estimate:
    """The power that one model estimates for observations, and its comparison with the measured power."""

    model: StoredModel
    frame: pd.DataFrame
    """Watts, with the index of a `Dataset`. Each component has a column `<component>_predicted` and, if its
    power was measured, a column `<component>_measured`. If the model states intervals, each component has the columns
    `<component>_lower` and `<component>_upper`. If the rows are containers, the measured column holds
    each container's share of the node's dynamic power."""
    components: dict[str, dict[str, Any]]
    """Mean power and errors by component, in the form that `kepler-model estimate --json` prints."""
    timestamps: int
    doubts: dict[str, Any]
    """Reasons to doubt the estimates. `level`: probability with which an interval is meant to contain the true power;
    None if the model states no intervals. `outside`: number of rows outside the range of the training. `disagreements`:
    number of rows in which the model and its twin (a second model with fewer features) disagree. `flags`: flag ->
    sentence that explains the flag."""

    def summary(self) -> dict[str, Any]:
        """Return the JSON object that `kepler-model estimate --json` prints."""
        metadata = self.model.metadata
        return {
            "pipeline": self.model.pipeline,
            "model_name": self.model.name,
            "source": self.model.source,
            "output_type": self.model.output_type,
            "feature_group": self.model.feature_group,
            "trainer": self.model.trainer,
            "validated_mae": metadata.get("mae"),
            "rows": len(self.frame),
            "timestamps": self.timestamps,
            "components": self.components,
            **self.doubts,
        }


def estimate(
    stored: StoredModel, observations: Observations, idle_watts: Mapping[str, float] | None = None
) -> Estimate:
    """Apply a stored model to all timestamps of the observations at which the model's features are known.

    `idle_watts` is the known idle power of the machine by component (see `kepler_core.models.recalibration`). Raises
    `RecordingError` if there is no such timestamp.
    """
    model = with_twin(stored, idle_watts)
    by_container = stored.output_type == "DynPower"
    extractor = registry.extractors.create("DefaultExtractor")
    features, names = model.model.features, model.model.components
    rows = extractor.extract(observations, features, stored.source, (), by_container=by_container)
    if rows.frame.empty:
        raise RecordingError(f"no timestamp at which all of {', '.join(features)} are known")
    checked = model.watts(rows.X)
    predicted = dict(zip(names, checked.watts, strict=True))
    intervals = intervals_of(stored, rows, checked, names)
    columns = {f"{component}_predicted": watts for component, watts in predicted.items()}
    for component, half in intervals.half_widths.items():
        columns[f"{component}_lower"] = np.maximum(predicted[component] - half, 0.0)
        columns[f"{component}_upper"] = predicted[component] + half
    frame = pd.DataFrame(columns, index=rows.frame.index)
    components: dict[str, dict[str, Any]] = {}
    for component in names:
        components[component] = {
            "predicted_mean": float(_sums_by_timestamp(rows, predicted[component]).mean()),
            "measured_mean": None,
            "mae": None,
            "mape": None,
            "idle_error": None,
            "compared": 0,
            "half_width": intervals.mean_half_width(component),
            "coverage": None,
        }
    measured = _measured(stored, observations, features, names)
    if measured is not None and len(measured.frame):
        positions = frame.index.get_indexer(measured.frame.index)
        for component in measured.components:
            column = np.full(len(frame), np.nan)
            column[positions] = measured.y(component)
            frame[f"{component}_measured"] = column
            components[component].update(_comparison(measured, component, predicted[component][positions]))
            components[component]["coverage"] = intervals.coverage(
                component, predicted[component], measured.y(component), positions
            )
    return Estimate(stored, frame, components, len(rows.first_rows), intervals.doubts)


def _comparison(measured: Dataset, component: str, predicted: FloatArray) -> dict[str, Any]:
    """Return the mean power and the errors. The watts of all rows of a sample are added up before they are compared."""
    predicted_sums = _sums_by_timestamp(measured, predicted)
    measured_sums = _sums_by_timestamp(measured, measured.y(component))
    load = measured.features.index(load_feature(measured.features))
    scores = score(predicted_sums, measured_sums, _sums_by_timestamp(measured, measured.X[:, load]))
    return {
        "predicted_mean": float(predicted_sums.mean()),
        "measured_mean": float(measured_sums.mean()),
        "mae": scores.mae,
        "mape": scores.mape,
        "idle_error": scores.idle_error,
        "compared": len(measured.first_rows),
    }


def _sums_by_timestamp(rows: Dataset, values: Any) -> FloatArray:
    sums: FloatArray = sum_by(values, rows.sample, len(rows.first_rows))
    return sums


def _measured(
    stored: StoredModel, observations: Observations, features: tuple[str, ...], components: tuple[str, ...]
) -> Dataset | None:
    """Return the measured power of a model's components; None if no component was measured.

    The power is not smoothed over time. For a DynPower model, idle power and background power are subtracted
    by the isolator that was used to train the model.
    """
    measured_components = tuple(c for c in components if c in observations.sources.get(stored.source, ()))
    if not measured_components:
        return None
    dynamic = stored.output_type == "DynPower"
    extractor = registry.extractors.create("DefaultExtractor")
    dataset = extractor.extract(observations, features, stored.source, measured_components, by_container=dynamic)
    if not dynamic or dataset.frame.empty:
        return dataset
    isolation = _read_isolation(stored)
    isolator = registry.isolators.create(isolation.isolator.name, isolation.isolator.args)
    context = _isolation_context(stored, observations, isolation)
    return isolator.isolate(attrs.evolve(dataset, feature_group=stored.feature_group), context)


class _Isolator(msgspec.Struct):
    name: str
    args: dict[str, Any] = {}


class _Isolation(msgspec.Struct):
    """The isolator and the background containers with which the DynPower models of a node type were trained."""

    isolator: _Isolator
    background: list[str] = []


def _read_isolation(stored: StoredModel) -> _Isolation:
    """Return the isolator and background containers of a model's training, read from the pipeline's metadata.

    Raises `StoreError` if the metadata do not contain them.
    """
    where = f"{stored.snapshot.where}/{METADATA_FILE}"
    isolations = stored.snapshot.read_json(METADATA_FILE).get("isolation")
    if not isinstance(isolations, dict) or (isolation := isolations.get(str(stored.node_type))) is None:
        raise StoreError(f"{where} does not name the isolator of node type {stored.node_type}")
    try:
        return msgspec.convert(isolation, _Isolation)
    except msgspec.ValidationError as error:
        raise StoreError(f"{where}: isolation of node type {stored.node_type}: {error}") from error


def _isolation_context(stored: StoredModel, observations: Observations, isolation: _Isolation) -> IsolationContext:
    """Return the context for an isolator that subtracts background power from the observations.

    The context has what the pipeline stores for the node type of the model: the background containers, the
    profile, the machine description and the AbsPower model.
    """
    snapshot = stored.snapshot
    profile = profile_file(stored.node_type)

    def abs_model(dataset: Dataset) -> PowerModel:
        return best_abs_model(snapshot, stored.source, dataset.features, stored.node_type)

    return IsolationContext(
        observations,
        background=frozenset(isolation.background),
        profile=snapshot.read_json(profile) if profile in snapshot.names else None,
        machine_spec=stored.machine_spec,
        abs_model=abs_model,
        applying=True,
    )
