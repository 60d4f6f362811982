"""Print the report of a training: a table of the models, findings, notes, skipped data sets and failures."""

from __future__ import annotations

from typing import Any

import click
from msgspec import convert

from kepler_core.cli.findings import finding_lines
from kepler_core.cli.output import print_table, watts
from kepler_core.honesty.flags import ONE_RECORDING
from kepler_core.messages import first_of
from kepler_core.pipeline.node_tables import NodeTable, headline
from kepler_core.pipeline.report import Report
from kepler_core.recording.findings import Finding

_COLUMNS = (
    "source",
    "type",
    "feature group",
    "trainer",
    "MAE W",
    "MAPE %",
    "regimes W",
    "other rec. W",
    "± 90 % W",
    "idle bias W",
    "zero W",
    "constant/line",
)
_SHOWN_OUTLIERS = 7
_LEGEND = """
regimes W: MAE on kinds of work that were held out; other rec. W: MAE on recordings that were held out (- if there is
only one recording). ± 90 % W: typical half-width of the interval that contains 90 % of the true values. idle bias W:
mean error at low load. zero W: prediction for a container that does nothing. Each column shows the value of the worst
component. For DynPower, all values except zero W are for the sum over a node's containers.
constant/line: MAE of a constant and of a straight line through the main feature."""


def print_report(report: Report) -> None:
    """Print a table of the models and their errors, then findings, notes, skipped data sets and failures."""
    several = len(report.node_types) > 1
    print_table(
        [(*([model["node_type"]] if several else []), *_model_row(model)) for model in report.models],
        (*(["node type"] if several else []), *_COLUMNS),
    )
    measured_on = " or ".join(dict.fromkeys(model["held_out"] for model in report.models))
    click.echo(f"\nMAE W and MAPE % are measured on {measured_on}.{_LEGEND}")
    if all(model["splits"]["recordings"] is None for model in report.models):
        click.echo(f"\n{ONE_RECORDING}")
    for table in (convert(table, NodeTable) for table in report.nodes):
        if outliers := table.outliers:
            shown = [f"{node.node} {100 * ((node.gain or 1) - 1):+.1f} %" for node in outliers]
            click.echo(f"\nOutliers, {headline(table)}: {first_of(shown, _SHOWN_OUTLIERS)}")
    if report.machine_notes:
        click.echo("\nMachines described by metrics:")
        for note in report.machine_notes:
            click.echo(f"  - {note}")
    if report.findings:
        click.echo("\nFindings in the data:")
        for line in finding_lines([Finding(**finding) for finding in report.findings]):
            click.echo(f"  - {line}")
    if report.notes:
        click.echo("\nNoticed:")
        _print_grouped(report.notes, "note")
    if report.skipped:
        click.echo("\nNot trained, because the data does not allow it:")
        _print_grouped(report.skipped, "reason")
    if report.failed:
        click.echo("\nFailed:")
        for failure in report.failed:
            where = f"{failure['source']} {failure['output_type']} {failure['feature_group']}"
            click.echo(f"  {failure['trainer'] or 'data set'} ({where}): {failure['reason']}")
    click.echo(
        f"\n{len(report.models)} models published as {report.store}/{report.pipeline}, version {report.version}, "
        f"in {report.seconds['total']:.1f} s"
    )
    if report.page:
        click.echo(f"Report with pictures: {report.store.rstrip('/')}/{report.pipeline}/{report.page}")


def _model_row(model: dict[str, Any]) -> tuple[str, ...]:
    components = model["components"]
    worst = max(components, key=lambda component: components[component]["mae"])
    baselines = model["baselines"][worst]
    return (
        model["source"],
        model["output_type"],
        model["feature_group"],
        model["trainer"],
        watts(model["mae"]),
        watts(model["mape"]),
        watts(model["splits"]["regimes"]),
        watts(model["splits"]["recordings"]),
        watts(model["half_width"]),
        watts(model["idle_bias"]),
        watts(_zero_watts(components)),
        f"{baselines['constant_mae']:.1f}/{baselines['line_mae']:.1f}",
    )


def _zero_watts(components: dict[str, dict[str, Any]]) -> float | None:
    """Return the largest prediction for a container that does nothing, in watts; None for AbsPower."""
    return max((errors["zero_watts"] for errors in components.values() if "zero_watts" in errors), default=None)


def _print_grouped(entries: list[dict[str, Any]], key: str) -> None:
    """Print each distinct text `entry[key]` once, followed by the data sets that have this text."""
    datasets: dict[str, list[str]] = {}
    for entry in entries:
        datasets.setdefault(entry[key], []).append(
            f"{entry['source']} {entry['output_type']} {entry['feature_group']}".rstrip()
        )
    for text, names in datasets.items():
        click.echo(f"  {text}: {first_of(names, 3)}")
