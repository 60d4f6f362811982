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

WINDOW = 100
"""Newest instants that the running error is the mean of."""
FEWEST = 20
FACTOR = 1.5
WATTS = 0.5
"""A running error above FACTOR · the validated error + WATTS is an alarm."""


@attrs.define
class Watched:
    """A served model, and how wrong it was lately."""

    entry: StoredModel
    model: PowerModel
    validated: Mapping[str, float]
    """Component -> validated MAE, watts."""
    errors: dict[str, deque[float]] = attrs.field(factory=dict)

    def running(self) -> dict[str, float]:
        """Component -> mean absolute error over the newest instants, watts; of those with enough."""
        return {c: float(np.mean(found)) for c, found in self.errors.items() if len(found) >= FEWEST}

    def alarms(self) -> dict[str, bool]:
        """Component -> whether its running error is beyond what validation promised."""
        return {c: error > limit(self.validated[c]) for c, error in self.running().items()}


def limit(validated: float) -> float:
    """The highest running error that a validated one stands for, watts."""
    return FACTOR * validated + WATTS


class DriftWatch:
    """Follows the best AbsPower model of each energy source and feature group that is served for our node
    type. (A node's power is measured; a container's is not, so DynPower models are judged only when
    challengers are.)"""

    def __init__(self, store: Store, pipeline: str, machine_spec: Mapping[str, Any] | None) -> None:
        """`machine_spec`: what our nodes are, where that is known."""
        self._store = store
        self._pipeline = pipeline
        self._spec = MachineSpec() if machine_spec is None else machine_spec_from(machine_spec, "machine")
        self._signature: str | None = None
        self.node_type = 0
        """Ours in the pipeline; the one that it is going to have where none is served for it yet."""
        self.version: int | None = None
        """The served version; None where it has no model for our node type."""
        self.watched: list[Watched] = []

    def refresh(self) -> bool:
        """Look at the store; whether other models are served now. `StoreError` if it cannot be read."""
        if self._pipeline not in self._store.pipelines():
            return False
        signature = self._store.signature(self._pipeline)
        if signature == self._signature:
            return False
        snapshot = self._store.snapshot(self._pipeline)
        node_type = matching_type(read_node_types(snapshot), self._spec.as_dict())
        mine = [entry for entry in read_models(snapshot) if entry.node_type == node_type]
        best: dict[tuple[str, str], StoredModel] = {}
        for entry in mine:
            if entry.output_type == "AbsPower" and entry.portable:
                known = best.get((entry.source, entry.feature_group))
                if known is None or _error(entry) < _error(known):
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
            watched.append(Watched(entry, model, validated))
        self.node_type, self.watched = node_type, watched
        self.version, self._signature = snapshot.version if mine else None, signature
        return True

    def update(self, observations: Observations, fresh: IntArray) -> None:
        """Compare with newly measured instants (their numbers)."""
        for one in self.watched:
            if not set(one.model.features) <= set(observations.node_features):
                continue
            X = np.column_stack([observations.node_features[name][fresh] for name in one.model.features])
            known = np.isfinite(X).all(axis=1)
            if not known.any():
                continue
            predicted = one.model.predict(X[known])
            for component, watts in predicted.items():
                measured = observations.power.get((one.entry.source, component))
                if measured is None:
                    continue
                off = np.abs(watts - measured[fresh][known])
                one.errors.setdefault(component, deque(maxlen=WINDOW)).extend(off[np.isfinite(off)].tolist())

    @property
    def alarm(self) -> bool:
        """Whether any watched model is beyond its validated error."""
        return any(any(one.alarms().values()) for one in self.watched)


def _error(entry: StoredModel) -> float:
    found = entry.metadata.get("mae")
    return float(found) if isinstance(found, int | float) else float("inf")
