"""The power source that applies models from a model store or model server to the features of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import MeterError
from kepler_core.honesty.flags import flags
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_core.vocabulary import VM_SOURCES, in_component_order
from kepler_profiler.formula_document import published_formula
from kepler_servers.estimator.explanation import half_widths_of
from kepler_servers.estimator.loaded_model import LoadedModel, is_host
from kepler_servers.estimator.model_cache import CacheEntry, ModelCache
from kepler_servers.estimator.model_providers import ModelProvider
from kepler_servers.estimator.request import ModelKey
from kepler_servers.meter.sources.formula import IdleShare
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.this_machine import ThisMachine

ENERGY_SOURCES = ("acpi", "rapl-sysfs")
"""Models of these energy sources are requested: acpi (whole machine) and rapl-sysfs (components)."""
GUEST_SOURCES = tuple(VM_SOURCES.values())
"""Energy sources whose models a virtual machine prefers. These models were trained on virtual machines, with watts from
their hosts."""
REFRESH_SECONDS = 120.0
"""Interval at which better models are searched for."""
UNSTATED_ERROR = 0.5
"""Half-width of the interval of a model that states no errors, as a fraction of its watts."""
MIN_SIMILARITY = 0.4
"""Lowest similarity (0 to 1) of this machine and the model's machine. Below it, the machine formula is more accurate
than the model."""
_ROWS = 2
_NOW, _IDLE = range(_ROWS)


class ModelSource:
    """Power source that uses the best model for this machine among those whose features the collectors measure.

    A background thread searches for the models. While the store or model server cannot be read, the loaded models stay
    in use.
    """

    kind: Kind = "model"
    name = "model"

    def __init__(
        self,
        providers: Sequence[ModelProvider],
        machine: ThisMachine,
        *,
        host_name: str,
        idle_share: IdleShare = "reservation",
        idle_watts: Mapping[str, float] | None = None,
    ) -> None:
        """`host_name` is the name of this machine. A model may state that it was trained on a machine with this name.

        `idle_watts` is the known idle power by component. The watts are shifted to match this idle power. See
        `FormulaSource` for `idle_share`.
        """
        self._machine = machine
        self._host_name = host_name
        self._idle_share: IdleShare = idle_share
        self._idle_watts = dict(idle_watts or {})
        self._providers = [provider.name for provider in providers]
        self._cache = ModelCache(
            providers,
            machine_spec=machine.spec.as_dict(),
            refresh_seconds=REFRESH_SECONDS,
            on_search_end=lambda: None,
            logs_problems=False,  # `SourceChain` logs the reasons of all energy sources in one line
        )
        self._cache.start()
        self._used: dict[str, LoadedModel] = {}

    def read(self, observation: Observation) -> Reading | None:
        if observation.seconds <= 0:
            return None
        if not observation.features:
            raise MeterError("; ".join(observation.problems) or "no collector measures this machine")
        sources = ENERGY_SOURCES if self._machine.virtual is None else (*GUEST_SOURCES, *ENERGY_SOURCES)
        entries = {source: self._entry(source, observation) for source in sources}
        models: dict[str, LoadedModel] = {}
        reasons: dict[str, None] = {}
        for source, entry in entries.items():
            model = self._model(source, entry, observation)
            problem = entry.problem if model is None else self._unlike(model)
            if model is not None and not problem:
                models[source] = model
            elif problem and (model is not None or source in ENERGY_SOURCES):
                reasons[problem] = None  # no reason for `GUEST_SOURCES`, which most stores lack
        own = [source for source in GUEST_SOURCES if source in models]
        if own:
            models = {own[0]: models[own[0]]}
        elif not self._used and any(entries[source].searching for source in sources if source in GUEST_SOURCES):
            return None  # a model of virtual machines is preferred, and may be found soon
        if not models:
            if any(entry.searching for entry in entries.values()):
                return None
            raise MeterError("; ".join(reasons) or "no model fits")
        self._used = models
        return self._reading(observation, models, [entries[source].problem for source in models])

    def close(self) -> None:
        self._cache.stop()

    def _entry(self, source: str, observation: Observation) -> CacheEntry:
        key = ModelKey("AbsPower", source, "", "", frozenset(observation.features))
        return self._cache.entry(key)

    def _model(self, source: str, entry: CacheEntry, observation: Observation) -> LoadedModel | None:
        """Return the model of a cache entry.

        While the entry is new and its model is still searched for, return the model that was used before. It must not
        need a feature that is no longer measured.
        """
        if entry.loaded is not None:
            return entry.loaded
        used = self._used.get(source) if entry.searching else None
        return used if used is not None and set(used.model.features) <= set(observation.features) else None

    def _unlike(self, loaded: LoadedModel) -> str:
        """Return the reason why a model does not fit this machine; "" if it fits."""
        if self._is_trained_here(loaded):
            return ""
        name, node_type = loaded.offer.name, loaded.offer.why.get("node_type")
        similarity = node_type.get("similarity") if isinstance(node_type, Mapping) else None
        if not isinstance(similarity, int | float):
            return f"{name}: the machine of its training is not known; train with --machine-spec"
        if similarity < MIN_SIMILARITY:
            return f"{name} is for another machine (similarity {similarity:.2f}, at least {MIN_SIMILARITY} is needed)"
        if self._machine.virtual is not None and loaded.core_ratio is None:
            return f"{name}: the number of CPUs of the training's machine is not known, so neither is this one's part"
        return ""

    def _is_trained_here(self, loaded: LoadedModel) -> bool:
        """Return whether a model was trained on a node with the name of this machine."""
        honesty = loaded.check.honesty
        return honesty is not None and any(is_host(name, self._host_name) for name in honesty.seen.node_names)

    def _reading(
        self, observation: Observation, models: Mapping[str, LoadedModel], problems: Sequence[str]
    ) -> Reading | None:
        powers: dict[str, _ComponentPower] = {}
        raised: dict[str, None] = {}
        for source, loaded in models.items():
            ratio = 1.0 if source in GUEST_SOURCES else self._guest_ratio(loaded)
            by_component, own_flags = self._powers(observation, loaded, ratio)
            for component, power in by_component.items():
                powers.setdefault(component, power)
            raised.update(dict.fromkeys(own_flags))
        if not all(math.isfinite(power.now.upper) for power in powers.values()):
            raise MeterError(f"{next(iter(models.values())).offer.name}: the watts are not finite")
        loaded = next(iter(models.values()))
        main = "platform" if "platform" in powers else in_component_order(powers)[0]
        description = f"model {loaded.offer.name} from {loaded.provider}"
        if len(models) > 1:
            description += f", and {list(models.values())[1].offer.name} for the components"
        if any(problems):
            description += f"; kept in use, because: {next(problem for problem in problems if problem)}"
        version = loaded.offer.why.get("version")
        return Reading(
            observation.time,
            {component: powers[component].now for component in in_component_order(powers)},
            Provenance("model", loaded.offer.name, "" if version is None else str(version), description),
            powers[main].idle,
            None,
            self._shown_idle_share(models),
            tuple(raised),
            observation,
        )

    def _powers(
        self, observation: Observation, loaded: LoadedModel, ratio: float
    ) -> tuple[dict[str, _ComponentPower], list[str]]:
        """Return the power of each component, and reasons to doubt it. See `_component` for `ratio`."""
        features = loaded.model.features
        values = np.zeros((_ROWS, len(features)))
        values[_NOW] = [observation.features[feature] for feature in features]
        checked = loaded.check.twinned.watts(values, features)
        widths = half_widths_of(loaded, checked, self._host_name)
        powers = {}
        for component, watts in zip(loaded.model.components, checked.watts, strict=True):
            half = widths.get(component, np.abs(watts) * UNSTATED_ERROR)
            powers[component] = self._component(component, watts, half, ratio)
        honesty = loaded.check.honesty
        return powers, list(
            flags(
                honesty,
                loaded.match(self._host_name),
                outside=bool(checked.outside[_NOW]),
                disagrees=bool(checked.disagrees[_NOW]),
            )
        )

    def _shown_idle_share(self, models: Mapping[str, LoadedModel]) -> Literal["reservation", "none", "all"]:
        if self._machine.virtual is not None and next(iter(models)) in GUEST_SOURCES:
            # the watts of a model for virtual machines always include a part of the host's idle power
            return "reservation"
        return "all" if all(self._guest_ratio(model) >= 1 for model in models.values()) else self._idle_share

    def _guest_ratio(self, loaded: LoadedModel) -> float:
        """Return the number of this machine's CPUs ÷ the number of the CPUs of the model's machine, at most 1. Return 1
        if this machine is not virtual, or if the model was trained on this machine."""
        if self._machine.virtual is None or loaded.core_ratio is None or self._is_trained_here(loaded):
            return 1.0
        return min(loaded.core_ratio, 1.0)

    def _component(self, component: str, watts: FloatArray, half: FloatArray, ratio: float) -> _ComponentPower:
        """Compute the power of this machine, now and idle, from the watts that the model predicts.

        `watts` and `half` each have two values: for the present features, and for the idle machine. The power of a
        virtual machine is the fraction `ratio` of the idle power, plus the power of its own work. The power of its work
        also depends on the other virtual machines on the host. Their load is not known, so the interval is wider.
        """
        now, idle = (max(float(value), 0.0) for value in watts)
        half_now, half_idle = (float(value) for value in half)
        known = self._idle_watts.get(component)
        if known is not None:
            now, idle, half_idle = max(now + known - idle, 0.0), known, 0.0
        if ratio >= 1:
            return _ComponentPower(_power(now, half_now, half_now), _power(idle, half_idle, half_idle))
        work = max(now - idle, 0.0)
        own_idle = 0.0 if self._idle_share == "none" else idle * ratio
        half_work = half_now * work / now if now > 0 else 0.0
        half_own = math.hypot(half_work, half_idle * ratio if own_idle else 0.0)
        low, high = published_formula().guest_factor
        return _ComponentPower(
            _power(own_idle + work, half_own + (1 - low) * work, half_own + (high - 1) * work),
            _power(own_idle, half_idle * ratio, half_idle * ratio),
        )


@attrs.frozen
class _ComponentPower:
    now: Power
    idle: Power


def _power(watts: float, below: float, above: float) -> Power:
    return Power(watts, max(watts - below, 0.0), watts + above)
