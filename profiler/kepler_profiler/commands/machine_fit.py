"""The command `machines fit`, which trains a pipeline from a table of measured machines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json
from kepler_core.cli.tables import TableFiles
from kepler_core.errors import EXIT_SOME_FAILED


@click.command(epilog=examples("machines fit measured.csv -s models"))
@click.argument("table", metavar="TABLE.csv")
@click.option("-s", "--store", default="models", show_default=True, help="Folder or URL of the model store.")
@click.option("-n", "--name", default="machines", show_default=True, help="Name of the pipeline in the store.")
@click.option("--with-idle", is_flag=True, help="Train a model that needs the idle power of a machine.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Number of simultaneous fits (default: one per core).")
@json_option
def fit(table: str, store: str, name: str, with_idle: bool, jobs: int | None, as_json: bool) -> int:
    """Train a model over machines of many kinds from a table of measured machines.

    TABLE.csv has your own measurements (columns load_pct, power_w and facts about the machines), or is an export of the
    SPECpower_ssj2008 results from SPEC's website. The reported errors are those of held-out machines. If the table has
    facts that a machine cannot find out itself, e.g. about its power supply, a second pipeline NAME-basic is trained
    without these facts. `machines estimate`, `watts` and the meter can use this pipeline. docs/machine-formula.md
    describes both forms of the table.
    """
    from kepler_core.cli.train import run
    from kepler_core.cli.training_report import print_report
    from kepler_profiler.machine_pipeline import has_extra_facts, write_machine_pipeline
    from kepler_profiler.machine_tables import read_machines

    machines = read_machines(table)
    for note in machines.notes:
        click.echo(f"kepler-model: {note}", err=True)
    variants = {name: False}
    if has_extra_facts(machines.machines):
        variants[f"{name}-basic"] = True
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for pipeline, basic in variants.items():
            files = write_machine_pipeline(machines.machines, pipeline, Path(folder), with_idle=with_idle, basic=basic)
            table_files = TableFiles((str(files.table),), (), None)
            reports.append(run(str(files.pipeline), (), store, jobs=jobs, tables=table_files, settings=()))
    report = reports[0]
    if as_json:
        basic_report = reports[1].as_dict() if len(reports) > 1 else None
        counts = {"machines": len(machines.machines), "left_out": machines.left_out}
        print_json({**report.as_dict(), **counts, "basic": basic_report})
    else:
        click.echo(f"{len(machines.machines)} machines of {table}")
        for one in reports:
            print_report(one)
    return EXIT_SOME_FAILED if any(one.failed for one in reports) else 0
