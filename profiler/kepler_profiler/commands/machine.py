"""The command `profile machine`, which describes this machine."""

from __future__ import annotations

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import UsageError
from kepler_core.json_files import indented_json
from kepler_core.machine import ATTRIBUTES

_UNITS = {"memory": "GiB", "frequency": "MHz", "cores": "logical CPUs", "chips": "sockets"}


@click.command(epilog=examples("profile machine -o spec.json"))
@click.option(
    "-o", "--output", metavar="FILE", help="Write the description to a file for --machine-spec of other commands."
)
@json_option
def machine(output: str | None, as_json: bool) -> None:
    """Describe this machine: processor, cores, chips, memory, frequency.

    Attributes that are not known are left out of the description. The printed table shows why they are not
    known. With the option --machine-spec, the commands `train`, `serve estimator`, `select` and the other
    `profile` commands read a file that -o has written.
    """
    from kepler_profiler.machine import discover

    discovery = discover()
    spec = discovery.spec.as_dict()
    if output is not None:
        try:
            with open(output, "wb") as file:
                file.write(indented_json(spec))
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    if as_json:
        print_json({"machine_spec": spec, "unknown": discovery.unknown, "virtual": discovery.virtual})
        return
    origins = {**discovery.unknown, **discovery.found_in}
    print_table(
        [(name, spec.get(name), _UNITS.get(name, ""), origins.get(name, "")) for name in ATTRIBUTES],
        ("attribute", "value", "", "from, or why not known"),
    )
    if discovery.virtual is not None:
        click.echo(f"\nA virtual machine: {discovery.virtual}.")
    if output is not None:
        click.echo(f"Written to {output}.")
