"""The command `kepler-model watts`: the power of this machine now, without configuration and without a network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.idle_watts import idle_watts_option
from kepler_core.cli.inputs import store_option
from kepler_core.cli.output import json_option
from kepler_core.errors import MeterError

if TYPE_CHECKING:
    from kepler_core.metering import Observation, Reading
    from kepler_servers.meter.collecting import CollectorSet
    from kepler_servers.meter.report import Report
    from kepler_servers.meter.settings import MeterSettings
    from kepler_servers.meter.source_chain import SourceChain
    from kepler_servers.meter.this_machine import ThisMachine

FIRST_PERIOD_SECONDS = 0.4
"""Length of the periods until the first reading. The kernel counts CPU time in ticks of 10 ms."""
FIRST_READING_SECONDS = 10.0
"""Maximum time to wait for the first reading. A source of a virtual machine's host may write every five seconds."""


@click.command()
@click.option("--watch", is_flag=True, help="Print a line for each period, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Length of a period in seconds, with --watch.",
)
@idle_watts_option(
    "Known idle power. A number alone, or platform=WATTS, is that of the whole physical machine at the plug; on a "
    "virtual machine, that of the host."
)
@store_option(required=False)
@click.option("--model-server", metavar="URL", help="Model server to get a model from.")
@click.option("--machine-spec", metavar="FILE", help="JSON file that describes this machine.  [default: discovered]")
@click.option("--instance", metavar="TYPE", help="Type of the cloud instance, e.g. m5.2xlarge.")
@click.option(
    "--idle-share",
    type=click.Choice(["reservation", "none"]),
    default="reservation",
    show_default=True,
    help="Count the same part of the host's idle power as of its CPUs as this virtual machine's, or none of it.",
)
@click.option(
    "--source",
    "sources",
    metavar="NAME",
    multiple=True,
    help="Use only this power source: provided, powercap, msr, hwmon, model or formula. Can be repeated.",
)
@click.option(
    "--root",
    metavar="DIR",
    default="/",
    show_default=True,
    help="Folder that has the machine's folders proc and sys, e.g. /host in a container.",
)
@json_option
def watts(watch: bool, interval: float, idle_watts: str | None, as_json: bool, **options: Any) -> None:
    """Show how many watts this machine draws now, with a 90 % interval.

    The watts are measured if the machine has a meter that can be read, otherwise estimated: by a model of --store or
    --model-server that fits this machine, or by the machine formula. Needs no configuration, no privileges and no
    network. As root, the energy counters of the processors can be read.

    Exit code 1: there is neither a measurement nor an estimate.
    """
    from kepler_core.cli.idle_watts import parse_idle_watts
    from kepler_core.vocabulary import COMPONENTS
    from kepler_servers.meter.settings import SOURCES, MeterSettings, build_chain, build_collectors

    options["sources"] = options["sources"] or SOURCES
    known = {} if idle_watts is None else parse_idle_watts(idle_watts, COMPONENTS)
    settings = MeterSettings(idle_watts=known, interval=interval, **options)
    machine = settings.machine()
    chain = build_chain(settings, machine)
    collectors = build_collectors(settings)
    try:
        collectors.open()
        reading, observation = _first_reading(chain, collectors)
        _show(_report(reading, observation, machine, chain, settings), as_json, watch)
        if watch:
            for reading, observation in _readings(chain, collectors, interval):
                _show(_report(reading, observation, machine, chain, settings), as_json, watch)
    except KeyboardInterrupt:
        if not watch:
            raise
    finally:
        collectors.close()
        chain.close()


def _first_reading(chain: SourceChain, collectors: CollectorSet) -> tuple[Reading, Observation]:
    """Return the first reading. Raises `MeterError` with the reasons if there is none."""
    deadline = time.monotonic() + FIRST_READING_SECONDS
    while True:
        observation = collectors.collect()
        try:
            return chain.reading(observation), observation
        except MeterError:
            if not chain.is_waiting or time.monotonic() >= deadline:
                raise
        time.sleep(FIRST_PERIOD_SECONDS)


def _readings(chain: SourceChain, collectors: CollectorSet, interval: float) -> Iterator[tuple[Reading, Observation]]:
    """Yield a reading for each period. A period without a reading is named on standard error."""
    due = time.monotonic()
    while True:
        due = max(due + interval, time.monotonic())
        time.sleep(due - time.monotonic())
        try:
            observation = collectors.collect()
            yield chain.reading(observation), observation
        except MeterError as error:
            click.echo(f"no watts: {error}", err=True)


def _report(
    reading: Reading, observation: Observation, machine: ThisMachine, chain: SourceChain, settings: MeterSettings
) -> Report:
    from kepler_servers.meter.advice import advice
    from kepler_servers.meter.report import Report
    from kepler_servers.meter.sources.formula import FormulaSource

    whole = None
    if reading.provenance.kind == "measured" and reading.main != "platform" and machine.virtual is None:
        try:
            estimate = FormulaSource(machine, idle_watts=settings.idle_watts.get("platform")).read(observation)
        except MeterError:
            estimate = None
        whole = None if estimate is None else estimate.power["platform"]
    better = advice(reading, machine, settings)
    return Report(reading, machine, whole, observation.load, observation.steal, better, chain.problems)


def _show(report: Report, as_json: bool, watch: bool) -> None:
    if as_json and watch:
        import msgspec

        click.echo(msgspec.json.encode(report.document()).decode())
    elif as_json:
        from kepler_core.cli.output import print_json

        print_json(report.document())
    elif watch:
        click.echo(report.line())
    else:
        click.echo("\n".join(report.lines()))
