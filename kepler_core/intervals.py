"""Intervals and flags of the estimates that a stored model makes for a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.dataset import Dataset
from kepler_core.errors import StoreError
from kepler_core.honesty.document import Honesty, read_honesty
from kepler_core.honesty.flags import EXPLANATIONS, flags
from kepler_core.honesty.interval import SAME_MACHINE, SAME_TYPE, half_widths
from kepler_core.honesty.node_names import host_of
from kepler_core.models.power_model import PowerModel
from kepler_core.models.recalibration import Correction, corrected_model, idle_corrections, widened
from kepler_core.models.twins import CheckedWatts, TwinnedModel, twinned
from kepler_core.store.layout import twin_path
from kepler_core.store.models import StoredModel, read_models


@attrs.frozen(eq=False)
class Intervals:
    """Half-widths of the intervals around estimates, and the reasons to doubt the estimates."""

    half_widths: Mapping[str, FloatArray]
    """Half-width in watts by component, each of shape (rows,); empty if the model states no intervals."""
    doubts: dict[str, Any]
    """Reasons to doubt the watts, as in `kepler_core.estimate.Estimate.doubts`."""

    def mean_half_width(self, component: str) -> float | None:
        """Return the mean half-width of a component's intervals in watts; None if it has no intervals."""
        half = self.half_widths.get(component)
        return None if half is None else float(half.mean())

    def coverage(
        self, component: str, predicted: FloatArray, measured: FloatArray, positions: IntArray
    ) -> float | None:
        """Return the fraction of the measured values that are within their intervals; None if there are no intervals.

        `predicted` has a value for each row. `measured` has values for some of the rows. `positions` has the index of
        each of these rows in `predicted`.
        """
        half = self.half_widths.get(component)
        if half is None:
            return None
        return float(np.mean(np.abs(measured - predicted[positions]) <= half[positions]))


def with_twin(stored: StoredModel, idle_watts: Mapping[str, float] | None = None) -> TwinnedModel:
    """Load a stored model and, if its metadata name a twin (`kepler_core.honesty.document.Twin`), its twin.

    If `idle_watts` (by component) is given, both models are shifted so that they predict these watts at the lowest load
    of their training. Raises `StoreError` if the twin is not in the same version of the pipeline.
    """
    model, own = _shifted(stored, idle_watts or {})
    honesty = read_honesty(stored.metadata)
    if honesty is None or honesty.twin is None:
        return TwinnedModel(model)
    path = twin_path(stored.path, honesty.twin)
    of_type = (other for other in read_models(stored.snapshot) if other.node_type == stored.node_type)
    twin = next((other for other in of_type if other.path == path), None)
    if twin is None:
        raise StoreError(
            f"{stored.snapshot.where}: {stored.path} names the twin {honesty.twin.feature_group}/"
            f"{honesty.twin.model_name}, which the pipeline does not have"
        )
    twin_model, other = _shifted(twin, idle_watts or {})
    return twinned(model, twin_model, widened(honesty.twin, own, other))


def _shifted(stored: StoredModel, idle_watts: Mapping[str, float]) -> tuple[PowerModel, dict[str, Correction]]:
    """Load a model and shift it to the idle power `idle_watts`. Return the model, and the corrections by component."""
    model = stored.load()
    corrections = idle_corrections(model, idle_watts) if idle_watts else {}
    return corrected_model(model, corrections) if corrections else model, corrections


def intervals_of(stored: StoredModel, rows: Dataset, checked: CheckedWatts, components: Sequence[str]) -> Intervals:
    """Return the intervals and flags of a model's estimates for the rows of a data set.

    A node counts as known if the model was trained on a node of the same name. Names that every machine can have, such
    as localhost:9102, are ignored (`kepler_core.honesty.node_names`). The intervals of a known node do not contain the
    error between machines, unless the training measured this error.
    """
    honesty = read_honesty(stored.metadata)
    trained = np.zeros(len(checked.outside), dtype=bool) if honesty is None else _trained(honesty, rows)
    raised = flags(
        honesty,
        SAME_MACHINE if trained.all() else SAME_TYPE,
        outside=bool(checked.outside.any()),
        disagrees=bool(checked.disagrees.any()),
    )
    doubts: dict[str, Any] = {
        "level": None if honesty is None else honesty.level,
        "outside": int(checked.outside.sum()),
        "disagreements": int(checked.disagrees.sum()),
        "flags": {flag: EXPLANATIONS[flag] for flag in raised},
    }
    return Intervals({} if honesty is None else half_widths_of_nodes(honesty, checked, components, trained), doubts)


def half_widths_of_nodes(
    honesty: Honesty, checked: CheckedWatts, components: Sequence[str], trained: BoolArray
) -> dict[str, FloatArray]:
    """Return the half-widths in watts of all components that have an interval, each of shape (rows,).

    `components` are the components of `checked.watts`, in order. `trained` is true for rows of a machine that the model
    was trained on, shape (rows,).
    """
    watts = dict(zip(components, checked.watts, strict=True))
    difference = None if checked.difference is None else dict(zip(components, checked.difference, strict=True))
    own = half_widths(honesty, watts, checked.outside, SAME_MACHINE, difference)
    other = half_widths(honesty, watts, checked.outside, SAME_TYPE, difference)
    return {component: np.where(trained, own[component], other[component]) for component in own}


def _trained(honesty: Honesty, rows: Dataset) -> BoolArray:
    """Return for each row whether it belongs to a node that the model was trained on, shape (rows,)."""
    known = {name for name in honesty.seen.node_names if host_of(name) is not None}
    return np.array([str(name) in known for name in rows.index.levels[1]], dtype=bool)[np.asarray(rows.index.codes[1])]
