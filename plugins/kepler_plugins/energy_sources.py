"""The power meters that Kepler reads."""

from __future__ import annotations

from kepler_core.contracts import EnergySource
from kepler_core.vocabulary import PLATFORM_COMPONENTS, RAPL_COMPONENTS


class RaplSysfs(EnergySource):
    """Intel RAPL, read from /sys/class/powercap: package, core, uncore and DRAM."""

    components = RAPL_COMPONENTS
    sent_as = "intel_rapl"
    reads = ("rapl-sysfs", "rapl")


class RaplMsr(EnergySource):
    """Intel RAPL, read from model-specific registers: package, core, uncore and DRAM."""

    components = RAPL_COMPONENTS
    sent_as = "intel_rapl"
    reads = ("rapl-msr",)


class Acpi(EnergySource):
    """The ACPI power meter of the whole machine."""

    components = PLATFORM_COMPONENTS
    sent_as = "acpi"
    reads = ("acpi",)


class Hmc(EnergySource):
    """IBM's Hardware Management Console: power of the whole machine."""

    components = PLATFORM_COMPONENTS
    sent_as = "acpi"
    reads = ("hmc",)


class Redfish(EnergySource):
    """The baseboard controller's Redfish interface: power of the whole machine."""

    components = PLATFORM_COMPONENTS
    sent_as = "acpi"
    reads = ("redfish",)


class TrainedPowerModel(EnergySource):
    """Power that Kepler estimated with a model instead of measuring it."""

    components = RAPL_COMPONENTS
    sent_as = "trained_power_model"
    reads = ("trained_power_model",)
