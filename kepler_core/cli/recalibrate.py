"""The command `recalibrate`, which fits the models of a pipeline to a short metered recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.idle_watts import check_components, idle_watts_option, parse_idle_watts
from kepler_core.cli.inputs import input_option, metric_prefix_option, parse_vm_guests, store_option, vm_guest_option
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.pipeline.recalibrate import Recalibration
    from kepler_core.store import Snapshot, Store


@click.command(epilog=examples("recalibrate -s models -i metered.json"))
@store_option()
@input_option(required=False)
@click.option("--pipeline", help="The pipeline to recalibrate; needed if the store has several pipelines.")
@click.option("--source", metavar="NAME", help="Recalibrate only models of the energy source NAME.")
@click.option("--feature-group", metavar="GROUP", help="Recalibrate only models of the feature group GROUP.")
@click.option(
    "--node-type",
    type=click.IntRange(0),
    help="Number of a node type. Recalibrate only its models. Needed if the pipeline has several node types.",
)
@click.option(
    "--models",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of trainers to recalibrate in each feature group: those with the lowest errors.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Number of fits at the same time (default: one per CPU).")
@idle_watts_option(
    "Known idle power of the machine, instead of a recording. The models are shifted so that they predict this power "
    "at the lowest load. A number alone is the power of the platform or, if the models have no platform, of the "
    "package."
)
@vm_guest_option()
@metric_prefix_option()
@json_option
def recalibrate(
    store: str,
    inputs: tuple[str, ...],
    pipeline: str | None,
    source: str | None,
    feature_group: str | None,
    node_type: int | None,
    models: int,
    jobs: int | None,
    idle_watts: str | None,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    as_json: bool,
) -> None:
    """Fit the AbsPower models of a pipeline to a short metered recording, and publish them as a new version.

    Two minutes of a machine whose power is metered are enough. Each model has three candidates: the unchanged model, a
    fit to the earlier and the new rows, and a fit to the new rows alone. The candidates are compared on blocks of the
    new rows, and the best candidate is published. `kepler-model store rollback` returns to the earlier version.

    --vm-guest reads the usage and the power of a virtual machine.
    """
    if bool(inputs) == (idle_watts is not None):
        raise UsageError("give either a metered recording (--input) or the idle power (--idle-watts)")
    guests = parse_vm_guests(vm_guests)
    from kepler_core.cli.estimate import observed
    from kepler_core.cli.progress import progress_bar
    from kepler_core.pipeline.recalibrate import Scope, correct_idle, models_in
    from kepler_core.pipeline.recalibrate import recalibrate as run
    from kepler_core.plugins.hooks import hooks
    from kepler_core.selection import read_catalogue
    from kepler_core.store import open_store

    opened = open_store(store)
    pipeline = _pipeline(opened, pipeline)
    scope = Scope(source, feature_group, node_type)
    snapshot = opened.snapshot(pipeline)
    selected = models_in(snapshot, scope)
    if idle_watts is not None:
        components = {component for model in selected for component in model.load().components}
        idle = parse_idle_watts(idle_watts, components)
        check_components(idle, components)
        result = correct_idle(opened, pipeline, idle, scope)
    else:
        catalogue = read_catalogue(opened, pipelines=[pipeline])
        observations = observed(
            catalogue, inputs, use_vm_metrics=_uses_vm_metrics(snapshot), vm_guests=guests, metric_prefix=metric_prefix
        )
        with progress_bar(listeners := hooks()):
            result = run(opened, pipeline, observations, listeners=listeners, scope=scope, models=models, jobs=jobs)
    if as_json:
        print_json(result.as_dict())
    else:
        _print(result, opened)


def _uses_vm_metrics(snapshot: Snapshot) -> bool:
    """Return whether the pipeline was trained on the usage and power of virtual machines."""
    from kepler_core.models.power_model import METADATA_FILE

    pipeline = snapshot.read_json(METADATA_FILE).get("pipeline")
    return isinstance(pipeline, dict) and pipeline.get("use_vm_metrics") is True


def _pipeline(store: Store, pipeline: str | None) -> str:
    """Return `pipeline` or, if it is None, the name of the store's only pipeline. Check that the pipeline exists."""
    names = store.pipelines()
    if pipeline is None:
        if len(names) != 1:
            raise UsageError(
                f"the store has {len(names)} pipelines ({', '.join(names) or 'none'}); choose one with --pipeline"
            )
        return names[0]
    if pipeline not in names:
        raise store.no_such_pipeline(pipeline)
    return pipeline


def _print(result: Recalibration, store: Store) -> None:
    if result.candidates:
        best = {entry["model"]: entry for entry in result.chosen}
        rows = [
            (entry["model"], entry["candidate"], watts(entry["mae"]), "chosen" if entry == best[entry["model"]] else "")
            for entry in sorted(result.candidates, key=lambda entry: (entry["model"], entry["mae"]))
        ]
        print_table(rows, ("model", "candidate", "MAE W", ""))
        click.echo("\nMAE W: error of the worst component on held-out blocks of the metered recording.")
    if result.notes:
        click.echo("\nNotes")
    for note in result.notes:
        click.echo(f"  - {note}")
    click.echo(f"\n{result.reason}; published as {store.location}/{result.pipeline}, version {result.version}")
