"""The command `kepler-model watts`: show the power of this machine, without configuration and without a network."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.configured_option import config_dir_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option
from kepler_core.errors import MeterError
from kepler_servers.commands.meter_options import machine_options, meter_settings

if TYPE_CHECKING:
    from kepler_core.metering import Observation, Reading
    from kepler_servers.meter.collecting import CollectorSet
    from kepler_servers.meter.report import Report
    from kepler_servers.meter.settings import MeterSettings
    from kepler_servers.meter.source_chain import SourceChain
    from kepler_servers.meter.this_machine import ThisMachine

FIRST_PERIOD_SECONDS = 0.4
"""Length of the periods before the first reading. Shorter periods are inexact: the kernel counts CPU time in ticks of
10 ms."""
PATIENCE_SECONDS = 8.0
"""Maximum time to wait for a better source, e.g. a model server, before a less trusted source is used."""
FIRST_READING_SECONDS = 10.0
"""Maximum time to wait for the first reading. The host of a virtual machine may write only every five seconds."""


@click.command(epilog=examples("watts", "watts --watch --interval 5", "watts --instance m5.2xlarge --json"))
@click.option("--watch", is_flag=True, help="Print a line for each period, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Length of a period in seconds, with --watch.",
)
@machine_options
@config_dir_option
@json_option
def watts(watch: bool, interval: float, config_dir: str | None, as_json: bool, **options: Any) -> None:
    """Show how many watts this machine draws now, with a 90 % interval.

    The watts are measured if the machine has a meter that can be read, otherwise estimated: by a model from --store or
    --model-server that fits this machine, or by the machine formula. Needs no configuration, no privileges and no
    network. As root, the energy counters of the processors can be read.

    Exit code 1: there is neither a measurement nor an estimate.
    """
    from kepler_core.configuration import Configuration
    from kepler_servers.meter.settings import build_chain, build_collectors

    settings = meter_settings(options, Configuration(config_dir), interval=interval)
    with _without_warnings(verbose=bool(click.get_current_context().find_root().params.get("verbose"))):
        machine = settings.machine()
        chain, collectors = build_chain(settings, machine), build_collectors(settings)
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


@contextmanager
def _without_warnings(*, verbose: bool) -> Iterator[None]:
    """Context manager that suppresses warnings of `kepler_servers`, unless `verbose` is true.

    The warnings repeat what the command's report states: why a power source is not used.
    """
    log = logging.getLogger("kepler_servers")
    level = log.level
    if not verbose:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_reading(chain: SourceChain, collectors: CollectorSet) -> tuple[Reading, Observation]:
    """Return the first reading and its observation. Raises `MeterError` with the reasons if there is no reading."""
    begin = time.monotonic()
    deadline = begin + FIRST_READING_SECONDS
    while True:
        chain.start_periods = sys.maxsize if time.monotonic() < begin + PATIENCE_SECONDS else 0
        observation = collectors.collect()
        try:
            return chain.reading(observation), observation
        except MeterError:
            if not chain.is_waiting or time.monotonic() >= deadline:
                raise
        time.sleep(FIRST_PERIOD_SECONDS)


def _readings(chain: SourceChain, collectors: CollectorSet, interval: float) -> Iterator[tuple[Reading, Observation]]:
    """Yield the reading and the observation of each period.

    If there is no reading, print the reason on standard error.
    """
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
        from kepler_core.cli.output import terminal_width
        from kepler_servers.meter.report import NARROWEST, WIDTH

        width = max(NARROWEST, min(WIDTH, terminal_width() or WIDTH))
        click.echo("\n".join(report.lines(width)))
