"""`memory`: what an online trainer remembers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from kepler_servers.online_trainer.memory import TrainingMemory

state_option = click.option("--state", metavar="DIR", required=True, help="The state folder of the online trainer.")


@click.group()
def memory() -> None:
    """Look at what an online trainer remembers."""


@memory.command()
@state_option
@json_option
def show(state: str, as_json: bool) -> None:
    """How much is remembered of which node, from when, and which law changes were found."""
    found = _open(state)
    summary = _summary(found, Path(state))
    if as_json:
        print_json(summary)
        return
    from kepler_core.recording.preflight import utc

    click.echo(
        f"{summary['instants']} instants in {summary['files']} files, {summary['bytes'] / 2**20:.1f} MiB "
        f"({summary['seen']} were seen)"
    )
    if summary["nodes"]:
        click.echo()
        print_table(
            [
                (n["node"], n["node_type"], n["instants"], utc(n["from"]), utc(n["to"]), n["strata"], n["containers"])
                for n in summary["nodes"]
            ],
            ("node", "node type", "instants", "from (UTC)", "to (UTC)", "strata", "containers"),
        )
    for change in summary["law_changes"]:
        lines = ", ".join(
            f"{key} × {line['scale']:.3f} {line['offset']:+.1f} W" for key, line in change["lines"].items()
        )
        click.echo(f"\n{change['node']} needs other power since {utc(change['since'])}: {lines}")


@memory.command()
@state_option
@click.option("--node", "nodes", metavar="NODE", multiple=True, help="Only this node; several times for several.")
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write (.parquet or .csv).")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
def export(state: str, nodes: tuple[str, ...], output: str, force: bool) -> None:
    """Write the memory to one file: as Parquet with all containers, or as CSV with the nodes' values.

    Power is as it was measured, before any law change that was found.
    """
    target = Path(output)
    if target.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{output}: the name must end in .parquet or .csv")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{output} is there already; --force replaces it")
    table = _open(state).table()
    if nodes:
        import pyarrow as pa
        import pyarrow.compute as pc

        from kepler_core.errors import close_matches

        known = set(pc.unique(table.column("node")).to_pylist())
        if unknown := [node for node in nodes if node not in known]:
            raise UsageError(f"no node {unknown[0]!r} is remembered; {close_matches(unknown[0], known)}")
        table = table.filter(pc.is_in(table.column("node"), pa.array(nodes, pa.string())))
    part = target.with_name(f".{target.name[:100]}.part")
    try:
        if target.suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, part, compression="zstd")
        else:
            import pyarrow as pa
            import pyarrow.csv

            lists = [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type)]
            pyarrow.csv.write_csv(table.drop_columns(lists), part)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    click.echo(f"{output}: {table.num_rows} instants, {target.stat().st_size} bytes", err=True)


def _open(state: str) -> TrainingMemory:
    try:
        from kepler_servers.online_trainer.memory import TrainingMemory
        from kepler_servers.online_trainer.rounds import state_folder
    except ModuleNotFoundError as error:
        raise missing_extra(error, "memory") or error from error
    folder = state_folder(Path(state))
    if not folder.is_dir():
        raise UsageError(f"{state}: no training memory is there")
    return TrainingMemory(folder, only_read=True)


def _summary(found: TrainingMemory, state: Path) -> dict[str, Any]:
    import msgspec
    import numpy as np

    from kepler_servers.online_trainer import instants
    from kepler_servers.online_trainer.examination import LAWS
    from kepler_servers.online_trainer.law import LawBook
    from kepler_servers.online_trainer.strata import strata

    table = found.table()
    nodes = []
    if table.num_rows:
        codes, names = instants.codes(table.column("node"))
        time = instants.floats(table, "time")
        groups = strata(codes, instants.node_features(table))
        node_type = instants.floats(table, "node_type")
        observations = instants.to_observations(table, found.step)
        for code, name in enumerate(names):
            mine = codes == code
            of_node = np.unique(observations.row_container[mine[observations.row_sample]])
            nodes.append(
                {
                    "node": name,
                    "node_type": int(node_type[mine][-1]),
                    "instants": int(mine.sum()),
                    "from": float(time[mine].min()),
                    "to": float(time[mine].max()),
                    "strata": len(np.unique(groups[mine])),
                    "containers": len(of_node),
                }
            )
    return {
        "instants": found.instants,
        "seen": found.seen,
        "bytes": found.size,
        "files": found.files,
        "until": found.cursor(float("inf")),
        "nodes": nodes,
        "law_changes": msgspec.to_builtins(LawBook(state / LAWS).changes()),
        "damaged": found.damaged,
    }
