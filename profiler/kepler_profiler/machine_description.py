"""The facts about a machine that the machine formula uses, and how they are checked and filled in.

`MachineDescription` describes a whole physical machine. Each fact may be unknown, except for the number of threads.
`describe` makes a description from a machine's own attributes (`MachineSpec`) and from the table of processors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from kepler_core.errors import UsageError
from kepler_core.machine import MachineSpec
from kepler_profiler.processors import InstanceFamily, Processor, lookup

MEASURED_VENDORS = ("intel", "amd")
"""Processor vendors of the machines that the formula was fitted to."""
LAST_MEASURED_YEAR = 2021
"""Year of the newest hardware that the formula was fitted to. Later years are treated as this year."""
_FIRST_MEASURED_YEAR = 2006
_MEASURED_MEMORY_GIB = (4.0, 1536.0)
_REFERENCE_THREADS_PER_CORE = 2

_LIMITS: Mapping[str, tuple[float, float]] = {
    "threads": (1, 65_536),
    "cores": (1, 65_536),
    "chips": (1, 256),
    "tdp_watts": (1, 5_000),
    "memory_gib": (0.25, 1_048_576),
    "year": (1990, 2100),
}
"""Smallest and largest accepted value of each number."""


@attrs.frozen
class MachineDescription:
    """Facts about a physical machine. A fact that is not known is None.

    Raises `UsageError` if a number is out of its range, or if the numbers contradict each other.
    """

    threads: int
    """Number of logical CPUs of all chips."""
    cores: int | None = None
    """Number of physical cores of all chips. If it is None, `known_cores` is used."""
    chips: int | None = None
    """Number of sockets with a processor. If it is None, one chip is assumed."""
    tdp_watts: float | None = None
    """Thermal design power of one chip in watts."""
    memory_gib: float | None = None
    year: int | None = None
    """Year in which the processor was introduced. It is used as the year of the hardware."""
    vendor: str | None = None
    """Vendor of the processor in lower case: "intel", "amd", "ampere" …"""
    client: bool = False
    """Whether the processor is made for desktops and laptops."""

    def __attrs_post_init__(self) -> None:
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:  # NaN is rejected, too
                raise UsageError(f"{value} is not between {lowest:g} and {highest:g}", path=(name,))
        if self.cores is not None and self.cores > self.threads:
            raise UsageError(f"{self.cores} cores cannot have only {self.threads} threads", path=("cores",))
        if self.chips is not None and self.chips > (self.cores or self.threads):
            raise UsageError(f"{self.chips} chips have more than {self.cores or self.threads} cores", path=("chips",))

    @property
    def known_chips(self) -> int:
        """Number of chips; 1 if the number is not known."""
        return self.chips or 1

    @property
    def known_cores(self) -> int:
        """Number of cores; if the number is not known, half of the threads, but at least one core per chip."""
        return self.cores or max(self.threads // _REFERENCE_THREADS_PER_CORE, self.known_chips)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the unknown facts that the formula has to replace by usual values: tdp, memory, year."""
        facts = {"tdp": self.tdp_watts, "memory": self.memory_gib, "year": self.year}
        return tuple(name for name, value in facts.items() if value is None)


def describe(spec: MachineSpec, processor: Processor | None = None) -> MachineDescription | None:
    """Return the description of a physical machine from its attributes and its processor.

    Return None if the number of logical CPUs is not known. The attributes of a virtual machine describe the virtual
    machine, not its host: use `host_of` for the host of a cloud instance.
    """
    threads, chips = spec.cores, spec.chips
    if threads is None:
        if processor is None or processor.threads is None:
            return None
        threads = processor.threads * (chips or 1)
    cores = None
    if spec.threads_per_core and spec.threads_per_core <= threads:
        cores = threads // spec.threads_per_core
    elif processor is not None and processor.cores and processor.threads:
        cores = max(threads * processor.cores // processor.threads, 1)
    if chips is None and processor is not None and processor.threads:
        chips = max(round(threads / processor.threads), 1)
    vendor = None if processor is None else processor.vendor
    return MachineDescription(
        threads=threads,
        cores=cores,
        chips=chips,
        tdp_watts=None if processor is None else processor.tdp_watts,
        memory_gib=None if spec.memory is None else float(spec.memory),
        year=None if processor is None else processor.year,
        vendor=vendor or vendor_of(spec),
        client=processor is not None and processor.client,
    )


def host_of(family: InstanceFamily) -> MachineDescription | None:
    """Return the description of the hosts of a family of cloud instances.

    A fact counts as unknown if it differs between the family's processors. Return None if the table of instances
    does not have the size of the hosts, because the provider does not publish it.
    """
    if family.host_threads is None:
        return None
    rows = [processor for name in family.processors if (processor := lookup(name)) is not None]
    cores_by_threads = {row.cores / row.threads for row in rows if row.cores and row.threads}
    tdp, years, vendors = ({getattr(row, name) for row in rows} for name in ("tdp_watts", "year", "vendor"))
    known_years = [year for year in years if year is not None]
    return MachineDescription(
        threads=family.host_threads,
        cores=round(family.host_threads * cores_by_threads.pop()) if len(cores_by_threads) == 1 else None,
        chips=family.host_chips,
        tdp_watts=tdp.pop() if len(tdp) == 1 else None,
        memory_gib=family.host_memory_gib,
        year=round(sum(known_years) / len(known_years)) if known_years else None,
        vendor=vendors.pop() if len(vendors) == 1 else None,
    )


def vendor_of(spec: MachineSpec) -> str | None:
    """Return the vendor of a machine's processor from the processor's name or the CPU's vendor ID; None if unknown."""
    names = {"genuineintel": "intel", "authenticamd": "amd"}
    if spec.vendor:
        return names.get(spec.vendor.casefold(), spec.vendor.casefold())
    return spec.processor.partition("_")[0] if spec.processor else None


def terms(machine: MachineDescription, imputed: Mapping[str, float]) -> dict[str, float]:
    """Return the values that the formula multiplies by its coefficients, by name.

    For usual servers of 2012, all values are near 0. `imputed` has values that replace unknown facts: the thermal
    design power of one chip in watts (tdp), the memory in GiB (memory) and the year (year).
    """
    tdp = imputed["tdp"] if machine.tdp_watts is None else machine.tdp_watts
    memory = imputed["memory"] if machine.memory_gib is None else machine.memory_gib
    year = imputed["year"] if machine.year is None else machine.year
    memory = min(max(memory, _MEASURED_MEMORY_GIB[0]), _MEASURED_MEMORY_GIB[1])
    age = (min(max(year, _FIRST_MEASURED_YEAR), LAST_MEASURED_YEAR) - 2012) / 5
    return {
        **_plain_terms(machine),
        "tdp": math.log(tdp * machine.known_chips / 200),
        "memory": math.log(memory / 32),
        "year": age,
        "year2": age * age,
        "amd_year": age if machine.vendor == "amd" else 0.0,
    }


def imputed_values(machine: MachineDescription, coefficients: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return usual values of the properties that may be unknown: tdp (W per chip), memory (GiB) and year.

    `coefficients` maps each property to the coefficients for `_plain_terms`. They predict ln(tdp), ln(memory) or
    year − 2012.
    """
    plain = _plain_terms(machine)
    sums = {fact: sum(plain[name] * value for name, value in own.items()) for fact, own in coefficients.items()}
    return {
        "tdp": math.exp(min(max(sums["tdp"], math.log(15)), math.log(500))),
        "memory": math.exp(min(max(sums["memory"], math.log(4)), math.log(2048))),
        "year": min(max(2012 + sums["year"], _FIRST_MEASURED_YEAR), LAST_MEASURED_YEAR),
    }


def _plain_terms(machine: MachineDescription) -> dict[str, float]:
    """Return the terms for `imputed_values`, which are computed without tdp, memory and year."""
    cores = machine.known_cores
    return {
        "one": 1.0,
        "cores": math.log(cores / 16),
        "threads": min(machine.threads / cores - 1, 1.0),
        "chips": math.log(machine.known_chips / 2),
        "amd": 1.0 if machine.vendor == "amd" else 0.0,
    }
