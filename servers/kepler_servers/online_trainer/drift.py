"""Watch the served models for drift: calculate their running error on newly measured samples."""

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
from kepler_core.messages import one_line
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.node_types import matching_type
from kepler_core.recording.observations import Observations
from kepler_core.store import Store
from kepler_core.store.models import StoredModel, read_models, read_node_types

log = logging.getLogger(__name__)

_ERROR_CHARACTERS = 200

WINDOW_SAMPLES = 100
"""A model's running error is the mean of its absolute errors on this number of newest samples."""
MIN_SAMPLES = 20
"""A running error is calculated only from at least this number of samples."""
ALARM_FACTOR = 1.5
ALARM_WATTS = 0.5
"""The alarm is on while a model's running error exceeds ALARM_FACTOR · its validated error + ALARM_WATTS."""


@attrs.define
class WatchedModel:
    """A served model and its errors on the newest samples."""

    entry: StoredModel
    model: PowerModel
    validated: Mapping[str, float]
    """Component -> mean absolute error when the model was validated, in watts."""
    errors: dict[str, deque[float]] = attrs.field(factory=dict)
    """Component -> the model's absolute errors on the newest samples, in watts."""

    def running(self) -> dict[str, float]:
        """Return component -> running error in watts, for all components with at least `MIN_SAMPLES` errors."""
        return {c: float(np.mean(errors)) for c, errors in self.errors.items() if len(errors) >= MIN_SAMPLES}

    def alarms(self) -> dict[str, bool]:
        """Return component -> whether the component's running error exceeds its `limit`."""
        return {c: error > limit(self.validated[c]) for c, error in self.running().items()}


def limit(validated: float) -> float:
    """Return the running error in watts above which a model with the error `validated` (in watts) has drifted."""
    return ALARM_FACTOR * validated + ALARM_WATTS


class DriftMonitor:
    """A monitor that compares the served models of one node type with live measurements.

    For each energy source and feature group, it watches the AbsPower model with the lowest validated error.
    It does not watch DynPower models, because the power of a container cannot be measured. DynPower models
    are evaluated only in a retraining.
    """

    def __init__(self, store: Store, pipeline: str, machine_spec: Mapping[str, Any] | None) -> None:
        """Create a monitor, without loading models yet.

        `machine_spec` is the description of the nodes' machines that determines their node type; None if the
        machines are not described.
        """
        self._store = store
        self._pipeline = pipeline
        self._spec = MachineSpec() if machine_spec is None else machine_spec_from(machine_spec, "machine")
        self._signature: str | None = None
        self.node_type = 0
        """Number of the nodes' node type.

        Until models of this node type are published, it is the number that the node type will get.
        """
        self.version: int | None = None
        """Number of the served version of the pipeline; None if no served model belongs to the node type."""
        self.watched: list[WatchedModel] = []

    def refresh(self) -> bool:
        """Load the served models if they have changed, and return whether they have changed.

        Raises `StoreError` if the model store cannot be read.
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
                log.error("the served model %s cannot be watched: %s", entry.path, error)
                continue
            validated = {c: _number(entry, f"{c}_mae") or _validated_error(entry) for c in model.components}
            if not all(map(np.isfinite, validated.values())):
                log.error("the served model %s cannot be watched: its metadata has no validated error", entry.path)
                continue
            watched.append(WatchedModel(entry, model, validated))
        self.node_type, self.watched = node_type, watched
        self.version, self._signature = snapshot.version if entries else None, signature
        return True

    def update(self, observations: Observations, fresh: IntArray) -> None:
        """Compare the predictions of the watched models with the power of new samples.

        `fresh` holds the indices of the new samples in `observations`.
        """
        for watched in list(self.watched):
            try:
                _compare(watched, observations, fresh)
            except Exception as error:  # a model format from a third-party plugin may raise any exception
                reason = one_line(error, _ERROR_CHARACTERS)
                log.error("the served model %s is no longer watched: %s", watched.entry.path, reason)
                self.watched = [other for other in self.watched if other is not watched]

    @property
    def alarm(self) -> bool:
        """Whether the running error of any watched model exceeds its limit."""
        return any(any(watched.alarms().values()) for watched in self.watched)


def _compare(watched: WatchedModel, observations: Observations, fresh: IntArray) -> None:
    """Add the model's absolute errors on the new samples to `watched.errors`."""
    features = watched.model.features
    if not set(features) <= set(observations.node_features):
        return
    X = np.column_stack([observations.node_features[name][fresh] for name in features])
    complete = np.isfinite(X).all(axis=1)
    if not complete.any():
        return
    for component, watts in watched.model.predict(X[complete]).items():
        measured = observations.power.get((watched.entry.source, component))
        if measured is None:
            continue
        errors = np.abs(watts - measured[fresh][complete])
        window = watched.errors.setdefault(component, deque(maxlen=WINDOW_SAMPLES))
        window.extend(errors[np.isfinite(errors)].tolist())


def _validated_error(entry: StoredModel) -> float:
    mae = _number(entry, "mae")
    return float("inf") if mae is None else mae


def _number(entry: StoredModel, key: str) -> float | None:
    value = entry.metadata.get(key)
    return float(value) if isinstance(value, int | float) else None
