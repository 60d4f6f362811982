"""The command `quickstart`, which trains and applies models on a bundled sample recording."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.errors import EXIT_SOME_FAILED, ModelError, StoreError
from kepler_core.vocabulary import OUTPUT_TYPES

if TYPE_CHECKING:
    from kepler_core.pipeline.report import Report
    from kepler_core.recording import Observations

SAMPLE = "samples/quickstart.json.gz"


@click.command(epilog=examples("quickstart", "quickstart --store /tmp/first-store --json"))
@click.option(
    "-s",
    "--store",
    metavar="DIR",
    default="quickstart-store",
    show_default=True,
    help="Folder for the model store; it must be new or empty.",
)
@json_option
def quickstart(store: str, as_json: bool) -> int:
    """Train and apply models on a bundled sample recording, as a first look at Kepler Core.

    The command trains the pipeline `quickstart` and loads the models back from the store. It applies the best AbsPower
    model and the best DynPower model to the same recording, and prints the commands to try next.
    """
    from kepler_core.cli.train import run
    from kepler_core.cli.training_report import print_report
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.observing import observe_for, read_for

    if Path(store).exists() and not (Path(store).is_dir() and not any(Path(store).iterdir())):
        raise StoreError(f"{store} already exists; quickstart needs a new or empty folder: use --store OTHER")
    with importlib.resources.as_file(importlib.resources.files("kepler_config") / SAMPLE) as sample:
        if not as_json:
            click.echo("1. Train the pipeline 'quickstart' on the bundled sample (a simulated machine):\n")
        report = run("quickstart", (str(sample),), store)
        spec = load_pipeline("quickstart", resolve=False)
        observations = observe_for(spec, [read_for(spec, sample, name="the bundled sample")])
    estimates = _estimates(store, report, observations)
    if as_json:
        print_json({**report.as_dict(), "estimates": estimates})
        return EXIT_SOME_FAILED if report.failed else 0
    print_report(report)
    click.echo(f"\n2. All {len(report.models)} models were loaded back from {store}/quickstart, without pickle.")
    click.echo(
        "\n3. The best models, applied to the data they were trained on (the errors above are held-out errors):\n"
    )
    print_table(
        [
            (e["output_type"], e["model_name"], component, watts(c["predicted_mean"]), watts(c["measured_mean"]),
             watts(c["mae"]))
            for e in estimates
            for component, c in e["components"].items()
        ],
        ("type", "model", "component", "predicted W (mean)", "measured W (mean)", "MAE W"),
    )  # fmt: skip
    click.echo(
        "\nNext, with your own data (Prometheus range-query results of Kepler's metrics as JSON):\n"
        "  kepler-model validate recording.json                what can be trained from it\n"
        "  kepler-model train default -i recording.json -s models\n"
        "  kepler-model estimate -s models -i other.json        predicted against measured\n"
        "  kepler-model plugins list                            what can be named in a pipeline\n"
        f"The models are in {store}; remove the folder when you no longer need it."
    )
    return EXIT_SOME_FAILED if report.failed else 0


def _estimates(store: str, report: Report, observations: Observations) -> list[dict[str, Any]]:
    """Load every published model. Return, for each output type, a summary of the best model's estimates."""
    from kepler_core.estimate import estimate
    from kepler_core.selection import ModelRequest, read_catalogue
    from kepler_core.store import open_store

    catalogue = read_catalogue(open_store(store), pipelines=["quickstart"])
    if len(catalogue.models) != len(report.models):
        raise ModelError(f"{len(report.models)} models were published, but {len(catalogue.models)} can be read back")
    for entry in catalogue.models:
        entry.load()
    estimates = []
    for output_type in OUTPUT_TYPES:
        chosen = catalogue.select(ModelRequest(output_type, tuple(observations.features), portable=True))
        estimates.append(estimate(chosen.model, observations).summary())
    return estimates
