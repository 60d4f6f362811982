"""The commands `pair host` and `pair guest`, which record a host and a virtual machine on it, without Prometheus."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kepler_core import kepler_names as names
from kepler_core.atomic_files import check_output
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_core.cli.prometheus import seconds_of
from kepler_core.deadlines import DeadlineError
from kepler_core.errors import CollectorError, KeplerError, RecordingError, UsageError, close_matches
from kepler_core.messages import quoted
from kepler_core.scrape.periodic import every, stopped_by_signals
from kepler_core.scrape.readings import Readings
from kepler_core.scrape.scraper import Scrape, ScrapeError, Scraper

WRITE_SECONDS = 60.0
"""Interval at which the recording is written to the file. If the machine crashes, only the time since then is lost."""
MAX_GUEST_ROWS = 1_000_000
SHORTEST_INTERVAL_SECONDS = 0.6
"""Shortest interval between two readings. Kepler measures again only if its latest measurement is older than 0.5 s."""


@click.group()
def pair() -> None:
    """Record a host and a virtual machine on it, so that `train --host --guest` makes models of the virtual machine.

    Run `pair host` on the host (or on any machine that reaches its Kepler) and `pair guest` in the virtual machine, at
    the same time. Let the load of the virtual machine change every few seconds, without a pattern that repeats.
    Ctrl-C ends a recording and keeps what has been recorded.
    """


_output = click.option("-o", "--output", metavar="FILE", required=True, help="File to write.")
_duration = click.option(
    "--duration", default="10m", show_default=True, help="Length of the recording, e.g. 90s or 1h."
)


@pair.command(epilog=examples("pair host http://host:28282/metrics --vm vm-a --duration 20m -o host.json"))
@click.argument("url")
@_output
@click.option(
    "--interval",
    type=click.FloatRange(SHORTEST_INTERVAL_SECONDS, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two readings.",
)
@_duration
@click.option("--vm", help="End with an error at once if the host has no virtual machine with this vm_id or vm_name.")
@json_errors_option
def host(url: str, output: str, interval: float, duration: str, vm: str | None) -> None:
    """Record what Kepler 0.10 or later on the host reports (URL, e.g. http://host:28282/metrics).

    Writes a recording (.json or .json.gz) that all commands read. Set `monitor: {interval: 0s}` in the configuration of
    this Kepler, and let nothing else read its metrics during the recording: then Kepler measures once per reading.
    Otherwise Kepler also measures between the readings, and the watts are the mean of only a part of the time. The
    joules are right in any case.
    """
    seconds = seconds_of(duration, "--duration")
    path = _checked(output, (".json", ".json.gz"))
    with stopped_by_signals() as stop:
        scraper = Scraper(url, lambda metric: metric in names.RECORDED_METRICS, stop=stop)
        readings = Readings({"instance": scraper.instance})
        failed: list[str] = []

        def read() -> None:
            try:
                scrape = scraper.scrape()
            except ScrapeError as error:
                if not readings.scrapes:
                    raise
                failed.append(str(error))
                return
            if not readings.scrapes:
                _describe(scrape, vm, scraper.shown)
            readings.add(scrape)

        def write() -> None:
            if readings.scrapes:
                readings.write(path)

        _record(read, write, interval, seconds, stop)
    lines = f"{output}: {readings.scrapes} readings"
    click.echo(f"{lines}, {len(failed)} failed ({failed[-1]})" if failed else lines, err=True)


@pair.command(epilog=examples("pair guest --duration 20m -o guest.csv"))
@_output
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two samples.",
)
@_duration
@click.option("--node", help="Name of this machine in the table.  [default: its host name]")
@click.option("--root", default="/", show_default=True, help="Folder that contains proc and sys.")
@json_errors_option
def guest(output: str, interval: float, duration: str, node: str | None, root: str) -> None:
    """Record the features that this virtual machine measures of itself (/proc, and hardware counters if it has any).

    Writes a table (.csv) with one row per sample. A feature that the machine cannot measure is missing, never 0.
    """
    import platform

    from kepler_servers.meter.settings import MeterSettings, build_collectors

    seconds = seconds_of(duration, "--duration")
    path = _checked(output, (".csv",))
    rows: list[tuple[float, dict[str, float]]] = []
    collectors = build_collectors(MeterSettings(root=root))
    collectors.open()
    problems: set[str] = set()
    started = [False]

    def sample() -> None:
        try:
            observation = collectors.collect()
        except CollectorError:
            if not started[0]:
                raise
            return
        started[0] = True
        for problem in sorted(set(observation.problems) - problems):
            click.echo(f"kepler-model: {problem}", err=True)
        problems.update(observation.problems)
        if len(rows) >= MAX_GUEST_ROWS:
            raise KeplerError(f"more than {MAX_GUEST_ROWS} samples; record less often, or for a shorter time")
        if not rows or observation.time > rows[-1][0]:
            # the first row has no features; its time is the beginning of the next row's period
            rows.append((observation.time, dict(observation.features)))

    try:
        with stopped_by_signals() as stop:
            _record(sample, lambda: _write_table(path, rows, node or platform.node()), interval, seconds, stop)
    finally:
        collectors.close()
    features = sorted({feature for _, values in rows for feature in values})
    click.echo(f"{output}: {len(rows)} samples of {', '.join(features) or 'no feature'}", err=True)


def _checked(output: str, suffixes: tuple[str, ...]) -> Path:
    """Return the path of the output. Raises `UsageError` if it cannot be written, or if its suffix is not allowed."""
    if not output.endswith(suffixes):
        raise UsageError(f"{output}: the name must end in {' or '.join(suffixes)}")
    check_output(output)
    return Path(output).resolve()


def _record(
    read: Callable[[], None], write: Callable[[], None], interval: float, duration: float, stop: threading.Event
) -> None:
    """Call `read` once per interval. Call `write` once per minute and at the end, even after an error."""
    written = time.monotonic()
    try:
        with _progress(duration, interval) as advance:
            for _ in every(interval, duration, stop):
                try:
                    read()
                except DeadlineError:
                    return  # a signal interrupted `read`
                advance()
                if time.monotonic() - written >= WRITE_SECONDS:
                    write()
                    written = time.monotonic()
    finally:
        write()


@contextmanager
def _progress(duration: float, interval: float) -> Iterator[Callable[[], None]]:
    """Show a progress bar if standard error is a terminal. Yield a function that advances the bar by one reading."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    bar: Any = click.progressbar(length=int(duration / interval) + 1, label="recording", file=sys.stderr)
    with bar:
        yield lambda: bar.update(1)


def _describe(scrape: Scrape, vm: str | None, where: str) -> None:
    """Print the virtual machines that the host's Kepler reports.

    Raises `RecordingError` if a pair cannot be recorded.
    """
    metrics = {sample.metric for sample in scrape.samples}
    if names.BUILD_INFO in metrics and names.NODE_JOULES not in metrics:
        raise RecordingError(
            f"this Kepler reports no power of the node: `kepler-model doctor {where}` looks for the reason",
            document=where,
        )
    machines = {
        sample.labels.get("vm_id", ""): sample.labels.get("vm_name", "")
        for sample in scrape.samples
        if sample.metric in (names.VM_JOULES, names.PROCESS_SECONDS) and sample.labels.get("vm_id")
    }
    if not machines:
        raise RecordingError(
            f"no virtual machine in the metrics ({names.VM_JOULES}, or a process with the label vm_id); is this Kepler "
            "0.10 or later, and does its metricsLevel contain vm and process?",
            document=where,
        )
    known = [word for pair in machines.items() for word in pair if word]
    if vm is not None and vm not in known:
        raise RecordingError(f"no virtual machine {quoted(vm)}; {close_matches(vm, known)}", document=where)
    if names.PROCESS_SECONDS not in metrics:
        click.echo(
            f"kepler-model: the metrics lack {names.PROCESS_SECONDS}, so models can be trained only for the target "
            "kepler (for the other targets, add process to Kepler's metricsLevel)",
            err=True,
        )
    shown = ", ".join(f"{vm_id} ({name})" if name else vm_id for vm_id, name in machines.items())
    click.echo(f"kepler-model: virtual machines: {shown}", err=True)


def _write_table(path: Path, rows: list[tuple[float, dict[str, float]]], node: str) -> None:
    """Write a CSV table with one row per sample. Write nothing if there are no rows.

    Each of the `rows` has the time (Unix seconds) and the features of a sample.
    """
    import csv
    import io

    from kepler_core.atomic_files import whole_file

    if not rows:
        return
    features = list(dict.fromkeys(feature for _, values in rows for feature in values))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["timestamp", "node", *features])
    for moment, values in rows:
        table.writerow([f"{moment:.3f}", node, *(repr(values[name]) if name in values else "" for name in features)])
    with whole_file(path) as file:
        file.write(text.getvalue().encode())
