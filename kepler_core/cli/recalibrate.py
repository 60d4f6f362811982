"""The command `recalibrate`, which fits the models of a pipeline to a short metered recording."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.inputs import input_option, metric_prefix_option, store_option
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.errors import UsageError, close_matches
from kepler_core.vocabulary import COMPONENTS

if TYPE_CHECKING:
    from kepler_core.pipeline.recalibrate import Recalibration

F = TypeVar("F", bound=Callable[..., Any])


def idle_watts_option(purpose: str) -> Callable[[F], F]:
    """Return the click option `--idle-watts`."""
    return click.option("--idle-watts", metavar="[COMPONENT=]WATTS[,…]", help=purpose)


def parse_idle_watts(text: str, components: tuple[str, ...]) -> dict[str, float]:
    """Return the idle power by component from a value of `--idle-watts`, e.g. "package=30,dram=5" or "120".

    A number without a component is the power of the platform if the platform is in `components`, otherwise of the
    package. Raises `UsageError` if a component is unknown, or if a number is not finite or not above 0.
    """
    alone = "platform" if "platform" in components else "package"
    idle: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.rpartition("=")
        component = name.strip() if separator else alone
        if component not in COMPONENTS:
            raise UsageError(
                f"--idle-watts {part}: unknown component {component!r}; {close_matches(component, COMPONENTS)}"
            )
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--idle-watts {part}: expected a number of watts above 0, such as package=30")
        idle[component] = value
    return idle


@click.command()
@store_option()
@input_option(required=False)
@click.option("--pipeline", help="The pipeline to recalibrate; needed if the store has several.")
@click.option("--source", metavar="NAME", help="Recalibrate only models of this energy source.")
@click.option("--feature-group", metavar="GROUP", help="Recalibrate only models of this feature group.")
@click.option(
    "--models",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Recalibrate this number of trainers in each feature group: the trainers with the lowest errors.",
)
@click.option("--jobs", type=click.IntRange(1), help="Number of fits at the same time (default: one per CPU).")
@idle_watts_option(
    "Known idle power of the machine. The models are shifted so that they predict this power at the lowest load. A "
    "number without COMPONENT is the power of the platform or, if no model predicts the platform, of the package. "
    "Without --input, the models are only shifted."
)
@metric_prefix_option()
@json_option
def recalibrate(
    store: str,
    inputs: tuple[str, ...],
    pipeline: str | None,
    source: str | None,
    feature_group: str | None,
    models: int,
    jobs: int | None,
    idle_watts: str | None,
    metric_prefix: str | None,
    as_json: bool,
) -> None:
    """Fit the AbsPower models of a pipeline to a short metered recording, and publish them as a new version.

    A recording of two minutes is enough if the machine's power is metered. Each model has three candidates: the model
    as it is, a fit to earlier and new rows, and a fit to the new rows alone. The candidates are compared on blocks of
    the new rows, and the best candidate is published. `kepler-model store rollback` returns to the earlier version.
    """
    if not inputs and idle_watts is None:
        raise UsageError("give a metered recording (--input) or the idle power (--idle-watts)")
    from kepler_core.cli.estimate import observed
    from kepler_core.pipeline.recalibrate import correct_idle
    from kepler_core.pipeline.recalibrate import recalibrate as run
    from kepler_core.plugins.hooks import hooks
    from kepler_core.selection import read_catalogue
    from kepler_core.store import open_store

    opened = open_store(store)
    names = opened.pipelines()
    if pipeline is None:
        if len(names) != 1:
            raise UsageError(
                f"the store has {len(names)} pipelines ({', '.join(names) or 'none'}); name one: --pipeline"
            )
        pipeline = names[0]
    elif pipeline not in names:
        raise opened.no_such_pipeline(pipeline)
    catalogue = read_catalogue(opened, pipelines=[pipeline])
    stored = {component for model in catalogue.models for component in model.metadata.get("components", ())}
    idle = None if idle_watts is None else parse_idle_watts(idle_watts, tuple(stored))
    results = []
    if inputs:
        observations = observed(catalogue, inputs, use_vm_metrics=False, vm_guests={}, metric_prefix=metric_prefix)
        results.append(
            run(
                opened,
                pipeline,
                observations,
                listeners=hooks(),
                source=source,
                feature_group=feature_group,
                models=models,
                jobs=jobs,
            )
        )
    if idle is not None:
        results.append(correct_idle(opened, pipeline, idle))
    if as_json:
        print_json(results[0].as_dict() if len(results) == 1 else [result.as_dict() for result in results])
        return
    for result in results:
        if result.candidates:
            _print_candidates(result)
        click.echo(f"\n{result.reason}; published as {opened.location}/{pipeline}, version {result.version}")


def _print_candidates(result: Recalibration) -> None:
    best = {entry["model"]: entry for entry in result.chosen}
    rows = [
        (entry["model"], entry["candidate"], watts(entry["mae"]), "chosen" if entry == best[entry["model"]] else "")
        for entry in sorted(result.candidates, key=lambda entry: (entry["model"], entry["mae"]))
    ]
    print_table(rows, ("model", "candidate", "MAE W", ""))
    click.echo("\nMAE W: error of the worst component on held-out blocks of the metered recording.")
