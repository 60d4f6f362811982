"""The features of models that are trained on many kinds of machines: facts about a machine, and its load."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from kepler_profiler.formula_document import published_formula
from kepler_profiler.machine_description import MEASURED_VENDORS, MachineDescription, imputed_values
from kepler_profiler.machine_tables import EXTRA_FACTS, MeasuredMachine

LOAD = "machine_load"
"""Name of the feature with the load, from 0 (idle) to 1 (highest throughput)."""
REFERENCE = "machine_tdp_w"
"""Name of the feature with the thermal design power of all chips in watts."""
MIN_MACHINES_OF_VENDOR = 8
"""The models have a feature for a vendor if the table has at least this number of machines of the vendor."""
MAX_VENDORS = 20
YEAR = "machine_year"
"""Name of the feature with the year of the hardware."""
IDLE_RATIO = "machine_idle_per_w"
"""Name of the feature whose value is idle power ÷ `REFERENCE`. Only models that use the idle power have it."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
VENDOR_PREFIX = "machine_vendor_"
"""Prefix of the names of the features that stand for vendors."""


def vendor_feature(vendor: str) -> str:
    """Return the name of the feature that is 1 for the machines of a vendor, and 0 for all other machines."""
    return VENDOR_PREFIX + (_NOT_IN_NAMES.sub("_", vendor.casefold()).strip("_")[:40] or "unnamed")


def vendors_of(machines: Sequence[MeasuredMachine]) -> tuple[str, ...]:
    """Return the names of the features for vendors with enough machines, in alphabetical order."""
    count = Counter(vendor_feature(machine.words["vendor"]) for machine in machines if "vendor" in machine.words)
    frequent = [name for name, number in count.most_common(MAX_VENDORS) if number >= MIN_MACHINES_OF_VENDOR]
    return tuple(sorted(frequent))


def machine_features(
    machine: MachineDescription,
    facts: Mapping[str, float] | None,
    words: Mapping[str, str],
    vendors: Sequence[str],
    idle_watts: float | None = None,
) -> dict[str, float]:
    """Return the features of a machine by name, except the load. All values are at least 0.

    `facts` maps the known `EXTRA_FACTS` to their values; unknown facts get the value 0. If `facts` is None, the result
    has only features that every machine can find out itself. `vendors` are the names of the features for vendors (see
    `vendors_of`). `idle_watts` is the idle power, for models that use it. If the thermal design power,
    memory or year is unknown, a usual value replaces it.
    """
    usual = imputed_values(machine, published_formula().imputed)
    chip = usual["tdp"] if machine.tdp_watts is None else machine.tdp_watts
    memory = usual["memory"] if machine.memory_gib is None else machine.memory_gib
    reference = chip * machine.known_chips
    vendor = vendor_feature(words["vendor"]) if "vendor" in words else ""
    features = {
        REFERENCE: reference,
        "machine_chip_tdp_w": chip,
        "machine_chips": float(machine.known_chips),
        "machine_cores": float(machine.known_cores),
        "machine_threads": float(machine.threads),
        "machine_threads_per_core": machine.threads / machine.known_cores,
        "machine_memory_gib": memory,
        YEAR: usual["year"] if machine.year is None else float(machine.year),
        "machine_is_amd": float(machine.vendor == "amd"),
        "machine_is_other_vendor": float(machine.vendor not in (None, *MEASURED_VENDORS)),
        "machine_is_client": float(machine.client),
        "machine_cores_per_w": machine.known_cores / reference,
        "machine_memory_per_w": memory / reference,
        **({} if facts is None else _extra_features(machine, facts, reference)),
        **{name: float(name == vendor) for name in vendors},
    }
    if idle_watts is not None:
        features[IDLE_RATIO] = idle_watts / reference
    return features


def _extra_features(machine: MachineDescription, facts: Mapping[str, float], reference: float) -> dict[str, float]:
    """Return the features that are calculated from `EXTRA_FACTS`."""
    extra = {name: facts.get(name, 0.0) for name in EXTRA_FACTS}
    return {
        **{extra_feature(name): value for name, value in extra.items()},
        "machine_clock_per_w": machine.known_cores * extra["frequency_mhz"] / reference,
        "machine_dimms_per_w": extra["dimm_count"] / reference,
        "machine_l3_per_core": extra["l3_mb"] * machine.known_chips / machine.known_cores,
        "machine_psu_per_w": extra["psu_rating_w"] / reference,
    }


def extra_feature(fact: str) -> str:
    """Return the name of the feature that holds a fact of `EXTRA_FACTS`."""
    return f"machine_{fact}"
