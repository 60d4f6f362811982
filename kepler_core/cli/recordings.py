"""The commands `validate` and `simulate`, which check and create recordings."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from kepler_core.cli.doctor import print_idle
from kepler_core.cli.examples import examples
from kepler_core.cli.findings import print_findings
from kepler_core.cli.inputs import metric_prefix_option, open_all, parse_vm_guests, vm_guest_option
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.doctor.idle import ZoneIdle, idle_power
from kepler_core.errors import RecordingError
from kepler_core.faults import FAULTS
from kepler_core.honesty.flags import ONE_RECORDING
from kepler_core.kepler_names import NODE_JOULES
from kepler_core.recording import Recording, RecordingParts
from kepler_core.recording.parts import parts_of
from kepler_core.recording.preflight import Preflight, check
from kepler_core.recording.times import utc
from kepler_core.simulate import EXPORTERS


@click.command(epilog=examples("validate recording.json.gz", "validate monday.json.gz tuesday.json.gz --json"))
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--vm", "use_vm_metrics", is_flag=True, help='Check the metrics of a VM and of its processes (job="vm").')
@vm_guest_option()
@metric_prefix_option()
@click.option("--strict", is_flag=True, help="Exit with code 1 if a recording has any finding.")
@json_option
def validate(
    files: tuple[str, ...],
    use_vm_metrics: bool,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    strict: bool,
    as_json: bool,
) -> int:
    """Report which models can be trained from a recording, and why other models cannot.

    Reads Prometheus range-query results (JSON, plain or gzipped, or Parquet). The exit code is 0 if a model can
    be trained from every FILE, else 1. With --strict, it is also 1 if a recording has any finding.
    --vm-guest implies --vm.
    """
    guests = parse_vm_guests(vm_guests)
    reports: list[Preflight] = []
    idle: list[list[ZoneIdle]] = []
    for file in files:
        try:
            recording = open_all([file], metric_prefix=metric_prefix)[0]
            reports.append(check(recording, use_vm_metrics=use_vm_metrics or bool(guests), vm_guests=guests))
            idle.append(_idle_power(recording))
        except RecordingError as error:
            if len(files) == 1:
                raise
            # report this error, then check the remaining files
            click.echo(f"kepler-model: error: {error}", err=True)
    if as_json:
        documents = [
            {**report.as_dict(), "idle_power": [zone.as_dict() for zone in zones]}
            for report, zones in zip(reports, idle, strict=True)
        ]
        print_json(documents[0] if len(files) == 1 else documents)
    else:
        for index, (report, zones) in enumerate(zip(reports, idle, strict=True)):
            if index:
                click.echo()
            _print(report, zones)
        if len(files) == 1 and reports[0].trainable:
            click.echo(ONE_RECORDING)
    usable = all(report.trainable and not (strict and report.findings) for report in reports)
    return 0 if usable and len(reports) == len(files) else 1


def _idle_power(recording: Recording | RecordingParts) -> list[ZoneIdle]:
    """Return the idle power of each zone in a recording of Kepler 0.10 or later; empty for other recordings."""
    if NODE_JOULES not in recording.sample_counts:
        return []
    return [zone for part in parts_of(recording) if NODE_JOULES in part.metrics for zone in idle_power(part)]


def _print(report: Preflight, idle: Sequence[ZoneIdle]) -> None:
    samples = sum(report.metrics.values())
    click.echo(click.style(report.recording, bold=True))
    click.echo(f"schema {report.schema}: {len(report.metrics)} metrics, {samples} samples; "
               f"{len(report.other_metrics)} other metrics are not needed")  # fmt: skip
    for metric, note in report.notes.items():
        click.echo(f"  {metric}: {note}")
    for metric, reason in report.unused_metrics.items():
        click.echo(f"  {metric}: not used: {reason}")
    click.echo("\nNodes")
    print_table(
        [
            (n.node or "(no instance label)", n.timestamps, utc(n.start), utc(n.end), f"{n.step:g}",
             f"{n.longest_interval:g}", n.containers)
            for n in report.nodes
        ],
        ("node", "timestamps", "from (UTC)", "to (UTC)", "step s", "longest s", "containers"),
        "  ",
    )  # fmt: skip
    print_findings(report.findings)
    _print_power(report)
    print_idle(idle)
    _print_groups(report)
    verdict = "Can be trained." if report.trainable else "Nothing can be trained from this recording."
    click.echo(f"\n{verdict}")


def _print_power(report: Preflight) -> None:
    click.echo("\nPower")
    if report.power:
        print_table(
            [
                (p.source, p.component, p.timestamps, f"{p.lowest:.1f}", f"{p.median:.1f}", f"{p.highest:.1f}",
                 "constant" if p.constant else "")
                for p in report.power
            ],
            ("source", "component", "timestamps", "lowest W", "median W", "highest W", ""),
            "  ",
        )  # fmt: skip
    if report.missing_sources:
        click.echo(f"  no power of {', '.join(report.missing_sources)} (not in the label source of any energy counter)")


def _print_groups(report: Preflight) -> None:
    """Print a table of feature groups. A row lists all energy sources that give the same result for a group."""
    if not report.groups:
        return
    click.echo("\nFeature groups")
    sources_of: dict[tuple[str, bool, int, str], list[str]] = {}
    for g in report.groups:
        sources_of.setdefault((g.feature_group, g.trainable, g.timestamps, g.reason), []).append(g.source)
    print_table(
        [
            (group, "yes" if trainable else "no", ", ".join(sources), timestamps, reason)
            for (group, trainable, timestamps, reason), sources in sources_of.items()
        ],
        ("feature group", "trainable", "sources", "timestamps", "why not"),
        "  ",
    )


_KINDS_OF_FAULTS = "\b\nKinds of faults:\n" + "\n".join(f"  {name:24}{kind.summary}" for name, kind in FAULTS.items())


@click.command(
    epilog=examples(
        "simulate -o recording.json.gz --minutes 15 --containers 12 --seed 1",
        "simulate -o gaps.json.gz --fault gaps --fault exporter-restart",
    )
    + "\n\n"
    + _KINDS_OF_FAULTS
)
@click.option("-o", "--output", metavar="FILE", required=True, help="Recording to write (.json or .json.gz).")
@click.option("--containers", default=20, show_default=True, help="Number of containers per node.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="Duration of the recording in minutes.")
@click.option("--step", default=3, show_default=True, help="Seconds between two samples of a series.")
@click.option(
    "--exporter",
    type=click.Choice(EXPORTERS),
    default=EXPORTERS[0],
    show_default=True,
    help="Exporter that measures the nodes: Kepler up to 0.9, or Kepler since 0.10.",
)
@click.option("--sockets", default=2, show_default=True, help="Number of processor sockets per node.")
@click.option("--nodes", default=1, show_default=True, help="Number of nodes.")
@click.option(
    "--churn", default=0.3, show_default=True, help="Fraction of containers that start late or end early (0 … 1)."
)
@click.option("--resets", default=1, show_default=True, help="Number of exporter restarts per node.")
@click.option("--accelerator/--no-accelerator", default=True, help="Include counters of an Intel QAT accelerator.")
@click.option(
    "--workloads",
    default=0,
    show_default=True,
    help="Number of workloads among which the containers are divided. The workloads run one after another, and this "
    "sequence runs twice. 0: all containers run throughout.",
)
@click.option(
    "--law-change",
    "shift_at",
    type=float,
    metavar="PART",
    help="Fraction of the duration (0 … 1) after which the power is multiplied by --law-gain.",
)
@click.option(
    "--law-gain",
    "shift_gain",
    default=1.15,
    show_default=True,
    help="Factor by which --law-change multiplies the power.",
)
@click.option(
    "--node-spread",
    default=0.0,
    show_default=True,
    metavar="PART",
    help="Standard deviation of the factor by which each node's power is multiplied (0 … 0.3); the mean is 1.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND",
    help="Fault of exporters, meters or Prometheus (see below); may be repeated.",
)
@click.option(
    "--severity", type=click.IntRange(1, 3), default=1, show_default=True, help="Severity of the faults, 1 to 3."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers.")
@json_errors_option
def simulate(
    output: str,
    containers: int,
    minutes: float,
    step: int,
    sockets: int,
    nodes: int,
    churn: float,
    resets: int,
    accelerator: bool,
    workloads: int,
    shift_at: float | None,
    shift_gain: float,
    node_spread: float,
    faults: tuple[str, ...],
    severity: int,
    seed: int,
    exporter: str,
) -> None:
    """Write a simulated recording of nodes whose power follows a known formula.

    The recording has noise, containers that start late or end early, and counter resets.
    docs/simulation.md explains the formula and the faults. Equal options write equal files.
    """
    from kepler_core.errors import UsageError
    from kepler_core.simulate import Simulation, write

    if step < 1 or not 0 < minutes < 1e6:
        raise UsageError("--step must be at least 1 and --minutes above 0")
    simulation = Simulation(
        containers=containers,
        timestamps=round(minutes * 60 / step),
        step=step,
        sockets=sockets,
        nodes=nodes,
        churn=churn,
        resets=resets,
        accelerator=accelerator,
        seed=seed,
        workloads=workloads,
        shift_at=shift_at,
        shift_gain=shift_gain,
        node_spread=node_spread,
        faults=faults,
        severity=severity,
        exporter=exporter,
    )
    write(simulation, output)
    if sys.stderr.isatty():
        click.echo(f"wrote {output}: {nodes} nodes, {containers} containers, {simulation.timestamps} samples", err=True)
