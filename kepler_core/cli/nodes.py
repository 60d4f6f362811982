"""The command `nodes`, which shows the gains of nodes, and which nodes are outliers of their type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.fleet_machines import fleet_machines
from kepler_core.cli.inputs import (
    FROM_METRICS,
    input_option,
    machine_specs_option,
    metric_prefix_option,
    open_all,
    store_option,
)
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import RecordingError, StoreError, UsageError

if TYPE_CHECKING:
    from kepler_core.pipeline.node_tables import NodeGain, NodeTable
    from kepler_core.recording.observations import Observations

_SHOWN_NODES = 20


@click.command(
    epilog=examples(
        "nodes -i fleet.parquet --machine-specs specs.json", "nodes default -s models", "nodes -i fleet.parquet --all"
    )
)
@click.argument("pipeline", required=False)
@input_option(required=False)
@store_option(required=False)
@machine_specs_option(" (default: all nodes are of one type).")
@click.option(
    "--write-specs",
    metavar="FILE",
    help="Write the descriptions of the machines from metrics (--machine-specs metrics) to a JSON file. Complete or "
    "correct it, and use it with --machine-specs FILE.",
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1000),
    metavar="PERCENT",
    help="Smallest difference of an outlier from the median node, in percent of the power (default: 5).",
)
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show all nodes (default: the outliers and {_SHOWN_NODES} nodes)."
)
@metric_prefix_option()
@json_option
def nodes(
    pipeline: str | None,
    inputs: tuple[str, ...],
    store: str | None,
    machine_specs: str | None,
    write_specs: str | None,
    least: float | None,
    show_all: bool,
    metric_prefix: str | None,
    as_json: bool,
) -> None:
    """Show which nodes draw more or less power than other nodes of their type at the same work.

    Compares the nodes of recordings (--input), or shows the comparison of the training that published PIPELINE
    (--store).

    The gain of a node is its power, divided by the power of the median node of its type at the same work. It is
    measured on blocks of time that were held out. An outlier differs by at least 5 % (--least) and by much more than
    the nodes of its type usually differ. Of the outliers, at most 5 % are expected to be false alarms. A type needs at
    least 5 nodes with 24 samples each.
    """
    if (store is None) == (not inputs) or (store is None) != (pipeline is None):
        raise UsageError("give recordings with --input, or the name of a pipeline and --store")
    if store is not None and pipeline is not None:
        only = {"--machine-specs": machine_specs, "--write-specs": write_specs, "--least": least}
        only["--metric-prefix"] = metric_prefix
        if unusable := [option for option, value in only.items() if value is not None]:
            raise UsageError(f"{unusable[0]} needs recordings (--input)")
        tables = _stored(store, pipeline)
    else:
        if write_specs is not None and machine_specs != FROM_METRICS:
            raise UsageError("--write-specs needs --machine-specs metrics")
        tables = _compared(inputs, machine_specs, write_specs, least, metric_prefix)
    if as_json:
        print_json(tables)
    else:
        print_node_tables(tables, None if show_all else _SHOWN_NODES)


def _stored(location: str, pipeline: str) -> list[NodeTable]:
    """Return the tables of node gains that the training of a pipeline has stored."""
    from kepler_core.pipeline.node_tables import read_node_tables
    from kepler_core.store import open_store

    tables = read_node_tables(open_store(location).snapshot(pipeline))
    if not tables:
        raise StoreError(f"{pipeline}: the pipeline has no comparison of nodes; it was trained on a single node")
    return tables


def _compared(
    inputs: Sequence[str],
    machine_specs: str | None,
    write_specs: str | None,
    least: float | None,
    metric_prefix: str | None,
) -> list[NodeTable]:
    """Compare the nodes in recordings."""
    from kepler_core.pipeline.node_comparison import LEAST_DIFFERENCE, compare_nodes
    from kepler_core.pipeline.node_tables import by_source
    from kepler_core.recording import observe

    fleet = fleet_machines(machine_specs, inputs, metric_prefix)
    cpus = None if fleet is None else fleet.most_cores()
    observations = observe(open_all(inputs, metric_prefix=metric_prefix), cpus=cpus)
    groups: list[Observations] = [observations]
    if fleet is not None:
        if write_specs is not None:
            fleet.write(observations, write_specs)
        machine_groups, notes = fleet.groups(observations)
        groups = [group.observations for group in machine_groups]
        for note in notes:
            click.echo(f"kepler-model: {note}", err=True)
    threshold = LEAST_DIFFERENCE if least is None else least / 100
    tables = [table for number, group in enumerate(groups) for table in compare_nodes(group, number, least=threshold)]
    if not tables:
        raise RecordingError("no node has both power and features that describe its work")
    return by_source(tables)


def print_node_tables(tables: Sequence[NodeTable], most: int | None) -> None:
    """Print the tables of all node types: all outliers, and at most `most` nodes of each table."""
    from kepler_core.pipeline.node_tables import headline

    for at, table in enumerate(tables):
        if at:
            click.echo()
        click.echo(headline(table))
        shown = table.nodes if most is None else table.nodes[: max(most, len(table.outliers))]
        print_table(
            [_row(node) for node in shown],
            ("node", "samples", "difference %", "± %", "q", "outlier"),
            indent="  ",
        )
        if len(shown) < len(table.nodes):
            click.echo(f"  and {len(table.nodes) - len(shown)} more nodes (--all shows them)")
        for reason in dict.fromkeys(node.reason for node in table.nodes if node.reason):
            count = sum(node.reason == reason for node in table.nodes)
            click.echo(f"  not tested: {count} nodes: {reason}")


def _row(node: NodeGain) -> tuple[str | int | None, ...]:
    if node.gain is None or node.standard_error is None:
        return node.node, node.samples, None, None, None, None
    q = None if node.q is None else f"{node.q:.3f}"
    outlier = "" if node.q is None else ("yes" if node.outlier else "no")
    return node.node, node.samples, f"{100 * (node.gain - 1):+.1f}", f"{100 * node.standard_error:.1f}", q, outlier
