"""The commands `machines list` and `machines show`, which show the tables of processors and cloud instances."""

from __future__ import annotations

import click
import msgspec

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import UsageError
from kepler_core.messages import printable, quoted
from kepler_profiler.processors import (
    InstanceFamily,
    Processor,
    instance_type,
    instances,
    lookup,
    processors,
    similar_processors,
    sources,
)


@click.command("list", epilog=examples("machines list", "machines list --instances"))
@click.argument("text", required=False, default="")
@click.option("--instances", "of_instances", is_flag=True, help="List families of cloud instances.")
@json_option
def list_machines(text: str, of_instances: bool, as_json: bool) -> None:
    """List the processors in the table, or the cloud instances.

    TEXT selects the rows that contain TEXT in their name, vendor or architecture.
    """
    table: tuple[Processor, ...] | tuple[InstanceFamily, ...] = instances() if of_instances else processors()
    rows = [row for row in table if text.casefold() in _searched(row).casefold()]
    if not rows:
        raise UsageError(f"no row contains {quoted(text)}; `kepler-model machines list` shows all")
    if as_json:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    print_table([_cells(row) for row in rows], _INSTANCE_HEADERS if of_instances else _PROCESSOR_HEADERS)


_PROCESSOR_HEADERS = ("processor", "architecture", "year", "cores", "threads", "TDP W")
_INSTANCE_HEADERS = ("family", "provider", "host threads", "host chips", "host GiB", "processors")


def _searched(row: Processor | InstanceFamily) -> str:
    """Return the text in which `machines list` searches."""
    if isinstance(row, Processor):
        return f"{row.model} {row.vendor} {row.architecture}"
    return f"{row.provider} {row.family} {' '.join(row.processors)}"


def _cells(row: Processor | InstanceFamily) -> tuple[object, ...]:
    if isinstance(row, Processor):
        tdp = None if row.tdp_watts is None else f"{row.tdp_watts:g}"
        return row.model, row.architecture, row.year, row.cores, row.threads, tdp
    memory = None if row.host_memory_gib is None else f"{row.host_memory_gib:g}"
    return row.family, row.provider, row.host_threads, row.host_chips, memory, ", ".join(row.processors)


@click.command(epilog=examples('machines show "Xeon Gold 6230"', "machines show m5.2xlarge"))
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a processor or a cloud instance, with the source of the facts.

    NAME is a processor in any spelling, e.g. 'Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz', or an instance type,
    e.g. m5.2xlarge.
    """
    row: Processor | InstanceFamily | None = lookup(name) or instance_type(name)
    if row is None:
        raise UsageError(
            f"{printable(name, 60)}: not in the tables of processors and instances; {similar_processors(name)}"
        )
    document = {**msgspec.to_builtins(row), "source": sources()[row.source]}
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if value is not None:
            shown = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"{key.replace('_', ' ') + ':':18s} {shown}")
