"""The commands `extract` and `isolate`, which write data sets of recordings as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.findings import finding_lines
from kepler_core.cli.inputs import (
    idle_option,
    input_option,
    machine_spec_option,
    metric_prefix_option,
    open_all,
    parse_vm_guests,
    profile_option,
    read_all,
    read_object,
    vm_guest_option,
    vm_settings,
)
from kepler_core.cli.output import json_errors_option
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.tables import energy_source_option
from kepler_core.errors import PluginError

if TYPE_CHECKING:
    from kepler_core.contracts import IsolationContext
    from kepler_core.dataset import Dataset
    from kepler_core.machine import Machine
    from kepler_core.models.power_model import PowerModel
    from kepler_core.pipeline.extraction import Level
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.recording import Recording
    from kepler_core.recording.observations import Observations

F = TypeVar("F", bound=Callable[..., Any])


def _dataset_options(command: F) -> F:
    """Add the options that `extract` and `isolate` share: the input, and the data set to write."""
    for option in reversed(
        (
            input_option(),
            click.option(
                "-o",
                "--output",
                metavar="FILE",
                required=True,
                help="Table to write (.csv or .parquet); - writes CSV to standard output.",
            ),
            click.option(
                "--pipeline",
                metavar="P",
                default="default",
                show_default=True,
                help="Shipped pipeline or YAML file that names the extractor, the isolator and third-party metrics.",
            ),
            click.option("--extractor", metavar="NAME", help="Extractor (default: the pipeline file's extractor)."),
            energy_source_option("Energy source of the power; needed if the input has several energy sources."),
            click.option(
                "--feature-group",
                metavar="GROUP",
                help="Feature group; needed if the input has several feature groups.",
            ),
            machine_spec_option(),
            vm_guest_option(),
            metric_prefix_option(),
            set_option,
        )
    ):
        command = option(command)
    return command


@click.command(epilog=examples("extract -i recording.json.gz --energy-source rapl --feature-group BPFOnly -o node.csv"))
@_dataset_options
@click.option(
    "--level",
    type=click.Choice(["node", "container"]),
    default="node",
    show_default=True,
    help="One row per node and timestamp (for AbsPower models), or one per container (for DynPower models).",
)
@json_errors_option
def extract(
    inputs: tuple[str, ...],
    output: str,
    pipeline: str,
    extractor: str | None,
    energy_source: str | None,
    feature_group: str | None,
    machine_spec: str | None,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    settings: tuple[str, ...],
    level: Level,
) -> None:
    """Write the features and the power of recordings as a table (CSV or Parquet).

    The rows are those that `train` would use for one energy source and feature group: rates per second and
    watts, without impossible readings. `train --data` trains from the table. docs/tables.md
    describes the columns.
    """
    from kepler_core.pipeline.extraction import choose_dataset, extract_dataset
    from kepler_core.tables.writing import check_table_output

    check_table_output(output)
    spec = _load(pipeline, [("extractor", extractor)], settings, vm_guests)
    observations = _observe(spec, inputs, _machine(machine_spec), metric_prefix)
    wanted = choose_dataset(spec, observations, level, energy_source, feature_group)
    _write(extract_dataset(spec, observations, wanted), observations, output)


@click.command(
    epilog=examples(
        "isolate -i recording.json.gz --energy-source rapl --feature-group BPFOnly --isolator min -o container.csv"
    )
)
@_dataset_options
@click.option("--isolator", metavar="NAME", help="Isolator (default: the pipeline file's isolator).")
@idle_option()
@profile_option()
@click.option(
    "-s",
    "--store",
    metavar="DIR|URL",
    help="Model store with the trained pipeline, for isolators that need its AbsPower models or its profile.",
)
@click.option("--name", help="Name of the pipeline in --store (default: the name in the pipeline file).")
@json_errors_option
def isolate(
    inputs: tuple[str, ...],
    output: str,
    pipeline: str,
    extractor: str | None,
    energy_source: str | None,
    feature_group: str | None,
    machine_spec: str | None,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    settings: tuple[str, ...],
    isolator: str | None,
    idle: tuple[str, ...],
    profile: str | None,
    store: str | None,
    name: str | None,
) -> None:
    """Write the features and the dynamic power of containers as a table (CSV or Parquet).

    An isolator subtracts the idle and background power of each node. The remaining power is divided among the
    node's containers. `train --data` trains DynPower models from the table. docs/tables.md describes the columns.
    """
    from kepler_core.pipeline.extraction import choose_dataset, isolate_dataset
    from kepler_core.tables.writing import check_table_output

    check_table_output(output)
    plugins = [("extractor", extractor), ("isolator", isolator)]
    spec = _load(pipeline, plugins, settings, vm_guests, name)
    machine = _machine(machine_spec)
    observations = _observe(spec, inputs, machine, metric_prefix)
    wanted = choose_dataset(spec, observations, "container", energy_source, feature_group)
    idle_recordings = read_all(idle, spec.third_party, metric_prefix)
    context = _context(spec, observations, machine, idle_recordings, profile, store)
    dataset = isolate_dataset(spec, context, wanted)
    for note in dataset.notes:
        click.echo(f"kepler-model: {note}", err=True)
    _write(dataset, observations, output)


def _load(
    pipeline: str,
    plugins: Sequence[tuple[str, str | None]],
    settings: tuple[str, ...],
    vm_guests: tuple[str, ...],
    name: str | None = None,
) -> PipelineSpec:
    """Load a pipeline. The plugins that the user names in options replace the plugins of the pipeline file."""
    from kepler_core.pipeline.load import load_pipeline

    named = [f"{key}={plugin}" for key, plugin in plugins if plugin is not None]
    return load_pipeline(pipeline, settings=(*named, *settings, *vm_settings(parse_vm_guests(vm_guests))), name=name)


def _machine(machine_spec: str | None) -> Machine | None:
    from kepler_core.machine import Machine, read_machine_spec

    return None if machine_spec is None else Machine(read_machine_spec(machine_spec), None)


def _observe(
    spec: PipelineSpec, inputs: tuple[str, ...], machine: Machine | None, metric_prefix: str | None
) -> Observations:
    """Return the observations in recordings, and print the findings about them to standard error."""
    from kepler_core.pipeline.observing import observe_for
    from kepler_core.recording.findings import findings

    observations = observe_for(spec, open_all(inputs, spec.third_party, metric_prefix), machine)
    if lines := finding_lines(findings(observations.counts)):
        click.echo("Findings in the recordings:", err=True)
        for line in lines:
            click.echo(f"  - {line}", err=True)
    return observations


def _context(
    spec: PipelineSpec,
    observations: Observations,
    machine: Machine | None,
    idle: Sequence[Recording],
    profile: str | None,
    store: str | None,
) -> IsolationContext:
    """Return what the isolator may use: recordings of the idle machine, a profile, and stored AbsPower models."""
    import attrs

    from kepler_core.pipeline.node_types import find_slot
    from kepler_core.pipeline.observing import observe_for
    from kepler_core.pipeline.preparation import isolation_context
    from kepler_core.store import open_store
    from kepler_core.store.models import best_abs_model

    stored = None if profile is None else read_object(profile)
    idle_observations = observe_for(spec, idle, machine) if idle else None
    spec_of_machine = {} if machine is None else machine.spec.as_dict()
    slot = None if store is None else find_slot(open_store(store), spec.name, machine)
    if stored is None and slot is not None:
        stored = slot.profile()

    def abs_model(dataset: Dataset) -> PowerModel:
        if slot is None or slot.snapshot is None:
            where = "--store" if slot is None else f"a store with the pipeline {spec.name!r}"
            raise PluginError(f"needs an AbsPower model with the features {', '.join(dataset.features)}: give {where}")
        return best_abs_model(slot.snapshot, dataset.source, dataset.features, slot.node_type)

    context = isolation_context(observations, idle_observations, stored, spec_of_machine)
    return attrs.evolve(context, abs_model=abs_model)


def _write(dataset: Dataset, observations: Observations, output: str) -> None:
    from kepler_core.tables.writing import STANDARD_OUTPUT, write_dataset

    names = dict(zip(observations.containers, observations.container_names, strict=True))
    write_dataset(dataset, output, names)
    if output != STANDARD_OUTPUT:
        click.echo(
            f"{output}: {len(dataset.frame)} rows, {len(dataset.first_rows)} timestamps, {dataset.source}, "
            f"{dataset.feature_group}, {dataset.output_type}",
            err=True,
        )
