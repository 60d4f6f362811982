"""The command `doctor`, which finds out what is wrong with an installation of Kepler 0.10 or later."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.cli.prometheus import seconds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kepler_core.doctor.diagnosis import Diagnosis
    from kepler_core.doctor.idle import ZoneIdle
    from kepler_core.recording import Recording

EXIT_FOUND = 3
"""Exit code if there is an error or a warning, as for `plugins doctor`."""


@click.command(epilog=examples("doctor http://node:28282/metrics", "doctor recording.json.gz --json"))
@click.argument("source", metavar="URL|FILE")
@click.option("--duration", default="12s", show_default=True, help="Time for which a URL is read.")
@click.option(
    "--interval",
    type=click.FloatRange(0.6, 600),
    default=2.0,
    show_default=True,
    help="Seconds between two readings of a URL.",
)
@json_option
def doctor(source: str, duration: str, interval: float, as_json: bool) -> int:
    """Find out what is wrong with an installation of Kepler 0.10 or later, and say what to do.

    Reads a running Kepler (URL, e.g. http://node:28282/metrics) several times, or a recording (FILE). Also shows the
    idle power of each zone if the node was idle, beside the power that Kepler calls idle.

    The exit code is 3 if there is an error or a warning, and 0 if there are no findings, or only notes.
    """
    from kepler_core.doctor.examination import examine
    from kepler_core.doctor.idle import idle_power

    recording = _read(source, seconds_of(duration, "--duration"), interval)
    found, idle = examine(recording), idle_power(recording)
    if as_json:
        print_json(
            {
                "source": recording.name,
                "findings": [diagnosis.as_dict() for diagnosis in found],
                "idle": [zone.as_dict() for zone in idle],
            }
        )
    else:
        _print(recording.name, found)
        print_idle(idle)
    return EXIT_FOUND if any(diagnosis.severity != "note" for diagnosis in found) else 0


def _read(source: str, duration: float, interval: float) -> Recording:
    from kepler_core.kepler_names import RECORDED_METRICS
    from kepler_core.recording import read_recording
    from kepler_core.urls import is_url

    if not is_url(source):
        return read_recording(source, wanted=lambda metric: metric in RECORDED_METRICS)
    from kepler_core.scrape.periodic import every, stopped_by_signals
    from kepler_core.scrape.readings import Readings
    from kepler_core.scrape.scraper import Scraper

    with stopped_by_signals() as stop:
        scraper = Scraper(source, lambda metric: metric in RECORDED_METRICS, stop=stop)
        readings = Readings({"instance": scraper.instance})
        for _ in every(interval, duration, stop):
            readings.add(scraper.scrape())
            if sys.stderr.isatty():
                click.echo(f"\r{readings.scrapes} readings of {scraper.shown}", err=True, nl=False)
    if sys.stderr.isatty():
        click.echo(err=True)
    return read_recording(readings.content(), name=scraper.shown)


def _print(source: str, found: Sequence[Diagnosis]) -> None:
    click.echo(click.style(source, bold=True))
    if not found:
        click.echo("  nothing found")
    for diagnosis in found:
        where = f" ({diagnosis.node})" if diagnosis.node else ""
        click.echo(f"  {diagnosis.severity}: {diagnosis.rule}{where}: {diagnosis.seen}")
        click.echo(f"    {diagnosis.advice}")


def print_idle(zones: Sequence[ZoneIdle], indent: str = "  ") -> None:
    """Print a table of the idle power of zones, beside the power that Kepler calls idle."""
    if not zones:
        return
    click.echo("\nIdle power")
    print_table(
        [
            (
                zone.node,
                zone.zone,
                None if zone.watts is None else f"{zone.watts:.2f}",
                None if zone.kepler_watts is None else f"{zone.kepler_watts:.2f}",
                zone.reason,
            )
            for zone in zones
        ],
        ("node", "zone", "idle W", 'Kepler\'s "idle" W', ""),
        indent,
    )
    click.echo(
        f'{indent}Kepler\'s "idle" is the power times the idle fraction of the CPU time; '
        "this value falls when the load rises."
    )
