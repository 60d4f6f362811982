"""`profile machine`: what machine this is."""

from __future__ import annotations

import click
import msgspec

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import UsageError
from kepler_core.machine import ATTRIBUTES

_UNITS = {"memory": "GiB", "frequency": "MHz", "cores": "logical CPUs", "chips": "sockets"}


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write the description to a file, for --machine-spec.")
@json_option
def machine(output: str | None, as_json: bool) -> None:
    """Describe this machine: processor, cores, chips, memory, frequency.

    What is not known is left out, with the reason. -o writes the description that `train`, `serve
    estimator`, `select` and the other `profile` commands take as --machine-spec.
    """
    from kepler_profiler.machine import discover

    found = discover()
    spec = found.spec.as_dict()
    if output is not None:
        content = msgspec.json.format(msgspec.json.encode(spec), indent=1) + b"\n"
        try:
            with open(output, "wb") as file:
                file.write(content)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    if as_json:
        print_json({"machine_spec": spec, "unknown": found.unknown, "virtual": found.virtual})
        return
    print_table(
        [(name, spec.get(name), _UNITS.get(name, ""), found.found_in.get(name) or found.unknown.get(name, "")) for name
         in ATTRIBUTES],
        ("attribute", "value", "", "from, or why not known"),
    )  # fmt: skip
    if found.virtual is not None:
        click.echo(f"\nA virtual machine: {found.virtual}.")
    if output is not None:
        click.echo(f"Written to {output}.")
