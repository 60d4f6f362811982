"""The commands `validate` and `simulate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from kepler_core.cli.inputs import read_all
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import RecordingError
from kepler_core.recording.preflight import Preflight, check, utc

_FINDINGS = {
    "not_finite": "samples that are NaN or infinite, left out",
    "repeated_timestamps": "samples at a timestamp that their series already had, left out",
    "empty_series": "series without a sample",
    "one_sample_series": "series of one sample (it has no rate)",
    "missing_labels": "series without a label that tells them apart",
    "gaps": "intervals longer than five times the usual step, left out",
    "resets": "counter resets (the value after the fall is the increase; power over such an interval is left out)",
    "unknown_sources": "energy series of a source that no installed plugin reads, left out",
    "duplicates": "samples that a second exporter reported again, left out",
    "counted_twice": "intervals in which idle and dynamic energy rise alike: their sum may count all power twice",
    "dynamic_only": "series of dynamic energy without idle energy: used as the whole power",
    "incomplete": "timestamps at which too few series had a value, left out",
}


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--vm", "use_vm_metrics", is_flag=True, help='Look at a VM\'s process-level metrics (job="vm").')
@json_option
def validate(files: tuple[str, ...], use_vm_metrics: bool, as_json: bool) -> int:
    """Report what can be trained from a recording, and why the rest cannot.

    Reads Prometheus range-query results (JSON, plain or gzipped). The exit code is 0 if a model can
    be trained from every FILE, else 1.
    """
    reports: list[Preflight] = []
    for file in files:
        try:
            reports.append(check(read_all([file])[0], use_vm_metrics=use_vm_metrics))
        except RecordingError as error:
            if len(files) == 1:
                raise
            # go on with the other files
            click.echo(f"kepler-model: error: {error}", err=True)
    if as_json:
        print_json(reports[0].as_dict() if len(files) == 1 else [report.as_dict() for report in reports])
    else:
        for index, report in enumerate(reports):
            if index:
                click.echo()
            _print(report)
    return 0 if len(reports) == len(files) and all(report.trainable for report in reports) else 1


def _print(report: Preflight) -> None:
    samples = sum(report.metrics.values())
    click.echo(click.style(report.recording, bold=True))
    click.echo(f"schema {report.schema}: {len(report.metrics)} metrics, {samples} samples; "
               f"{len(report.other_metrics)} other metrics are not needed")  # fmt: skip
    for metric, note in report.notes.items():
        click.echo(f"  {metric}: {note}")
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
    click.echo("\nFindings")
    for line in _finding_lines(report.counts) or ["nothing unusual"]:
        click.echo(f"  - {line}")
    _print_power(report)
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
        click.echo(f"  no power of {', '.join(report.missing_sources)} (energy counters with that source label)")


def _print_groups(report: Preflight) -> None:
    """Print a row per feature group; sources with the same result share a row."""
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


def _finding_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line for each kind of irregularity, with up to four of the metrics."""
    lines = [
        f"node {node} under a second label: its samples are left out, not added up"
        for node in counts.get("duplicate_nodes", ())
    ]
    if scrapes := counts.get("repeated_scrapes"):
        lines.append(f"{scrapes} timestamps repeat the scrape before (no energy counter moved), left out")
    for key, text in _FINDINGS.items():
        by_metric = counts.get(key)
        if by_metric:
            where = ", ".join(f"{metric} {n}" for metric, n in sorted(by_metric.items())[:4])
            more = f", and {len(by_metric) - 4} more" if len(by_metric) > 4 else ""
            lines.append(f"{sum(by_metric.values())} {text}: {where}{more}")
    return lines


@click.command()
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write (.json or .json.gz).")
@click.option("--containers", default=20, show_default=True, help="Containers per node.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="Duration.")
@click.option("--step", default=3, show_default=True, help="Seconds between samples.")
@click.option("--sockets", default=2, show_default=True, help="Processor sockets per node.")
@click.option("--nodes", default=1, show_default=True, help="Nodes.")
@click.option("--churn", default=0.3, show_default=True, help="Fraction of the containers that come and go (0 … 1).")
@click.option("--resets", default=1, show_default=True, help="Exporter restarts per node.")
@click.option("--accelerator/--no-accelerator", default=True, help="With Intel QAT counters.")
@click.option("--workloads", default=0, show_default=True, help="Workloads that follow each other, twice; 0: none.")
@click.option(
    "--law-change",
    "shift_at",
    type=float,
    metavar="PART",
    help="Multiply the power by --law-gain after this fraction of the time (0 … 1).",
)
@click.option(
    "--law-gain", "shift_gain", default=1.15, show_default=True, help="Factor of the power after --law-change."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers.")
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
    seed: int,
) -> None:
    """Write a simulated recording of nodes whose power follows a known formula.

    With noise, containers that come and go, and counter resets. docs/simulation.md has the formula. Equal
    options give equal files.
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
    )
    write(simulation, output)
    if sys.stderr.isatty():
        click.echo(f"wrote {output}: {nodes} nodes, {containers} containers, {simulation.timestamps} samples", err=True)
