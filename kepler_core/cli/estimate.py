"""The command `estimate`, which applies a stored model to a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kepler_core.atomic_files import check_output
from kepler_core.cli.examples import examples
from kepler_core.cli.idle_watts import check_components, idle_watts_option, parse_idle_watts
from kepler_core.cli.inputs import (
    input_option,
    metric_prefix_option,
    parse_vm_guests,
    read_all,
    store_option,
    vm_guest_option,
)
from kepler_core.cli.output import json_option, percent, print_json, print_table, watts
from kepler_core.errors import RecordingError, UsageError
from kepler_core.vocabulary import FEATURES, OUTPUT_TYPES, PREVIOUS_SUFFIX, OutputType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kepler_core.recording.observations import Observations
    from kepler_core.selection import Catalogue
    from kepler_core.store.models import StoredModel


@click.command(
    epilog=examples(
        "estimate -s models -i other.json.gz -o estimates.csv", "estimate -s models -i other.json.gz --json"
    )
)
@store_option()
@input_option()
@click.option("--source", default="rapl-sysfs", show_default=True, help="Name of the energy source, or its alias.")
@click.option("--output-type", type=click.Choice(OUTPUT_TYPES), default="AbsPower", show_default=True)
@click.option("--feature-group", help="Name of a feature group. Use only its models.")
@click.option("--trainer", help="Name of a trainer. Use only its models.")
@click.option("--pipeline", help="Name of a pipeline. Use only its models.")
@idle_watts_option(
    "Known idle power of the machine: the estimates are shifted so that they equal this power at the lowest load. A "
    "number alone is the power of the platform or, if the model has no platform, of the package. Only with AbsPower."
)
@click.option(
    "--vm",
    "use_vm_metrics",
    is_flag=True,
    help='Estimate the power of a VM from its process-level metrics (series with the label job="vm").',
)
@vm_guest_option()
@metric_prefix_option()
@click.option(
    "-o", "--output", metavar="FILE", help="Write all estimates to a CSV file; - writes them to standard output."
)
@json_option
def estimate(
    store: str,
    inputs: tuple[str, ...],
    source: str,
    output_type: OutputType,
    feature_group: str | None,
    trainer: str | None,
    pipeline: str | None,
    idle_watts: str | None,
    use_vm_metrics: bool,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Apply the best matching model of a store to a recording, and compare the estimates with the measured power.

    AbsPower models estimate the power of a node. DynPower models estimate the power of each container; the
    estimates of a node's containers are added up before they are compared with the measured power.
    --vm-guest implies --vm.
    """
    if output == "-" and as_json:
        raise UsageError("-o - and --json both write to standard output")
    if idle_watts is not None and output_type != "AbsPower":
        raise UsageError("--idle-watts works only with --output-type AbsPower: containers have no idle power")
    if output not in (None, "-"):
        check_output(output)
    from kepler_core.estimate import estimate as apply
    from kepler_core.selection import read_catalogue
    from kepler_core.store import open_store

    guests = parse_vm_guests(vm_guests)
    catalogue = read_catalogue(open_store(store), pipelines=None if pipeline is None else [pipeline])
    observations = observed(
        catalogue, inputs, use_vm_metrics=use_vm_metrics, vm_guests=guests, metric_prefix=metric_prefix
    )
    model = best_model(
        catalogue,
        observations,
        output_type=output_type,
        source=source,
        pipeline=pipeline,
        feature_group=feature_group,
        trainer=trainer,
    )
    idle = None
    if idle_watts is not None:
        components = model.load().components
        idle = parse_idle_watts(idle_watts, components)
        check_components(idle, components)
    estimated = apply(model, observations, idle)
    if output is not None:
        from kepler_core.tables.writing import write_csv

        # Three decimals, because Kepler's resolution is a milliwatt. `round` does not change the timestamps, which are
        # in the index.
        write_csv(estimated.frame.round(3), output, index=True)
    if output == "-":
        return
    if as_json:
        print_json(estimated.summary())
    else:
        _print(estimated.summary())


def observed(
    catalogue: Catalogue,
    inputs: Sequence[str],
    *,
    use_vm_metrics: bool,
    vm_guests: Mapping[str, str],
    metric_prefix: str | None = None,
) -> Observations:
    """Read recordings, and return their observations with all features that the models of a catalogue need.

    For `metric_prefix`, see `read_all`. Warns on standard error about features that are not used because they are
    always 0. Raises `RecordingError` if the recordings have no feature.
    """
    from kepler_core.recording import observe

    named = {feature.removesuffix(PREVIOUS_SUFFIX) for model in catalogue.models for feature in model.features}
    third_party = sorted(named - set(FEATURES))
    observations = observe(
        read_all(inputs, third_party, metric_prefix),
        use_vm_metrics=use_vm_metrics or bool(vm_guests),
        third_party=third_party,
        vm_guests=vm_guests,
    )
    for feature in sorted(observations.counts.dead_features):
        message = f"{feature} is 0 at all times of a node although its CPUs run; it is not used on that node"
        click.echo(f"kepler-model: warning: {message}", err=True)
    if not observations.features:
        raise RecordingError(f"{inputs[0]}: the recording has no feature (see kepler-model validate)")
    return observations


def best_model(
    catalogue: Catalogue, observations: Observations, *, output_type: OutputType, **conditions: Any
) -> StoredModel:
    """Return the best model for observations, and call the hook `kepler_model_selected` for it.

    `conditions` are further attributes of the `ModelRequest` that selects the model.
    """
    from kepler_core.plugins.hooks import hooks
    from kepler_core.recording.previous import previous_features
    from kepler_core.selection import ModelRequest

    features = (*observations.features, *previous_features(observations))
    request = ModelRequest(output_type, features, portable=True, **conditions)
    model = catalogue.select(request).model
    hooks().call("kepler_model_selected", model=model.metadata)
    return model


def _print(summary: dict[str, Any]) -> None:
    click.echo(
        f"{summary['model_name']} of pipeline {summary['pipeline']} "
        f"({summary['source']}, {summary['output_type']}, {summary['feature_group']}); "
        f"MAE in validation {watts(summary['validated_mae'])} W"
    )
    click.echo(f"{summary['rows']} rows, {summary['timestamps']} timestamps\n")
    interval = "± W" if summary["level"] is None else f"± {100 * summary['level']:.0f} % W"
    print_table(
        [
            (component, watts(c["predicted_mean"]), watts(c["measured_mean"]), watts(c["mae"]), watts(c["mape"]),
             watts(c["half_width"]), percent(c["coverage"]), c["compared"])
            for component, c in summary["components"].items()
        ],
        ("component", "predicted W (mean)", "measured W (mean)", "MAE W", "MAPE %", interval, "coverage %",
         "timestamps compared"),
    )  # fmt: skip
    rows = summary["rows"]
    if summary["outside"] or summary["disagreements"]:
        click.echo(
            f"\n{summary['outside']} of {rows} rows are outside the range of the training; in "
            f"{summary['disagreements']} rows, the model and its twin disagree."
        )
    if summary["flags"]:
        click.echo("\nReasons to doubt the estimates:")
        for flag, sentence in summary["flags"].items():
            click.echo(f"  - {flag}: {sentence}")
