"""The running error of the served models on live measurements."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import IntArray
from kepler_core.errors import KeplerError
from kepler_core.machine import MachineSpec, machine_spec_from
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.node_types import matching_type
from kepler_core.recording.observations import Observations
from kepler_core.store import Store
from kepler_core.store.models import StoredModel, read_models, read_node_types

log = logging.getLogger(__name__)

WINDOW_SAMPLES = 100
"""The running error is the mean over this number of newest samples."""
MIN_SAMPLES = 20
"""With fewer samples there is no running error."""
ALARM_FACTOR = 1.5
ALARM_WATTS = 0.5
"""The alarm is on while a running error exceeds ALARM_FACTOR · validated error + ALARM_WATTS."""


@attrs.define
class WatchedModel:
    """A served model and its latest errors."""

    entry: StoredModel
    model: PowerModel
    validated: Mapping[str, float]
    """Component -> validated mean absolute error, watts."""
    errors: dict[str, deque[float]] = attrs.field(factory=dict)
    """Component -> absolute errors of the newest samples, watts."""

    def running(self) -> dict[str, float]:
        """Return component -> running error in watts, of components with enough samples."""
        return {c: float(np.mean(errors)) for c, errors in self.errors.items() if len(errors) >= MIN_SAMPLES}

    def alarms(self) -> dict[str, bool]:
        """Return component -> whether its running error exceeds the limit."""
        return {c: error > limit(self.validated[c]) for c, error in self.running().items()}


def limit(validated: float) -> float:
    """Return the highest running error that is compatible with a validated error, in watts."""
    return ALARM_FACTOR * validated + ALARM_WATTS


class DriftMonitor:
    """A monitor that compares the served models of one node type with live measurements.

    It watches the AbsPower model with the lowest validated error of each energy source and feature
    group. DynPower models are not watched, because the power of a container cannot be measured; they
    are evaluated only in a retraining.
    """

    def __init__(self, store: Store, pipeline: str, machine_spec: Mapping[str, Any] | None) -> None:
        """`machine_spec` describes the nodes, if that is known; it determines their node type."""
        self._store = store
        self._pipeline = pipeline
        self._spec = MachineSpec() if machine_spec is None else machine_spec_from(machine_spec, "machine")
        self._signature: str | None = None
        self.node_type = 0
        """The number of the nodes' type, or the number it will get with its first models."""
        self.version: int | None = None
        """The served version; None if it has no model for the node type."""
        self.watched: list[WatchedModel] = []

    def refresh(self) -> bool:
        """Load the served models if they have changed, and return whether they have.

        `StoreError` if the store cannot be read.
        """
        if self._pipeline not in self._store.pipelines():
            return False
        signature = self._store.signature(self._pipeline)
        if signature == self._signature:
            return False
        snapshot = self._store.snapshot(self._pipeline)
        node_type = matching_type(read_node_types(snapshot), self._spec.as_dict())
        entries = [entry for entry in read_models(snapshot) if entry.node_type == node_type]
        best: dict[tuple[str, str], StoredModel] = {}
        for entry in entries:
            if entry.output_type == "AbsPower" and entry.portable:
                best_yet = best.get((entry.source, entry.feature_group))
                if best_yet is None or _validated_error(entry) < _validated_error(best_yet):
                    best[entry.source, entry.feature_group] = entry
        watched = []
        for entry in best.values():
            try:
                model = entry.load()
            except KeplerError as error:
                log.error("%s cannot be watched: %s", entry.path, error)
                continue
            metadata = entry.metadata
            validated = {c: float(metadata.get(f"{c}_mae") or metadata["mae"]) for c in model.components}
            watched.append(WatchedModel(entry, model, validated))
        self.node_type, self.watched = node_type, watched
        self.version, self._signature = snapshot.version if entries else None, signature
        return True

    def update(self, observations: Observations, fresh: IntArray) -> None:
        """Compare the models' predictions with the power of new samples, given by their numbers."""
        for watched in self.watched:
            features = watched.model.features
            if not set(features) <= set(observations.node_features):
                continue
            X = np.column_stack([observations.node_features[name][fresh] for name in features])
            complete = np.isfinite(X).all(axis=1)
            if not complete.any():
                continue
            predicted = watched.model.predict(X[complete])
            for component, watts in predicted.items():
                measured = observations.power.get((watched.entry.source, component))
                if measured is None:
                    continue
                errors = np.abs(watts - measured[fresh][complete])
                window = watched.errors.setdefault(component, deque(maxlen=WINDOW_SAMPLES))
                window.extend(errors[np.isfinite(errors)].tolist())

    @property
    def alarm(self) -> bool:
        """Whether the running error of any watched model exceeds its limit."""
        return any(any(watched.alarms().values()) for watched in self.watched)


def _validated_error(entry: StoredModel) -> float:
    mae = entry.metadata.get("mae")
    return float(mae) if isinstance(mae, int | float) else float("inf")
