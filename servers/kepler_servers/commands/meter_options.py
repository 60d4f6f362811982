"""The options of the commands that measure or estimate the power of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.configured_option import configured_option
from kepler_core.configuration import Configuration
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_servers.meter.settings import MeterSettings
    from kepler_servers.meter.sources.redfish import RedfishSettings

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    configured_option(
        "--root",
        key="METER_ROOT",
        metavar="DIR",
        default="/",
        show_default=True,
        help="Folder that contains proc and sys, e.g. /host in a container.",
    ),
    configured_option(
        "--source",
        "sources",
        key="METER_SOURCES",
        metavar="NAME",
        multiple=True,
        help="Power source to use: provided, powercap, msr, hwmon, ipmi, redfish, model, machine-model or formula. May "
        "be repeated, the most trusted source first.  [default: all, in this order]",
    ),
    configured_option(
        "--collector",
        "collectors",
        key="METER_COLLECTORS",
        metavar="NAME",
        multiple=True,
        help="Collector of features to use. May be repeated.  [default: procfs and perf]",
    ),
    click.option(
        "-s",
        "--store",
        metavar="DIR|URL",
        help="Model store to get a model for this machine from.  [configuration key: MODEL_PATH]",
    ),
    click.option(
        "--model-server",
        metavar="URL",
        help="Model server to get a model from, before the store is tried.  [configuration key: MODEL_SERVER_URL]",
    ),
    configured_option(
        "--machine-spec",
        key="METER_MACHINE_SPEC",
        metavar="FILE",
        help="JSON file that describes this machine.  [default: the description is discovered]",
    ),
    configured_option(
        "--instance",
        key="METER_INSTANCE",
        metavar="TYPE",
        help="Instance type of this virtual machine in its cloud, e.g. m5.2xlarge.  [default: discovered]",
    ),
    configured_option(
        "--idle-watts",
        key="METER_IDLE_WATTS",
        metavar="[COMPONENT=]WATTS[,…]",
        help="Known idle power of the physical machine, e.g. 120, or package=30,dram=5.",
    ),
    configured_option(
        "--idle-share",
        key="METER_IDLE_SHARE",
        type=click.Choice(["reservation", "none"]),
        default="reservation",
        show_default=True,
        help="Part of the host's idle power that a virtual machine gets: in proportion to its reserved CPUs "
        "(reservation), or nothing (none).",
    ),
    configured_option(
        "--provided-tree",
        key="SCAPHANDRE_POWERCAP_PATH",
        metavar="DIR",
        help="Folder in which the host provides the power of this virtual machine.  [default: /var/scaphandre]",
    ),
    configured_option(
        "--ipmi",
        "ipmi_device",
        key="METER_IPMI",
        metavar="DEVICE",
        help="Ask the management controller for the power of the machine through this IPMI device, e.g. /dev/ipmi0.",
    ),
    configured_option(
        "--redfish",
        "redfish_url",
        key="METER_REDFISH",
        metavar="URL",
        help="Ask the management controller at this URL for the power of the machine, e.g. https://10.0.0.5.",
    ),
    configured_option(
        "--redfish-credentials",
        key="METER_REDFISH_CREDENTIALS",
        metavar="FILE",
        help="File with the line user:password for --redfish.",
    ),
    configured_option(
        "--redfish-ca",
        key="METER_REDFISH_CA",
        metavar="FILE",
        help="File with the authorities' certificates that --redfish is verified with.  [default: the system's]",
    ),
    configured_option(
        "--redfish-insecure",
        key="METER_REDFISH_INSECURE",
        is_flag=True,
        help="Accept any certificate of --redfish, without verification.",
    ),
    configured_option(
        "--redfish-chassis",
        key="METER_REDFISH_CHASSIS",
        metavar="NAME",
        help="Chassis of --redfish whose power to read.  [default: the only chassis that states its power]",
    ),
    configured_option(
        "--bmc-interval",
        key="METER_BMC_INTERVAL",
        type=click.FloatRange(1, 600),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="Interval between two requests to the management controller (--ipmi or --redfish).",
    ),
)


def machine_options(command: F) -> F:
    """Add the options that `meter_settings` reads to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def meter_settings(
    values: Mapping[str, Any], configuration: Configuration, *, interval: float = 1.0, own_trees: Sequence[str] = ()
) -> MeterSettings:
    """Make the settings of a meter from the values of the options in `machine_options`. Raises `UsageError`."""
    from kepler_core.cli.idle_watts import parse_idle_watts
    from kepler_servers.meter.settings import COLLECTORS, SOURCES, MeterSettings

    idle = values["idle_watts"]
    server = configuration.text("MODEL_SERVER_URL", values["model_server"])
    if values["model_server"] is None and configuration.flag("MODEL_SERVER_ENABLE") is False:
        server = None
    return MeterSettings(
        root=values["root"],
        sources=values["sources"] or SOURCES,
        collectors=values["collectors"] or COLLECTORS,
        store=configuration.text("MODEL_PATH", values["store"]),
        model_server=server,
        machine_spec=values["machine_spec"],
        instance=values["instance"],
        idle_watts={} if idle is None else parse_idle_watts(idle, ("platform",)),
        idle_share=values["idle_share"],
        provided_tree=values["provided_tree"],
        ipmi_device=values["ipmi_device"],
        redfish=_redfish(values),
        bmc_interval=values["bmc_interval"],
        own_trees=tuple(own_trees),
        interval=interval,
    )


def _redfish(values: Mapping[str, Any]) -> RedfishSettings | None:
    names = ("credentials", "ca", "insecure", "chassis")
    if values["redfish_url"] is None:
        for name in names:
            if values[f"redfish_{name}"]:
                raise UsageError(f"--redfish-{name} needs --redfish URL")
        return None
    from kepler_servers.meter.sources.redfish import RedfishSettings

    credentials, ca_file = values["redfish_credentials"], values["redfish_ca"]
    return RedfishSettings(
        values["redfish_url"],
        credentials=None if credentials is None else Path(credentials),
        ca_file=None if ca_file is None else Path(ca_file),
        insecure=values["redfish_insecure"],
        chassis=values["redfish_chassis"],
    )
