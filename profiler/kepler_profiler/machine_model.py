"""A stored model of machines of many kinds (`machines fit`), applied to the description of a machine.

`MachineModel` has the methods of the machine formula (`MachineFormula`), so it can be used in place of the formula: for
a described machine, for a guest on this machine, and by the meter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
from kepler_profiler.machine_calibration import FILE, MAX_FILE_BYTES, IntervalFactors, read_factors
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
"""Energy source of the models that `machines fit` trains. They estimate the power of whole machines."""
_MARGIN = 0.05
"""A feature is outside the range of the training if it exceeds the range by more than this fraction of the range."""
_FULL_PART = 0.1
"""If the idle power is known, the interval is narrow at idle and gets wider as the power rises. It has its full width
if (power − idle power) is at least this fraction of (full power − idle power)."""
NEWER_FACTOR = 1.3
"""Minimum factor between the estimate and the upper end of the interval, for a machine outside the range of the
training, e.g. a newer machine. It applies to the power above a known idle power. The formula's class `newer` has the
same factor."""
_SHOWN_FEATURES = 4


@attrs.frozen
class _Curve:
    """Watts and half-widths at each load of `LEVELS`, for one machine.

    `outside` has the names of the features whose values were not in the range of the training.
    """

    watts: FloatArray
    half: FloatArray
    outside: tuple[str, ...]


@attrs.frozen(eq=False)
class MachineModel:
    """A stored model whose features are the description of a machine and its load.

    The power is computed at the loads in `LEVELS`, and interpolated between these loads. If the model predicts less
    power at a load than at the next lower load, the power of the lower load is used.
    """

    name: str
    """Name of the model: its pipeline, and its path in the pipeline."""
    version: str
    """Version of the pipeline; empty if it has none."""
    model: PowerModel
    honesty: Honesty
    facts: Mapping[str, float] = attrs.field(factory=dict)
    """The values of the known facts among `EXTRA_FACTS`, by name."""
    vendor: str | None = None
    """Vendor of the machine."""
    factors: IntervalFactors | None = None
    """Factors for the intervals of known processors and newer machines; None if the pipeline does not have them."""
    _curves: dict[tuple[MachineDescription, float | None], _Curve] = attrs.field(init=False, factory=dict)

    @property
    def needs_idle(self) -> bool:
        """Whether the model needs the idle power of the machine."""
        return IDLE_RATIO in self.model.features

    @property
    def mape(self) -> float | None:
        """Mean error in percent on machines that were held out from the training; None if it was never measured."""
        errors = self.honesty.splits.get("nodes")
        component = None if errors is None else errors.components.get(COMPONENT)
        return None if component is None else component.mape

    @property
    def guest_factor(self) -> Sequence[float]:
        """Lowest and highest factor between the estimated and the true dynamic power of a guest.

        The factors are for guests on a host whose load is not known.
        """
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
        is_newer = curve.outside == (YEAR,)
        if self.factors is not None:
            if is_newer:
                half *= self.factors.newer or 1.0
            elif self.factors.has(machine):
                half *= self.factors.known
        if idle_watts is not None:
            part = min((watts - idle) / max(_FULL_PART * (full - idle), 1e-9), 1.0)
            half = math.hypot(IDLE_METER_ERROR * idle, part * half)
        else:
            reasons.append("a measured idle power of the machine would make the interval much narrower")
        if not curve.outside:
            return Estimate(watts, max(watts - half, 0.0), watts + half, idle, full, "trained", tuple(reasons))
        shown = ", ".join(curve.outside[:_SHOWN_FEATURES])
        if is_newer and self.factors is not None and self.factors.newer is not None:
            reasons.append("newer than the machines that the model was trained on; the interval is wider")
            return Estimate(watts, max(watts - half, 0.0), watts + half, idle, full, "newer", tuple(reasons))
        reasons.append(f"outside the range that the model was trained on: {shown}; the interval is an assumption")
        known = 0.0 if idle_watts is None else idle
        factor = NEWER_FACTOR if is_newer else max(published().class_factor(machine), NEWER_FACTOR)
        half = float(outside_half(half if is_newer else OUTSIDE_FACTOR * half, watts - known, factor))
        ratio = 1 + half / watts
        lower = max(watts / ratio, known * (1 - IDLE_METER_ERROR))
        return Estimate(watts, lower, watts * ratio, idle, full, "outside", tuple(reasons))

    def shape(self, machine: MachineDescription) -> tuple[float, ...]:
        """Return the power at each load in `LEVELS`, scaled so that idle power is 0 and full power is 1.

        The values never fall as the load rises.
        """
        if self.needs_idle:
            return published().shape(machine)  # the model needs the idle power, which is not known here
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

    `added` is the power above the known idle power. If the idle power is not known, `added` is the whole power. The
    half-width is at least (`factor` − 1) × `added`. All arrays have the shape (rows,).
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
    """Return the store's best model for a machine that is only described. All of the model's features must be known.

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
    raise StoreError(f"{place}: no model can estimate power from a machine's description: {reason}")


def _is_machine_model(stored: StoredModel) -> bool:
    return (
        stored.source == SOURCE
        and stored.output_type == "AbsPower"
        and {LOAD, REFERENCE} <= set(stored.features)
        and stored.loadable
    )


def _loaded(stored: StoredModel, facts: Mapping[str, float], vendor: str | None) -> MachineModel:
    """Load a model. Raises `KeplerError` if it cannot be loaded or is not suitable (see `machine_honesty`)."""
    honesty = machine_honesty(stored.metadata, stored.features, facts)
    version = stored.snapshot.version
    return MachineModel(
        f"{stored.pipeline}/{stored.path}",
        "" if version is None else str(version),
        stored.load(),
        honesty,
        facts,
        vendor,
        _factors(stored),
    )


def machine_honesty(
    metadata: Mapping[str, Any], features: Sequence[str], facts: Mapping[str, float] | None = None
) -> Honesty:
    """Check that a model can estimate the power with the known `facts` about a machine. Return the model's errors.

    `features` are the model's features. Raises `KeplerError` if `machines fit` has not trained the model, if the model
    states no interval, or if it needs facts that are not known.
    """
    if not {LOAD, REFERENCE} <= set(features):
        raise ModelError("no model of `kepler-model machines fit`")
    honesty = read_honesty(metadata)
    if honesty is None or COMPONENT not in honesty.intervals:
        raise ModelError("the model states no interval")
    facts = facts or {}
    unknown = [name for name in _needed_facts(features, honesty) if name not in facts]
    if unknown:
        raise ModelError(f"the model needs facts that are not stated: {', '.join(unknown)} (--fact {unknown[0]}=VALUE)")
    known = machine_features(MachineDescription(threads=1), facts, {}, [], 1.0)
    strange = [name for name in features if name not in known and name != LOAD and VENDOR_PREFIX not in name]
    if strange:
        raise ModelError(f"the model needs {strange[0][:60]}, which is not a known fact about machines")
    return honesty


def own_features(*, idle_known: bool) -> tuple[str, ...]:
    """Return the features that every machine can find out itself. The pipelines `NAME-basic` use only these."""
    return (LOAD, *machine_features(MachineDescription(threads=1), None, {}, [], 1.0 if idle_known else None))


def _factors(stored: StoredModel) -> IntervalFactors | None:
    """Return the pipeline's `IntervalFactors`; None if it has none. Raises `KeplerError` if they are invalid."""
    snapshot = stored.snapshot
    return read_factors(snapshot.read(FILE, MAX_FILE_BYTES)) if FILE in snapshot.names else None


def _needed_facts(features: Sequence[str], honesty: Honesty) -> list[str]:
    """Return the names of the `EXTRA_FACTS` about a machine (e.g. its disk count) that a model needs.

    In the training data, the value 0 means that a fact is not known. So if a fact has the value 0 in the training data
    of a model, the model also works without this fact.
    """
    seen = honesty.seen.features
    return [
        fact for fact in EXTRA_FACTS if (name := extra_feature(fact)) in features and seen.get(name, (0.0, 0.0))[0] > 0
    ]
