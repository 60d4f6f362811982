"""The settings of the meter, and the functions that make its collectors and power sources from the settings."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from kepler_core.errors import UsageError, close_matches
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import arguments_of, create
from kepler_servers.meter.collecting import CollectorSet
from kepler_servers.meter.source_chain import SourceChain
from kepler_servers.meter.sources.following import FollowingSource
from kepler_servers.meter.sources.formula import FormulaSource, IdleShare
from kepler_servers.meter.sources.polled import POLL_SECONDS, PolledSource
from kepler_servers.meter.sources.power_source import PowerSource
from kepler_servers.meter.this_machine import MachineWatch, ThisMachine, this_machine

if TYPE_CHECKING:
    from kepler_servers.estimator.model_providers import ModelProvider
    from kepler_servers.meter.sources.redfish import RedfishSettings

SOURCES = ("provided", "powercap", "msr", "hwmon", "ipmi", "redfish", "model", "machine-model", "formula")
"""The names of the power sources, the most trusted first. The first source, `provided`, reads a folder tree in which
the host of a virtual machine writes its measurement of this virtual machine."""
COLLECTORS = ("procfs", "perf")
PROVIDED_TREE_KEY = "SCAPHANDRE_POWERCAP_PATH"
"""Environment variable with the folder that the source `provided` reads. Scaphandre in a virtual machine reads the
same variable."""


@attrs.frozen
class MeterSettings:
    """The settings of the meter of this machine."""

    root: str = "/"
    """Folder that contains proc, sys, dev and var, e.g. "/host" in a container in which the machine's folders are
    mounted there."""
    sources: Sequence[str] = SOURCES
    """Names of the power sources, the most trusted first."""
    collectors: Sequence[str] = COLLECTORS
    """Names of collectors (plugins). If several collectors measure the same feature, the first one is used."""
    store: str | None = None
    model_server: str | None = None
    machine_spec: str | None = None
    """File that describes this machine; if None, the description is discovered."""
    instance: str | None = None
    """Name of the cloud instance type, e.g. "m5.2xlarge"."""
    idle_watts: Mapping[str, float] = attrs.field(factory=dict)
    """Known idle power in watts, by component. `platform` is the whole physical machine; for a virtual machine, this is
    its host."""
    idle_share: IdleShare = "reservation"
    """Part of the host's idle power that a virtual machine gets: a share in proportion to its CPUs ("reservation"), or
    nothing ("none")."""
    provided_tree: str | None = None
    """Folder in which the host provides the power of this virtual machine. None means `var/scaphandre` in `root`."""
    ipmi_device: str | None = None
    """IPMI device to read the power of the machine from, e.g. /dev/ipmi0; None if IPMI is not used."""
    redfish: RedfishSettings | None = None
    """Management controller (BMC) to read the power of the machine from; None if Redfish is not used."""
    bmc_interval: float = POLL_SECONDS
    """Interval in seconds between two requests to the management controller (BMC)."""
    own_trees: Sequence[str] = ()
    """Folders that this meter itself writes. They are never read as a power source."""
    interval: float = 1.0
    """Length of a period in seconds."""

    def machine(self) -> ThisMachine:
        """Return the facts about this machine, with the hosts on which it may run if it is virtual.

        Raises `UsageError` if a setting is wrong.
        """
        spec = None
        if self.machine_spec is not None:
            from kepler_core.machine import read_machine_spec

            spec = read_machine_spec(self.machine_spec)
        return this_machine(Path(self.root), spec, self.instance)


def build_collectors(settings: MeterSettings) -> CollectorSet:
    """Return the collectors that the settings name, without opening them.

    Raises `PluginError` if a collector is unknown or broken.
    """
    collectors = {}
    for name in dict.fromkeys(settings.collectors):
        plugin = registry.collectors.get(name)
        takes_root = any(argument.name == "root" for argument in arguments_of(plugin))
        collectors[name] = create(plugin, name, {"root": settings.root} if takes_root else {})
    return CollectorSet(collectors)


def build_chain(settings: MeterSettings, machine: ThisMachine | None = None) -> SourceChain:
    """Return the power sources that the settings name, the most trusted first.

    `machine` is the result of `settings.machine()`, if the caller already has it. Raises `UsageError` if a source is
    unknown, or if each of the named sources needs a setting that is not set.
    """
    known = [machine] if machine is not None else []
    watch = MachineWatch(Path(settings.root), lambda: known.pop() if known else settings.machine())
    sources = [source for name in dict.fromkeys(settings.sources) if (source := _source(name, settings, watch))]
    if not sources:
        raise UsageError("no power source is left; " + close_matches("", SOURCES))
    return SourceChain(sources)


def _source(name: str, settings: MeterSettings, watch: MachineWatch) -> PowerSource | None:
    """Return the power source with this name; None if the source needs a setting that is not set."""
    root, own_trees = Path(settings.root), [Path(tree) for tree in settings.own_trees]
    if name == "formula":
        known = settings.idle_watts.get("platform")
        share = settings.idle_share
        return FollowingSource(lambda machine: FormulaSource(machine, idle_watts=known, idle_share=share), watch)
    if name == "model":
        providers = _providers(settings)
        if not providers:
            return None
        from kepler_servers.meter.sources.model import ModelSource

        return FollowingSource(
            lambda machine: ModelSource(
                providers,
                machine,
                host_name=socket.gethostname(),
                idle_share=settings.idle_share,
                idle_watts=settings.idle_watts,
            ),
            watch,
        )
    if name in ("powercap", "provided"):
        from kepler_servers.meter.sources.powercap import PowercapSource, ProvidedTreeSource

        if name == "powercap":
            return PowercapSource(root, own_trees=own_trees)
        tree = settings.provided_tree
        return ProvidedTreeSource(root, folder=None if tree is None else Path(tree), own_trees=own_trees)
    if name == "hwmon":
        from kepler_servers.meter.sources.hwmon import HwmonSource

        return HwmonSource(root, own_trees=own_trees)
    if name in ("ipmi", "redfish"):
        return _management_controller(name, settings, watch.machine)
    if name == "machine-model":
        return _machine_model(settings, watch)
    if name == "msr":
        from kepler_servers.meter.sources.msr import MsrSource

        return MsrSource(root)
    raise UsageError(f"unknown power source {name[:60]!r}; {close_matches(name[:60], SOURCES)}")


def _machine_model(settings: MeterSettings, watch: MachineWatch) -> PowerSource | None:
    """Return the source `machine-model`; None if there is neither a model server nor a store."""
    if settings.model_server is None and settings.store is None:
        return None
    from kepler_servers.meter.sources.machine_model import MachineModelSource, model_of_server, model_of_store

    finders = []
    if settings.model_server is not None:
        from kepler_servers.estimator.configured_providers import model_request_url

        finders.append(model_of_server(model_request_url(settings.model_server, None, "--model-server")))
    if settings.store is not None:
        finders.append(model_of_store(settings.store))
    known, share = settings.idle_watts.get("platform"), settings.idle_share
    return FollowingSource(
        lambda machine: MachineModelSource(finders, machine, idle_watts=known, idle_share=share), watch
    )


def _management_controller(name: str, settings: MeterSettings, machine: ThisMachine) -> PowerSource | None:
    """Return the source `ipmi` or `redfish`; None if the setting for the source is not set.

    Raises `UsageError` on a virtual machine, because the management controller measures the whole host.
    """
    if (settings.ipmi_device if name == "ipmi" else settings.redfish) is None:
        return None
    if machine.virtual is not None:
        raise UsageError(
            f"--{name}: this is a virtual machine ({machine.virtual}), and a management controller measures the whole "
            "host; run the meter on the host (--per-vm)"
        )
    what = "power of the whole machine with the losses of its power supply, from the management controller"
    if name == "ipmi" and settings.ipmi_device is not None:
        from kepler_servers.meter.sources.ipmi import IpmiDevice

        device = Path(settings.ipmi_device)
        about = f"{what} ({device}, DCMI)"
        return PolledSource(name, about, lambda: IpmiDevice(device), interval=settings.bmc_interval)
    if name == "redfish" and settings.redfish is not None:
        from kepler_servers.meter.sources.redfish import RedfishController

        redfish = settings.redfish
        about = f"{what} ({redfish.description}, Redfish)"
        return PolledSource(name, about, lambda: RedfishController(redfish), interval=settings.bmc_interval)
    return None


def _providers(settings: MeterSettings) -> list[ModelProvider]:
    """Return the configured model providers: first the model server, then the store, as in the estimator."""
    from kepler_servers.estimator.configured_providers import (
        model_request_url,
        model_server_provider,
        store_provider,
    )

    providers = []
    if settings.model_server is not None:
        providers.append(model_server_provider(model_request_url(settings.model_server, None, "--model-server")))
    if settings.store is not None:
        providers.append(store_provider(settings.store))
    return providers
