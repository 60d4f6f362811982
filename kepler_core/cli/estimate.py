"""`estimate`: apply a stored model to a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.inputs import input_option, read_all, store_option
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.errors import RecordingError, UsageError
from kepler_core.vocabulary import FEATURES, OUTPUT_TYPES, OutputType

if TYPE_CHECKING:
    from kepler_core.estimate import Estimate


@click.command()
@store_option()
@input_option()
@click.option("--source", default="rapl-sysfs", show_default=True, help="Energy source, or an alias of it.")
@click.option("--output-type", type=click.Choice(OUTPUT_TYPES), default="AbsPower", show_default=True)
@click.option("--feature-group", help="Only models of this feature group.")
@click.option("--trainer", help="Only models of this trainer.")
@click.option("--pipeline", help="Only models of this pipeline.")
@click.option("--vm", "use_vm_metrics", is_flag=True, help='Use a VM\'s process-level metrics (job="vm").')
@click.option("-o", "--output", metavar="FILE", help="Write all estimates as CSV (- for standard output).")
@json_option
def estimate(
    store: str,
    inputs: tuple[str, ...],
    source: str,
    output_type: OutputType,
    feature_group: str | None,
    trainer: str | None,
    pipeline: str | None,
    use_vm_metrics: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Apply the best matching model of a store to a recording, and compare it with the measured power.

    AbsPower estimates the power of a node, DynPower the power of each container. Containers are compared
    by their sum.
    """
    if output == "-" and as_json:
        raise UsageError("-o - and --json both write to standard output")
    from kepler_core.estimate import estimate as apply
    from kepler_core.plugins.hooks import hooks
    from kepler_core.recording import observe
    from kepler_core.selection import ModelRequest, read_catalogue
    from kepler_core.store import open_store

    catalogue = read_catalogue(open_store(store), pipelines=None if pipeline is None else [pipeline])
    named = {feature for model in catalogue.models for feature in model.features}
    third_party = sorted(named - set(FEATURES))
    recordings = read_all(inputs, third_party)
    observations = observe(recordings, use_vm_metrics=use_vm_metrics, third_party=third_party)
    if not observations.features:
        raise RecordingError(f"{inputs[0]}: no feature in it (see kepler-model validate)")
    request = ModelRequest(
        output_type,
        tuple(observations.features),
        source,
        pipeline=pipeline,
        feature_group=feature_group,
        trainer=trainer,
        portable=True,
    )
    model = catalogue.select(request).model
    hooks().call("kepler_model_selected", model=model.metadata)
    estimated = apply(model, observations)
    if output is not None:
        _write(estimated, output)
    if output == "-":
        return
    if as_json:
        print_json(estimated.summary())
    else:
        _print(estimated.summary())


def _write(estimated: Estimate, output: str) -> None:
    import sys

    try:
        # Kepler's resolution is a milliwatt. The timestamps are in the index, which is not rounded.
        estimated.frame.round(3).to_csv(sys.stdout if output == "-" else output)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error


def _print(summary: dict[str, Any]) -> None:
    click.echo(
        f"{summary['model_name']} of pipeline {summary['pipeline']} "
        f"({summary['source']}, {summary['output_type']}, {summary['feature_group']}); "
        f"MAE in validation {watts(summary['validated_mae'])} W"
    )
    click.echo(f"{summary['rows']} rows, {summary['timestamps']} timestamps\n")
    print_table(
        [
            (component, watts(c["predicted_mean"]), watts(c["measured_mean"]), watts(c["mae"]), watts(c["mape"]),
             c["compared"])
            for component, c in summary["components"].items()
        ],
        ("component", "predicted W (mean)", "measured W (mean)", "MAE W", "MAPE %", "timestamps compared"),
    )  # fmt: skip
