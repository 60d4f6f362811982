"""`pipelines`: what can be trained by name, and checks of one's own files."""

from __future__ import annotations

import click

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.pipeline.load import as_document, load_pipeline, shipped_pipelines, to_yaml
from kepler_core.pipeline.spec import json_schema

set_option = click.option(
    "--set",
    "settings",
    metavar="PATH=VALUE",
    multiple=True,
    help="Change one key of the pipeline, e.g. validation.folds=3 or dyn_trainers=[].",
)


@click.group()
def pipelines() -> None:
    """List, check and show pipelines (YAML files that say what is trained)."""


@pipelines.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The pipelines that come with the package."""
    found = [load_pipeline(name, resolve=False) for name in shipped_pipelines()]
    if as_json:
        print_json([{"name": spec.name, "description": spec.description} for spec in found])
    else:
        print_table([(spec.name, spec.description) for spec in found], ("pipeline", "what it trains"))


@pipelines.command()
@click.argument("file")
@set_option
@json_option
def check(file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check a pipeline FILE: keys, types, names of plugins and their arguments."""
    spec = load_pipeline(file, settings=settings)
    if as_json:
        print_json({"name": spec.name, "ok": True})
    else:
        click.echo(f"{file}: good ({len(spec.abs_trainers)} AbsPower and {len(spec.dyn_trainers)} DynPower trainers)")


@pipelines.command()
@click.argument("name")
@set_option
@json_option
def show(name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """A pipeline with all defaults filled in, as YAML."""
    spec = load_pipeline(name, settings=settings)
    if as_json:
        print_json(as_document(spec))
    else:
        click.echo(to_yaml(spec), nl=False)


@pipelines.command()
def schema() -> None:
    """JSON Schema of pipeline files, for editors."""
    print_json(json_schema())
