"""A stored model of machines of many kinds (`machines fit`), applied to the description of a machine.

`MachineModel` has the methods of the machine formula (`MachineFormula`), so it can be used in place of the formula: for
a described machine, for a guest on this machine, and by the meter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import KeplerError, ModelError, StoreError, UsageError
from kepler_core.honesty.document import Honesty, read_honesty
from kepler_core.honesty.interval import OUTSIDE_FACTOR, SAME_TYPE, half_width
from kepler_core.models.power_model import PowerModel
from kepler_core.selection import read_catalogue
from kepler_core.store import Store
from kepler_core.store.models import StoredModel
from kepler_core.store.scores import hardest_error
from kepler_profiler.formula import IDLE_METER_ERROR, Estimate, NoEstimate, published
from kepler_profiler.formula_document import LEVELS
from kepler_profiler.machine_description import MachineDescription
from kepler_profiler.machine_features import (
    IDLE_RATIO,
    LOAD,
    REFERENCE,
    VENDOR_PREFIX,
    YEAR,
    extra_feature,
    machine_features,
)
from kepler_profiler.machine_tables import EXTRA_FACTS

COMPONENT = "platform"
SOURCE = "acpi"
"""Energy source of the models that `machines fit` trains: the power of whole machines."""
_MARGIN = 0.05
"""A feature is outside the range of the training if it exceeds the range by more than this fraction of the range."""
_FULL_PART = 0.1
"""If the idle power is known, the interval is narrow at idle and widens with the power. It has its full width from this
fraction of the way from idle power to full power."""
NEWER_FACTOR = 1.3
"""Minimum factor between the estimate and the ends of the interval, for a machine outside the range of the training,
e.g. a newer machine. It is the factor of the formula's class `newer`."""
_SHOWN_FEATURES = 4


@attrs.frozen
class _Curve:
    """Watts and half-widths at each load of `LEVELS`, and the names of the features outside the training's range."""

    watts: FloatArray
    half: FloatArray
    outside: tuple[str, ...]


@attrs.frozen(eq=False)
class MachineModel:
    """A stored model whose features are the description of a machine and its load.

    The power is computed at the loads in `LEVELS`, and interpolated between these loads. Where the power would fall
    with rising load, it is raised to the power at the load before.
    """

    stored: StoredModel
    model: PowerModel
    honesty: Honesty
    facts: Mapping[str, float] = attrs.field(factory=dict)
    """Values of those `EXTRA_FACTS` that are known."""
    vendor: str | None = None
    """Vendor of the machine."""
    _curves: dict[tuple[MachineDescription, float | None], _Curve] = attrs.field(init=False, factory=dict)

    @property
    def name(self) -> str:
        """Name of the pipeline, and the path of the model in the pipeline."""
        return f"{self.stored.pipeline}/{self.stored.path}"

    @property
    def version(self) -> str:
        """Version of the pipeline; empty if it has none."""
        version = self.stored.snapshot.version
        return "" if version is None else str(version)

    @property
    def needs_idle(self) -> bool:
        """Whether the model needs the idle power of the machine."""
        return IDLE_RATIO in self.model.features

    @property
    def mape(self) -> float | None:
        """Mean error on held-out machines in percent; None if it was never measured."""
        errors = self.honesty.splits.get("nodes")
        component = None if errors is None else errors.components.get(COMPONENT)
        return None if component is None else component.mape

    @property
    def guest_factor(self) -> Sequence[float]:
        """Lowest and highest ratio of a guest's dynamic power to its estimate, if the load of its host is not known."""
        return published().guest_factor

    def estimate(
        self, machine: MachineDescription, load: float, *, idle_watts: float | None = None
    ) -> Estimate | NoEstimate:
        """Return the AC power of a whole machine at a load from 0 (idle) to 1 (highest throughput).

        Returns `NoEstimate` if the formula has no estimate, e.g. because facts about the machine contradict its idle
        power. The interval is wider if a feature is outside the range of the training, or if a fact is not known.
        Raises `UsageError` if `load` or `idle_watts` is out of its range, or if the model needs the idle power and it
        is not known.
        """
        by_formula = published().estimate(machine, load, idle_watts=idle_watts)
        if isinstance(by_formula, NoEstimate):
            return by_formula
        if self.needs_idle and idle_watts is None:
            raise UsageError(f"{self.name} needs the idle power of the machine; give --idle-watts")
        curve = self._curve(machine, idle_watts)
        idle, full = float(curve.watts[0]), float(curve.watts[-1])
        watts, half = (float(np.interp(load, LEVELS, values)) for values in (curve.watts, curve.half))
        if not watts > 0:
            return NoEstimate((f"{self.name} predicts no power for this machine",))
        reasons = list(published().reasons(machine))
        half *= published().missing_factor(machine, idle_known=idle_watts is not None)
        if idle_watts is not None:
            part = min((watts - idle) / max(_FULL_PART * (full - idle), 1e-9), 1.0)
            half = math.hypot(IDLE_METER_ERROR * idle, part * half)
        else:
            reasons.append("a measured idle power of the machine would make the interval much narrower")
        if not curve.outside:
            return Estimate(watts, max(watts - half, 0.0), watts + half, idle, full, "trained", tuple(reasons))
        shown = ", ".join(curve.outside[:_SHOWN_FEATURES])
        reasons.append(f"outside the range that the model was trained on: {shown}; the interval is an assumption")
        known = 0.0 if idle_watts is None else idle
        is_newer = curve.outside == (YEAR,)
        factor = NEWER_FACTOR if is_newer else max(published().class_factor(machine), NEWER_FACTOR)
        half = float(outside_half(half if is_newer else OUTSIDE_FACTOR * half, watts - known, factor))
        ratio = 1 + half / watts
        lower = max(watts / ratio, known * (1 - IDLE_METER_ERROR))
        return Estimate(watts, lower, watts * ratio, idle, full, "outside", tuple(reasons))

    def shape(self, machine: MachineDescription) -> tuple[float, ...]:
        """Return, for each load in `LEVELS`, the fraction of the way from idle power (0) to full power (1).

        The fraction never falls with rising load.
        """
        if self.needs_idle:
            return published().shape(machine)  # the idle power is not known here
        watts = self._curve(machine, None).watts
        span = float(watts[-1] - watts[0])
        return tuple(float(part) for part in (watts - watts[0]) / span) if span > 0 else LEVELS

    def _curve(self, machine: MachineDescription, idle_watts: float | None) -> _Curve:
        if (machine, idle_watts) not in self._curves:
            self._curves[machine, idle_watts] = self._evaluated(machine, idle_watts)
        return self._curves[machine, idle_watts]

    def _evaluated(self, machine: MachineDescription, idle_watts: float | None) -> _Curve:
        words = {} if self.vendor is None else {"vendor": self.vendor}
        vendors = [name for name in self.model.features if name.startswith(VENDOR_PREFIX)]
        values = machine_features(machine, self.facts, words, vendors, idle_watts)
        names = self.model.features
        rows = np.array([[load if name == LOAD else values[name] for name in names] for load in LEVELS])
        watts = np.maximum.accumulate(self.model.predict(rows, names)[COMPONENT])
        inside = np.zeros(len(rows), dtype=bool)
        half = half_width(self.honesty.intervals[COMPONENT], watts, inside, SAME_TYPE)
        if idle_watts is not None:
            added = watts - watts[0]
            if not self.needs_idle:
                half = half * added / np.maximum(watts, 1e-9)
            watts = idle_watts + added
        return _Curve(watts, half, tuple(name for name in names if name != LOAD and self._is_outside(name, values)))

    def _is_outside(self, feature: str, values: Mapping[str, float]) -> bool:
        if feature not in self.honesty.seen.features:
            return False
        low, high = self.honesty.seen.features[feature]
        margin = _MARGIN * (high - low) + 1e-6 * abs(high)
        return not low - margin <= values[feature] <= high + margin


def outside_half(half: float | FloatArray, added: float | FloatArray, factor: float) -> float | FloatArray:
    """Return the half-width of the interval of a machine outside the range of the training, in watts.

    `added` is the power that the model adds to a known idle power; if the idle power is not known, it is the whole
    power. The interval reaches at least up to `factor` times this power. All arrays have the shape (rows,).
    """
    return np.maximum(half, (factor - 1) * added)


def find_machine_model(
    store: Store,
    *,
    pipeline: str | None = None,
    idle_known: bool = False,
    facts: Mapping[str, float] | None = None,
    vendor: str | None = None,
) -> MachineModel:
    """Return the best model of a store whose features are all known for a described machine.

    If the idle power is known, models that use it are preferred. Among equally preferred models, the model with the
    smallest error on held-out machines is the best. `facts` are the values of known `EXTRA_FACTS`. Raises `StoreError`
    if there is no such model, or the store or the pipeline cannot be read.
    """
    catalogue = read_catalogue(store, pipelines=None if pipeline is None else [pipeline])
    refusals: dict[str, None] = {f"{name}: {problem}": None for name, problem in catalogue.broken.items()}
    usable: list[tuple[bool, float, str, MachineModel]] = []
    for stored in catalogue.models:
        if not _is_machine_model(stored):
            continue
        try:
            model = _loaded(stored, facts or {}, vendor)
        except KeplerError as error:
            refusals[f"{stored.pipeline}: {error}"] = None
            continue
        if model.needs_idle and not idle_known:
            refusals[f"{stored.pipeline} needs the idle power of the machine (--idle-watts)"] = None
            continue
        worst = hardest_error(stored.scores)
        usable.append((not model.needs_idle, math.inf if worst is None else worst, model.name, model))
    if usable:
        return min(usable, key=lambda entry: entry[:3])[3]
    reason = "; ".join(refusals) or "no model of `kepler-model machines fit`"
    place = store.location if pipeline is None else f"pipeline {pipeline} of {store.location}"
    raise StoreError(f"{place}: no model for a described machine: {reason}")


def _is_machine_model(stored: StoredModel) -> bool:
    return (
        stored.source == SOURCE
        and stored.output_type == "AbsPower"
        and {LOAD, REFERENCE} <= set(stored.features)
        and stored.loadable
    )


def _loaded(stored: StoredModel, facts: Mapping[str, float], vendor: str | None) -> MachineModel:
    """Load a model.

    Raises `KeplerError` if it cannot be loaded, states no intervals, or needs facts that are not known.
    """
    honesty = read_honesty(stored.metadata)
    if honesty is None or COMPONENT not in honesty.intervals:
        raise ModelError("the model states no interval")
    unknown = [name for name in _needed_facts(stored.features, honesty) if name not in facts]
    if unknown:
        raise ModelError(f"needs facts that are not stated: {', '.join(unknown)} (--fact {unknown[0]}=VALUE)")
    known = machine_features(MachineDescription(threads=1), facts, {}, [], 1.0)
    strange = [name for name in stored.features if name not in known and name != LOAD and VENDOR_PREFIX not in name]
    if strange:
        raise ModelError(f"needs {strange[0][:60]}, which is no fact about a machine")
    return MachineModel(stored, stored.load(), honesty, facts, vendor)


def _needed_facts(features: Sequence[str], honesty: Honesty) -> list[str]:
    """Return the facts that a model needs.

    In the training data, a fact that is not known is 0. So if the lowest value of a fact in the training is 0, the
    model does not need this fact.
    """
    seen = honesty.seen.features
    return [
        fact for fact in EXTRA_FACTS if (name := extra_feature(fact)) in features and seen.get(name, (0.0, 0.0))[0] > 0
    ]
