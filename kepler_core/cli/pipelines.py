"""The commands `pipelines …`, which list the shipped pipelines, and check or show a pipeline file."""

from __future__ import annotations

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.pipeline.load import as_document, load_pipeline, shipped_pipelines, to_yaml
from kepler_core.pipeline.spec import json_schema

set_option = click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override one key of the pipeline, e.g. validation.folds=3 or dyn_trainers=[]. Can be repeated.",
)


@click.group()
def pipelines() -> None:
    """List, check and show pipelines, the YAML files that describe a training."""


@pipelines.command("list", epilog=examples("pipelines list"))
@json_option
def list_(as_json: bool) -> None:
    """List the pipelines that come with Kepler Core."""
    specs = [load_pipeline(name, resolve=False) for name in shipped_pipelines()]
    if as_json:
        print_json([{"name": spec.name, "description": spec.description} for spec in specs])
    else:
        print_table([(spec.name, spec.description) for spec in specs], ("pipeline", "what it trains"))


@pipelines.command(epilog=examples("pipelines check mine.yaml", "pipelines check mine.yaml --set validation.folds=3"))
@click.argument("file")
@set_option
@json_option
def check(file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check the keys, types, plugin names and plugin arguments in a pipeline FILE."""
    spec = load_pipeline(file, settings=settings)
    if as_json:
        print_json({"name": spec.name, "ok": True})
    else:
        click.echo(f"{file}: good ({len(spec.abs_trainers)} AbsPower and {len(spec.dyn_trainers)} DynPower trainers)")


@pipelines.command(epilog=examples("pipelines show quickstart"))
@click.argument("name")
@set_option
@json_option
def show(name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show the pipeline NAME as YAML, with the default of every key that it does not set."""
    spec = load_pipeline(name, settings=settings)
    if as_json:
        print_json(as_document(spec))
    else:
        click.echo(to_yaml(spec), nl=False)


@pipelines.command(epilog=examples("pipelines schema > kepler-pipeline.schema.json"))
@json_errors_option
def schema() -> None:
    """Print the JSON Schema of pipeline files. Editors can check pipeline files with it."""
    print_json(json_schema())
