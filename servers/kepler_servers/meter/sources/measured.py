"""Make readings from the watts of power sources that measure power, with assumed errors."""

from __future__ import annotations

from collections.abc import Mapping

from kepler_core.errors import MeterError
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_core.vocabulary import in_component_order

MAIN_COMPONENTS = ("platform", "package")
"""A power source that measures power must have at least one of these components. All other components are parts of
these two."""
ERRORS = {"platform": 0.03, "package": 0.05, "core": 0.05, "uncore": 0.1, "dram": 0.2}
"""Assumed errors of meters, as fractions of the power. They come from documents, not from measurements of Kepler Core:
since Haswell, RAPL's package power agrees with external meters to a few percent. RAPL's DRAM power is less exact. Power
supplies with sensors state errors of 1 to 3 %."""


def measured_reading(
    observation: Observation,
    watts: Mapping[str, float],
    name: str,
    description: str,
    problems: list[str],
    waiting: bool,
) -> Reading | None:
    """Return the reading of a power source that measures power; None if the source needs a further period.

    Raises `MeterError` if neither the platform nor the package was measured; `problems` are the reasons.
    """
    if not any(component in watts for component in MAIN_COMPONENTS):
        if waiting and not problems:
            return None
        raise MeterError("; ".join(problems) or "neither a package nor the whole machine is measured")
    power = {}
    for component in in_component_order(watts):
        error = ERRORS[component] * watts[component]
        power[component] = Power(watts[component], watts[component] - error, watts[component] + error)
    return Reading(observation.time, power, Provenance("measured", name, description=description))
