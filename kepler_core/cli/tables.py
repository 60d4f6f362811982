"""Options of commands that read tables of features and power, and a function that reads the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.machine import Machine
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.pipeline.tables import TableTraining

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class TableFiles:
    """The table files that a user names, and how to read them."""

    paths: tuple[str, ...]
    columns: tuple[str, ...]
    """Values of the option `--column`, in the form NAME=COLUMN."""
    energy_source: str | None
    """Energy source of all power in the tables. None: the pipeline and the component determine it."""


def energy_source_option(purpose: str) -> Callable[[F], F]:
    """Return the click option `--energy-source NAME`."""
    return click.option("--energy-source", metavar="NAME", help=purpose)


def table_options(command: F) -> F:
    """Add the options `--data`, `--column` and `--energy-source` to a command."""
    for option in reversed(
        (
            click.option(
                "--data",
                "tables",
                metavar="FILE",
                multiple=True,
                help="A table of features and power (.csv or .parquet), instead of --input. Can be repeated.",
            ),
            click.option(
                "--column",
                "columns",
                metavar="NAME=COLUMN",
                multiple=True,
                help="The column COLUMN of --data holds NAME: timestamp, node, recording, container, a feature, or a "
                "component's power, e.g. package_power=watts. Can be repeated.",
            ),
            energy_source_option(
                "Energy source of the power in --data (default: the energy source of the pipeline; if it names none, "
                "acpi for the platform, and rapl-sysfs for all other components)."
            ),
        )
    ):
        command = option(command)
    return command


def table_files(
    inputs: Sequence[str],
    paths: tuple[str, ...],
    columns: tuple[str, ...],
    energy_source: str | None,
    only_recordings: Sequence[str],
) -> TableFiles | None:
    """Return the tables that a user names, or None if the user names recordings instead.

    `only_recordings` are the options on the command line that make sense only for recordings. Raises `UsageError` if
    the user names both recordings and tables, or neither of them.
    """
    if bool(inputs) == bool(paths):
        raise UsageError("give either recordings (--input) or tables (--data)")
    if paths:
        if only_recordings:
            raise UsageError(f"{only_recordings[0]} can be used with --input, not with --data")
        return TableFiles(paths, columns, energy_source)
    if columns or energy_source is not None:
        raise UsageError(f"{'--column' if columns else '--energy-source'} needs --data")
    return None


def read_tables(files: TableFiles, spec: PipelineSpec, machine: Machine | None) -> TableTraining:
    """Read tables for a pipeline, and print remarks about them to standard error."""
    from kepler_core.pipeline.tables import table_training
    from kepler_core.tables.columns import parse_columns
    from kepler_core.tables.table import read_table

    if twice := [path for path in files.paths if files.paths.count(path) > 1]:
        raise UsageError(f"--data {twice[0]}: the table is given twice")
    columns = parse_columns(files.columns, spec.third_party)
    tables = [read_table(path, columns, spec.third_party) for path in files.paths]
    training = table_training(spec, tables, machine, files.energy_source)
    for note in training.notes:
        click.echo(f"kepler-model: {note}", err=True)
    return training
