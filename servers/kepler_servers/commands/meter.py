"""The commands `kepler-model serve meter` and `kepler-model meter status`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.cli.configured_option import config_dir_option, configured_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.errors import CollectorError, UsageError
from kepler_core.vocabulary import COMPONENTS, ZONE_OF_COMPONENT
from kepler_servers.commands.deployment import configure_server_logging, log_options
from kepler_servers.commands.meter_options import machine_options, meter_settings

if TYPE_CHECKING:
    from kepler_core.metering import Output
    from kepler_servers.meter.settings import MeterSettings
    from kepler_servers.meter.status import MeterStatus

log = logging.getLogger(__name__)

DEFAULT_OUTPUT = "powercap"
_ZONES = {zone: component for component, zone in ZONE_OF_COMPONENT.items()}
MIN_VALID_SECONDS = 5.0
"""Minimum time for which a reading is valid if no new reading follows."""
VALID_INTERVALS = 5


@attrs.frozen
class Publishing:
    """The options of `kepler-model serve meter` for the places to which the meter publishes the watts."""

    tree: str
    outputs: tuple[str, ...]
    zone: str
    zones: tuple[str, ...]
    scaphandre: bool
    watts_file: str | None
    per_vm: str | None
    metrics_host: str
    metrics_port: int | None
    kepler_names: bool


def default_tree() -> str:
    """Return the default of `--tree`. The folder is in the service's runtime folder, which systemd sets, or in /run."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if not runtime and os.geteuid() != 0 and os.environ.get("XDG_RUNTIME_DIR"):
        runtime = os.path.join(os.environ["XDG_RUNTIME_DIR"], "kepler-core")
    return os.path.join(runtime or "/run/kepler-core", "sysfs")


_tree_option = configured_option(
    "--tree",
    key="METER_TREE",
    metavar="DIR",
    default=default_tree,
    show_default="/run/kepler-core/sysfs",
    help="Folder that the outputs powercap and hwmon write into, instead of /sys.",
)


@click.command(
    "meter",
    epilog=examples(
        "serve meter --metrics-port 8104", "serve meter -o powercap -o hwmon --watts-file /run/kepler-core/watts"
    ),
)
@_tree_option
@configured_option(
    "-o",
    "--output",
    "outputs",
    key="METER_OUTPUTS",
    metavar="NAME",
    multiple=True,
    help="Output to publish through: powercap, hwmon, prometheus, or the name of a plugin. May be repeated.  "
    "[default: powercap]",
)
@configured_option(
    "--watts-file", key="METER_WATTS_FILE", metavar="FILE", help="Write the watts into the first line of this file."
)
@configured_option(
    "--per-vm",
    key="METER_PER_VM",
    metavar="DIR",
    help="For each QEMU guest of this host, write a folder tree with the guest's share of the power into this folder.",
)
@configured_option(
    "--metrics-port",
    key="METER_METRICS_PORT",
    type=click.IntRange(0, 65535),
    help="Serve Prometheus metrics on this TCP port.",
)
@configured_option(
    "--metrics-host",
    key="METER_METRICS_HOST",
    metavar="ADDR",
    default="127.0.0.1",
    show_default=True,
    help="Address on which Prometheus metrics are served, e.g. 0.0.0.0 for all addresses of the machine.",
)
@configured_option(
    "--kepler-names",
    key="METER_KEPLER_NAMES",
    is_flag=True,
    help="Also serve Kepler's node metrics, for dashboards on machines without Kepler.",
)
@configured_option(
    "--zone",
    key="METER_ZONE",
    type=click.Choice(["package", "psys"]),
    default="package",
    show_default=True,
    help="Zone in which the machine's power is published if the power of its parts is not known.",
)
@configured_option(
    "--zones",
    key="METER_ZONES",
    type=click.Choice(sorted(_ZONES)),
    multiple=True,
    help="Publish only this zone. May be repeated.  [default: all zones that the power source knows]",
)
@configured_option(
    "--scaphandre",
    key="METER_SCAPHANDRE",
    is_flag=True,
    help="Name the folders of the zones intel-rapl:N, as Scaphandre needs, instead of after the power source.",
)
@configured_option(
    "--interval",
    key="METER_INTERVAL",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two readings of the power.",
)
@machine_options
@log_options
@config_dir_option
@click.pass_context
@json_errors_option
def meter(context: click.Context, /, **values: Any) -> None:
    """Publish the watts of this machine for Kepler, Prometheus and other programs.

    Once per interval, the meter reads the most trusted power source that works: a device that measures power, a model
    from a store or model server, or the machine formula. Between two readings, the energy counters rise with the watts
    of the latest reading. `kepler-model meter status` shows what is published.

    \b
    Configuration key that has no option. It is read from the environment or the configuration folder:
      MODEL_SERVER_ENABLE  if false, MODEL_SERVER_URL is ignored
    """
    from kepler_core.configuration import Configuration

    publishing = Publishing(**{field.name: values[field.name] for field in attrs.fields(Publishing)})
    configure_server_logging(context, values["log_level"])
    tree = Path(publishing.tree)
    settings = meter_settings(
        values,
        Configuration(values["config_dir"]),
        interval=values["interval"],
        own_trees=[str(tree / "class" / "powercap"), str(tree / "class" / "hwmon")],
    )
    _serve(publishing, settings)
    if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
        # A thread still waits for a model server or store that does not answer. A normal exit would wait for this
        # thread.
        logging.shutdown()
        os._exit(0)


def _serve(publishing: Publishing, settings: MeterSettings) -> None:
    """Publish the watts until the process gets SIGTERM or SIGINT."""
    from kepler_core.messages import printable
    from kepler_servers.meter.advice import advice
    from kepler_servers.meter.loop import MeterLoop, stop_signal
    from kepler_servers.meter.publishing import Publisher, Zones
    from kepler_servers.meter.settings import build_chain, build_collectors

    with ExitStack() as stack:
        stop = stack.enter_context(stop_signal())
        outputs = _outputs(publishing, settings.root)
        publisher = Publisher(outputs, max(VALID_INTERVALS * settings.interval, MIN_VALID_SECONDS))
        publisher.open()
        stack.callback(publisher.close)
        on_status: list[Callable[[MeterStatus], None]] = [stack.enter_context(_status_file(Path(publishing.tree)))]
        if report := getattr(outputs.get("prometheus"), "report", None):
            on_status.append(report)
        if advise_with := getattr(outputs.get("prometheus"), "advise_with", None):
            advise_with(lambda reading: advice(reading, settings.machine(), settings))
        chain = build_chain(settings)
        stack.callback(chain.close)
        collectors = build_collectors(settings)
        stack.callback(collectors.close)
        try:
            collectors.open()
        except CollectorError as error:  # without features, the meter can still read devices that measure power
            log.warning("no features, retrying: %s", printable(str(error)))
        zones = Zones(tuple(_ZONES[zone] for zone in publishing.zones), _ZONES[publishing.zone])
        log.info("publishing through %s", ", ".join(outputs))
        MeterLoop(collectors, chain, publisher, zones, settings.interval, on_status).run(stop)
    log.info("stopped")


def _outputs(publishing: Publishing, root: str) -> dict[str, Output]:
    """Return the outputs through which the meter publishes, by name.

    The outputs are not open yet. Raises `PluginError` if an output is unknown or broken.
    """
    from kepler_core.plugins import registry

    tree = publishing.tree
    arguments: dict[str, dict[str, Any]] = {
        "powercap": {"root": tree, "scaphandre": publishing.scaphandre},
        "hwmon": {"root": tree},
    }
    names = [registry.outputs.canonical(name) for name in publishing.outputs or (DEFAULT_OUTPUT,)]
    if publishing.watts_file is not None:
        names.append("watts")
        arguments["watts"] = {"path": publishing.watts_file}
    elif "watts" in names:
        raise UsageError("the output watts needs a file: give --watts-file")
    if publishing.per_vm is not None:
        names.append("per-vm")
        arguments["per-vm"] = {"folder": publishing.per_vm, "root": root}
    elif "per-vm" in names:
        raise UsageError("the output per-vm needs a folder: give --per-vm")
    if publishing.metrics_port is not None:
        names.append("prometheus")
    if "prometheus" in names:
        arguments["prometheus"] = {
            "host": publishing.metrics_host, "kepler_names": publishing.kepler_names, "root": root
        } | ({} if publishing.metrics_port is None else {"port": publishing.metrics_port})  # fmt: skip
    return {name: registry.outputs.create(name, arguments.get(name, {})) for name in dict.fromkeys(names)}


@contextmanager
def _status_file(tree: Path) -> Iterator[Callable[[MeterStatus], None]]:
    """Yield a function that writes the status file. Remove the file at the end of the `with` block."""
    from kepler_core.messages import reason_of
    from kepler_servers.meter.status import FILE_NAME, write_status

    try:
        tree.mkdir(parents=True, exist_ok=True)
        folder = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        # The error is not fatal: an unprivileged meter that only serves metrics does not need this folder.
        log.warning("no status for `kepler-model meter status`: cannot write %s: %s", tree, reason_of(error))
        yield lambda _: None
        return
    try:
        yield lambda status: write_status(folder, status)
    finally:
        os.close(folder)
        (tree / FILE_NAME).unlink(missing_ok=True)


@click.group("meter")
def meter_commands() -> None:
    """Show what a running meter publishes."""


@meter_commands.command(epilog=examples("meter status", "meter status --json"))
@_tree_option
@config_dir_option
@json_option
def status(tree: str, config_dir: str | None, as_json: bool) -> None:
    """Show the watts that the meter publishes, where they come from, and the problems of sources and outputs."""
    import msgspec

    from kepler_servers.meter.status import read_status

    report = read_status(Path(tree))
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    _print_status(report)


def _print_status(report: MeterStatus) -> None:
    from kepler_core.messages import printable

    if report.power:
        version = f", version {report.version}" if report.version else ""
        click.echo(printable(f"{report.kind}: {report.source}{version}"))
        if report.description:
            click.echo(printable(report.description))
        rows = [
            (component, f"{power.watts:.1f}", f"{power.lower:.1f}", f"{power.upper:.1f}", f"{power.joules:.0f}")
            for component in COMPONENTS
            if (power := report.power.get(component)) is not None
        ]
        print_table(rows, ("component", "watts", "lower", "upper", "joules"))
    else:
        click.echo(printable(f"no estimate: {report.reason or 'the meter has just started'}"))
    for flag in report.flags:
        click.echo(printable(f"doubt: {flag}"))
    for problem in report.problems:
        click.echo(printable(f"problem: {problem}"))
    for name, problem in report.output_problems.items():
        click.echo(printable(f"output {name} fails: {problem}"))
