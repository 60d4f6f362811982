"""The built-in energy sources: the power meters that Kepler reads."""

from __future__ import annotations

from kepler_core.contracts import EnergySource
from kepler_core.vocabulary import PLATFORM_COMPONENTS, RAPL_COMPONENTS


class RaplSysfs(EnergySource):
    """Intel RAPL, read from /sys/class/powercap: package, core, uncore and DRAM."""

    components = RAPL_COMPONENTS
    sent_as = "intel_rapl"
    reads = ("rapl-sysfs", "rapl", "intel_rapl")
    """In the metrics of Kepler 0.7.3 to 0.7.9, this meter has the label `intel_rapl`."""


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


class AmpereXgeneHwmon(EnergySource):
    """The CPU power sensor of Ampere machines. Kepler reports its energy as core and as package.

    Kepler 0.7.10 and later also export series of dram and uncore whose source label is `ampere-xgene-hwmon`. These
    series are always 0.
    """

    components = ("package", "core")
    sent_as = "intel_rapl"
    reads = ("ampere-xgene-hwmon",)


class GraceAcpi(EnergySource):
    """The ACPI power sensors of NVIDIA Grace machines: the whole socket as package, the CPU as core.

    Kepler also exports series of dram and uncore whose source label is `grace-acpi`. These series are always 0.
    """

    components = ("package", "core")
    sent_as = "intel_rapl"
    reads = ("grace-acpi",)


class TrainedPowerModel(EnergySource):
    """Power that Kepler estimated with a model instead of measuring it."""

    components = (*RAPL_COMPONENTS, *PLATFORM_COMPONENTS)
    sent_as = "trained_power_model"
    reads = ("trained_power_model",)


class VmKepler(EnergySource):
    """The power of a virtual machine, as Kepler on its host reports it: the training target `kepler`."""

    components = RAPL_COMPONENTS
    sent_as = "vm-kepler"
    reads = ("vm-kepler",)


class VmCapacity(EnergySource):
    """The host's power times the virtual machine's share of all CPU time: the training target `capacity`."""

    components = RAPL_COMPONENTS
    sent_as = "vm-capacity"
    reads = ("vm-capacity",)


class VmMarginal(EnergySource):
    """A virtual machine's part of the host's idle power and of the power above it: the training target `marginal`."""

    components = RAPL_COMPONENTS
    sent_as = "vm-marginal"
    reads = ("vm-marginal",)
