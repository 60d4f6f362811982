"""The commands `kepler-model samples show` and `kepler-model samples export`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.errors import UsageError, close_matches, missing_extra
from kepler_core.messages import quoted

if TYPE_CHECKING:
    from kepler_servers.online_trainer.sample_store import SampleStore
    from kepler_servers.online_trainer.state_folder import StateFolder

state_option = click.option("--state", metavar="DIR", required=True, help="The state folder of the online trainer.")


@click.group()
def samples() -> None:
    """Show or export the samples that an online trainer has stored."""


@samples.command(epilog=examples("samples show --state state"))
@state_option
@json_option
def show(state: str, as_json: bool) -> None:
    """Show how many samples of each node are stored, and the power shifts that the trainer has detected."""
    folder, store = _open(state)
    summary = _summarise(folder, store)
    if as_json:
        print_json(summary)
        return
    from kepler_core.recording.times import utc

    click.echo(
        f"{summary['instants']} samples in {summary['files']} files, {summary['bytes'] / 2**20:.1f} MiB "
        f"({summary['seen']} were added in all)"
    )
    if summary["nodes"]:
        click.echo()
        print_table(
            [
                (n["node"], n["node_type"], n["instants"], utc(n["from"]), utc(n["to"]), n["strata"], n["containers"])
                for n in summary["nodes"]
            ],
            ("node", "node type", "samples", "from (UTC)", "to (UTC)", "strata", "containers"),
        )
    for shift in summary["law_changes"]:
        lines = ", ".join(
            f"{key} × {line['scale']:.3f} {line['offset']:+.1f} W" for key, line in shift["lines"].items()
        )
        click.echo(f"\nthe power of {shift['node']} shifted at {utc(shift['since'])}: {lines}")


@samples.command(epilog=examples("samples export --state state -o samples.parquet"))
@state_option
@click.option(
    "--node",
    "nodes",
    metavar="NODE",
    multiple=True,
    help="Export only the samples of this node; the option can be repeated.",
)
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write (.parquet or .csv).")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_errors_option
def export(state: str, nodes: tuple[str, ...], output: str, force: bool) -> None:
    """Write the stored samples to one file.

    A Parquet file contains the values of nodes and containers. A CSV file contains only the values of
    nodes. The power values are the measured ones, without corrections for power shifts.
    """
    target = Path(output)
    if target.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{output}: the name must end in .parquet or .csv")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{output} exists already; --force replaces it")
    table = _open(state)[1].table()
    if nodes:
        table = _only_nodes(table, nodes)
    try:
        _write(table, target)
        size = target.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    click.echo(f"{output}: {table.num_rows} samples, {size} bytes", err=True)


def _only_nodes(table: Any, nodes: Sequence[str]) -> Any:
    """Return the rows of `table` whose node is in `nodes`. Raises `UsageError` if one of these nodes has no samples."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = set(pc.unique(table.column("node")).to_pylist())
    if unknown := [node for node in nodes if node not in stored]:
        raise UsageError(f"no samples of node {quoted(unknown[0])}; {close_matches(unknown[0], stored)}")
    return table.filter(pc.is_in(table.column("node"), pa.array(nodes, pa.string())))


def _write(table: Any, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from kepler_core.atomic_files import whole_file

    with whole_file(target) as file:
        if target.suffix == ".parquet":
            pyarrow.parquet.write_table(table, file, compression="zstd")
        else:
            lists = [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type)]
            pyarrow.csv.write_csv(table.drop_columns(lists), file)


def _open(state: str) -> tuple[StateFolder, SampleStore]:
    try:
        from kepler_servers.online_trainer.sample_store import SampleStore
        from kepler_servers.online_trainer.state_folder import StateFolder
    except ModuleNotFoundError as error:
        raise missing_extra(error, "samples") or error from error
    folder = StateFolder(Path(state))
    if not folder.samples.is_dir():
        raise UsageError(f"{state}: the folder has no sample store")
    return folder, SampleStore(folder.samples, read_only=True)


def _summarise(folder: StateFolder, store: SampleStore) -> dict[str, Any]:
    """Return the object that `samples show --json` prints.

    Some keys of the object are older names for samples and power shifts, which `StateFolder` explains.
    """
    import msgspec

    from kepler_servers.online_trainer.power_shift import ShiftLog

    table = store.table()
    return {
        "instants": store.sample_count,
        "seen": store.seen,
        "bytes": store.size,
        "files": store.file_count,
        "until": store.cursor(float("inf")),
        "nodes": _summarise_nodes(table, store.step) if table.num_rows else [],
        "law_changes": msgspec.to_builtins(ShiftLog(folder.shifts).shifts()),
        "damaged": store.damaged,
    }


def _summarise_nodes(table: Any, step: float) -> list[dict[str, Any]]:
    import numpy as np

    from kepler_servers.online_trainer import sample_table
    from kepler_servers.online_trainer.stratified_sampling import assign_strata

    codes, names = sample_table.encode_texts(table.column("node"))
    time = sample_table.float_column(table, "time")
    strata = assign_strata(codes, sample_table.node_features(table))
    node_type = sample_table.float_column(table, "node_type")
    observations = sample_table.to_observations(table, step)
    nodes = []
    for code, name in enumerate(names):
        of_node = codes == code
        containers = np.unique(observations.row_container[of_node[observations.row_sample]])
        nodes.append(
            {
                "node": name,
                "node_type": int(node_type[of_node][-1]),
                "instants": int(of_node.sum()),
                "from": float(time[of_node].min()),
                "to": float(time[of_node].max()),
                "strata": len(np.unique(strata[of_node])),
                "containers": len(containers),
            }
        )
    return nodes
