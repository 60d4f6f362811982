"""The command `kepler-model monitoring`, which writes files for Prometheus and Grafana that monitor Kepler Core."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from kepler_core.atomic_files import make_folders, whole_file
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json
from kepler_core.errors import UsageError

FILES = ("rules.yaml", "power.json", "models.json")
"""Names of the files that the command writes. They are copied from the folder `monitoring` of the package
`kepler_config`."""


@click.command(epilog=examples("monitoring kepler-monitoring"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files that exist.")
@json_option
def monitoring(folder: Path, force: bool, as_json: bool) -> None:
    """Write rules for Prometheus and dashboards for Grafana to FOLDER.

    rules.yaml has recording and alerting rules (add it to rule_files of prometheus.yml). power.json and models.json
    are dashboards (Grafana: Dashboards, New, Import). docs/monitoring.md explains each alert.
    """
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not force:
        raise UsageError(f"{folder}: {', '.join(taken)} exist already; --force replaces them")
    source = files("kepler_config") / "monitoring"
    try:
        make_folders(folder)
        for name in FILES:
            with whole_file(folder / name) as file:
                file.write((source / name).read_bytes())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    if as_json:
        print_json({"files": [str(folder / name) for name in FILES]})
        return
    for name in FILES:
        click.echo(folder / name)
