"""A model applied to observations, beside what was measured."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd

from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError, RecordingError, StoreError
from kepler_core.grouping import sum_by
from kepler_core.models.power_model import METADATA_FILE, PowerModel
from kepler_core.pipeline.node_types import profile_file
from kepler_core.pipeline.validation import score
from kepler_core.plugins import registry
from kepler_core.recording.observations import Observations
from kepler_core.store.models import StoredModel, read_models
from kepler_core.vocabulary import main_feature


@attrs.frozen(eq=False)
class Estimate:
    """Estimates of one model.

    `frame` has the index of a `Dataset` and per component a column `<component>_predicted` and,
    where there are measurements, `<component>_measured` (a container's is its share), in watts.
    """

    entry: StoredModel
    frame: pd.DataFrame
    components: dict[str, dict[str, Any]]
    timestamps: int

    def summary(self) -> dict[str, Any]:
        """`estimate --json`."""
        metadata = self.entry.metadata
        return {
            "pipeline": self.entry.pipeline,
            "model_name": metadata["model_name"],
            "source": self.entry.source,
            "output_type": self.entry.output_type,
            "feature_group": self.entry.feature_group,
            "trainer": metadata["trainer"],
            "validated_mae": metadata["mae"],
            "rows": len(self.frame),
            "timestamps": self.timestamps,
            "components": self.components,
        }


def estimate(entry: StoredModel, observations: Observations) -> Estimate:
    """Apply a stored model to all rows of observations that have its features."""
    model = entry.load()
    by_container = entry.output_type == "DynPower"
    extractor = registry.extractors.create("DefaultExtractor")
    rows = extractor.extract(observations, model.features, entry.source, (), by_container=by_container)
    if rows.frame.empty:
        raise RecordingError(f"no timestamp at which all of {', '.join(model.features)} are known")
    predicted = model.predict(rows.X)
    frame = pd.DataFrame(
        {f"{component}_predicted": values for component, values in predicted.items()}, index=rows.frame.index
    )
    measured = _measured(entry, observations, model.features, model.components)
    components: dict[str, dict[str, Any]] = {}
    for component in model.components:
        values = predicted[component]
        components[component] = {
            "predicted_mean": float(_per_instant(rows, values).mean()),
            "measured_mean": None,
            "mae": None,
            "mape": None,
            "idle_error": None,
            "compared": 0,
        }
    if measured is not None and len(measured.frame):
        positions = frame.index.get_indexer(measured.frame.index)
        for component in measured.components:
            column = np.full(len(frame), np.nan)
            column[positions] = measured.y(component)
            frame[f"{component}_measured"] = column
            n = len(measured.first_rows)
            sums = sum_by(predicted[component][positions], measured.sample, n)
            truth = sum_by(measured.y(component), measured.sample, n)
            main = measured.features.index(main_feature(measured.features, component))
            load = sum_by(measured.X[:, main], measured.sample, n)
            found = score(sums, truth, load)
            components[component].update(
                predicted_mean=float(sums.mean()),
                measured_mean=float(truth.mean()),
                mae=found.mae,
                mape=found.mape,
                idle_error=found.idle_error,
                compared=n,
            )
    return Estimate(entry, frame, components, len(rows.first_rows))


def _per_instant(rows: Dataset, values: Any) -> Any:
    return sum_by(values, rows.sample, len(rows.first_rows))


def _measured(
    entry: StoredModel, observations: Observations, features: tuple[str, ...], components: tuple[str, ...]
) -> Dataset | None:
    """What was measured, unsmoothed, without what the pipeline's isolator takes away; None where nothing was."""
    there = tuple(c for c in components if c in observations.sources.get(entry.source, ()))
    if not there:
        return None
    dynamic = entry.output_type == "DynPower"
    extractor = registry.extractors.create("DefaultExtractor")
    dataset = extractor.extract(observations, features, entry.source, there, by_container=dynamic)
    if not dynamic or dataset.frame.empty:
        return dataset
    isolation = _isolation(entry)
    isolator = registry.isolators.create(isolation.isolator.name, isolation.isolator.args)
    context = _context(entry, observations, isolation)
    return isolator.isolate(attrs.evolve(dataset, feature_group=entry.feature_group), context)


class _Isolator(msgspec.Struct):
    name: str
    args: dict[str, Any] = {}


class _Isolation(msgspec.Struct):
    """How the DynPower models of a node type were isolated."""

    isolator: _Isolator
    background: list[str] = []


def _isolation(entry: StoredModel) -> _Isolation:
    where = f"{entry.snapshot.where}/{METADATA_FILE}"
    found = entry.snapshot.read_json(METADATA_FILE).get("isolation")
    if not isinstance(found, dict) or (how := found.get(str(entry.node_type))) is None:
        raise StoreError(f"{where} does not name the isolator of node type {entry.node_type}")
    try:
        return msgspec.convert(how, _Isolation)
    except msgspec.ValidationError as error:
        raise StoreError(f"{where}: isolation of node type {entry.node_type}: {error}") from error


def _context(entry: StoredModel, observations: Observations, isolation: _Isolation) -> IsolationContext:
    """What the isolator had when the model was trained, as far as the pipeline keeps it."""
    snapshot = entry.snapshot
    profile = profile_file(entry.node_type)

    def abs_model(dataset: Dataset) -> PowerModel:
        found = [
            other
            for other in read_models(snapshot)
            if (other.source, other.output_type, other.node_type) == (entry.source, "AbsPower", entry.node_type)
            and other.portable
            and other.features == dataset.features
        ]
        if not found:
            raise PluginError(f"{snapshot.where}: no AbsPower model from {', '.join(dataset.features)} to isolate with")
        return min(found, key=lambda other: float(other.metadata["mae"])).load()

    return IsolationContext(
        observations,
        background=frozenset(isolation.background),
        profile=snapshot.read_json(profile) if profile in snapshot.names else None,
        machine_spec=entry.machine_spec,
        abs_model=abs_model,
        applying=True,
    )
