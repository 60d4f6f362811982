"""Watch the served models: calculate their running errors, and the coverage of their intervals, on new samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import KeplerError
from kepler_core.honesty.document import Honesty, read_honesty
from kepler_core.intervals import half_widths_of_nodes, with_twin
from kepler_core.machine import MachineSpec, machine_spec_from
from kepler_core.messages import one_line
from kepler_core.models.twins import TwinnedModel
from kepler_core.pipeline.node_types import matching_type
from kepler_core.recording.observations import Observations
from kepler_core.selection.ranking import rank_by_error
from kepler_core.selection.scores import score_table
from kepler_core.store import Store
from kepler_core.store.models import StoredModel, read_models, read_node_types

log = logging.getLogger(__name__)

_ERROR_CHARACTERS = 200

WINDOW_SAMPLES = 100
"""Number of newest samples over which a model's running error and the coverage of its intervals are averaged."""
MIN_SAMPLES = 20
"""A running error or a coverage is calculated only from at least this number of samples."""
ALARM_FACTOR = 1.5
ALARM_WATTS = 0.5
"""A model has drifted if its running error exceeds ALARM_FACTOR · (its validated error) + ALARM_WATTS."""


def _empty() -> FloatArray:
    return np.empty(0)


@attrs.frozen(eq=False)
class Window:
    """The errors and intervals of one component of a served model, for at most `WINDOW_SAMPLES` newest samples."""

    errors: FloatArray = attrs.field(factory=_empty)
    """Absolute errors in watts, shape (samples,)."""
    half_widths: FloatArray | None = None
    """Half-widths of the intervals in watts, shape (samples,); None if the model states no interval."""

    def followed_by(self, errors: FloatArray, half_widths: FloatArray | None) -> Window:
        """Return a `Window` that also contains the results of new samples."""
        if half_widths is not None:
            half_widths = _newest(_empty() if self.half_widths is None else self.half_widths, half_widths)
        return Window(_newest(self.errors, errors), half_widths)

    @property
    def running_error(self) -> float:
        """The mean absolute error over the newest samples, in watts."""
        return float(self.errors.mean())

    @property
    def coverage(self) -> float | None:
        """The fraction of the samples whose measured power is within its interval; None if there are no intervals."""
        return None if self.half_widths is None else float(np.mean(self.errors <= self.half_widths))

    @property
    def mean_half_width(self) -> float | None:
        """The mean half-width of the intervals in watts; None if there are no intervals."""
        return None if self.half_widths is None else float(self.half_widths.mean())


def _newest(values: FloatArray, more: FloatArray) -> FloatArray:
    return np.concatenate([values, more])[-WINDOW_SAMPLES:]


@attrs.define
class WatchedModel:
    """A served model, and its errors and intervals on the newest samples.

    The thread of the rounds updates the results while threads of the HTTP server read them. Therefore attributes are
    only replaced, and no array or dict is changed in place.
    """

    entry: StoredModel
    model: TwinnedModel
    """The model, with its twin if there is one. The twin is a second model with fewer features that checks the
    predictions."""
    validated: Mapping[str, float]
    """Mean absolute error of each component in the validation of the model, in watts."""
    honesty: Honesty | None = None
    """The errors, intervals and training range of the model, which are the block `honesty` of its metadata. None if the
    block is missing or malformed."""
    windows: Mapping[str, Window] = attrs.field(factory=dict)
    """Errors and intervals of each component on the newest samples."""
    outside: FloatArray = attrs.field(factory=_empty)
    """For each of the newest samples: 1 if a feature is outside its range in the training data, otherwise 0."""
    disagrees: FloatArray = attrs.field(factory=_empty)
    """For each of the newest samples: 1 if the predictions of the model and its twin differ too much, otherwise 0."""

    def known_windows(self) -> dict[str, Window]:
        """Return the newest errors and intervals of each component that has at least `MIN_SAMPLES` errors."""
        return {c: window for c, window in sorted(self.windows.items()) if len(window.errors) >= MIN_SAMPLES}

    def running(self) -> dict[str, float]:
        """Return the running error in watts of each component that has at least `MIN_SAMPLES` errors."""
        return {c: window.running_error for c, window in self.known_windows().items()}

    def alarms(self) -> dict[str, bool]:
        """Return for each component whether its running error exceeds its `limit`."""
        return {c: error > limit(self.validated[c]) for c, error in self.running().items()}

    def outside_ratio(self) -> float | None:
        """Return the fraction of samples with a feature outside its training range; None if there are few samples."""
        return _ratio(self.outside)

    def disagreement_ratio(self) -> float | None:
        """Return the fraction of samples for which the predictions of model and twin differ too much.

        Returns None if there are too few samples.
        """
        return _ratio(self.disagrees)


def _ratio(window: FloatArray) -> float | None:
    return float(window.mean()) if len(window) >= MIN_SAMPLES else None


def limit(validated: float) -> float:
    """Return the running error in watts above which a model has drifted.

    `validated` is the validated error of the model in watts.
    """
    return ALARM_FACTOR * validated + ALARM_WATTS


class DriftMonitor:
    """A monitor that compares the served models of one node type with live measurements.

    For each energy source and feature group, the monitor watches the AbsPower model that model selection prefers. It
    does not watch DynPower models, because the power of a container cannot be measured. DynPower models are evaluated
    only in a retraining.
    """

    def __init__(self, store: Store, pipeline: str, machine_spec: Mapping[str, Any] | None) -> None:
        """Create a monitor that has not loaded any models yet.

        `machine_spec` is the description of the nodes' machines that determines their node type; None if the
        machines are not described.
        """
        self._store = store
        self._pipeline = pipeline
        self._spec = MachineSpec() if machine_spec is None else machine_spec_from(machine_spec, "machine")
        self._signature: str | None = None
        self.node_type = 0
        """Number of the nodes' node type.

        If no models of this node type are published yet, the attribute is the number that the node type will get.
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
        watched = [model for entry in _preferred(entries) if (model := _watched(entry)) is not None]
        self.node_type, self.watched = node_type, watched
        self.version, self._signature = snapshot.version if entries else None, signature
        return True

    def update(self, observations: Observations, fresh: IntArray) -> None:
        """Compare the predictions of the served models with the measured power of new samples.

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
        """Whether the running error of any served model exceeds its limit. Models with too few samples are ignored."""
        return any(any(watched.alarms().values()) for watched in self.watched)


def _preferred(entries: list[StoredModel]) -> list[StoredModel]:
    """Return the AbsPower model that selection prefers for each energy source and feature group."""
    groups: dict[tuple[str, str], list[StoredModel]] = {}
    for entry in entries:
        if entry.output_type == "AbsPower" and entry.portable:
            groups.setdefault((entry.source, entry.feature_group), []).append(entry)
    preferred = []
    for models in groups.values():
        scores = score_table(models)
        ranking = rank_by_error(np.arange(len(models)), scores.column("mae"), "mae", scores)
        preferred.append(models[ranking.best])
    return preferred


def _watched(entry: StoredModel) -> WatchedModel | None:
    """Load a served model, with its twin if possible. If the model is not usable, log the reason and return None."""
    honesty = None
    try:
        try:
            honesty = read_honesty(entry.metadata)
            model = with_twin(entry)
        except KeplerError as error:
            # The twin (a second model that checks this model) is missing, or the block `honesty` (errors and intervals)
            # of the metadata is malformed. In both cases, the model is used alone, as in the estimator.
            log.warning("the served model %s is checked without its twin: %s", entry.path, error)
            model = TwinnedModel(entry.load())
    except KeplerError as error:
        log.error("the served model %s cannot be watched: %s", entry.path, error)
        return None
    validated = {c: _number(entry, f"{c}_mae") or _validated_error(entry) for c in model.model.components}
    if not all(map(np.isfinite, validated.values())):
        log.error("the served model %s cannot be watched: its metadata contain no validation error", entry.path)
        return None
    return WatchedModel(entry, model, validated, honesty)


def _compare(watched: WatchedModel, observations: Observations, fresh: IntArray) -> None:
    """Add the model's errors and the half-widths of its intervals on the new samples to `watched`."""
    features = watched.model.model.features
    if not set(features) <= set(observations.node_features):
        return
    X = np.column_stack([observations.node_features[name][fresh] for name in features])
    complete = np.isfinite(X).all(axis=1)
    if not complete.any():
        return
    samples = fresh[complete]
    checked = watched.model.watts(X[complete])
    watched.outside = _newest(watched.outside, checked.outside.astype(np.float64))
    watched.disagrees = _newest(watched.disagrees, checked.disagrees.astype(np.float64))
    names = watched.model.model.components
    half_widths: Mapping[str, FloatArray] = {}
    if watched.honesty is not None:
        seen = set(watched.honesty.seen.node_names)
        is_seen = np.array([stream.node in seen for stream in observations.streams], dtype=bool)
        trained = is_seen[observations.sample_stream[samples]]
        half_widths = half_widths_of_nodes(watched.honesty, checked, names, trained)
    windows = dict(watched.windows)
    for component, watts in zip(names, checked.watts, strict=True):
        measured = observations.power.get((watched.entry.source, component))
        if measured is None:
            continue
        errors = np.abs(watts - measured[samples])
        known = np.isfinite(errors)
        half = half_widths.get(component)
        windows[component] = windows.get(component, Window()).followed_by(
            errors[known], None if half is None else half[known]
        )
    watched.windows = windows


def _validated_error(entry: StoredModel) -> float:
    mae = _number(entry, "mae")
    return float("inf") if mae is None else mae


def _number(entry: StoredModel, key: str) -> float | None:
    value = entry.metadata.get(key)
    return float(value) if isinstance(value, int | float) else None
