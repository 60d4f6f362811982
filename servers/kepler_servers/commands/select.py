"""The command `kepler-model select`, which selects a model as the model server does, but without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from kepler_core.cli.examples import examples
from kepler_core.cli.inputs import store_option
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import UsageError
from kepler_core.machine import read_machine_spec
from kepler_core.vocabulary import OUTPUT_TYPES


@click.command(
    epilog=examples(
        "select -s models --request request.json",
        "select -s models --metrics bpf_cpu_time_ms,bpf_page_cache_hit --machine-spec spec.json",
    )
)
@store_option()
@click.option("--request", metavar="FILE", help="File with the JSON body of a POST /model; - means standard input.")
@click.option(
    "--metrics", metavar="A,B", help="Features that the client measures.  [default: the features of all stored models]"
)
@click.option("--output-type", type=click.Choice(OUTPUT_TYPES), help="Output type of the model.  [default: AbsPower]")
@click.option(
    "--source", help="Energy source: its name, an alias, or the name that Kepler sends.  [default: rapl-sysfs]"
)
@click.option("--trainer", help="Consider only models of this trainer.")
@click.option("--pipeline", help="Consider only models of this pipeline.")
@click.option(
    "--filter",
    "filter_",
    metavar="mae:5;…",
    help="Conditions for models: maximum errors (mae:5), or the features that a model may use (features:a,b).",
)
@click.option("--node-type", type=click.IntRange(0), help="Number of the node type that the model should be for.")
@click.option("--machine-spec", metavar="FILE", help="JSON file that describes the machine to select a model for.")
@click.option("--exact", is_flag=True, help="Consider only the machine's own node type, not similar node types.")
@click.option("--weights", is_flag=True, help="Consider only models with weights that Kepler can evaluate itself.")
@json_option
def select(
    store: str,
    request: str | None,
    metrics: str | None,
    output_type: str | None,
    source: str | None,
    trainer: str | None,
    pipeline: str | None,
    filter_: str | None,
    node_type: int | None,
    machine_spec: str | None,
    exact: bool,
    weights: bool,
    as_json: bool,
) -> None:
    """Show which model of a store fits a machine best, and why.

    With --request, show which model the model server would send.
    """
    from kepler_core.selection import read_catalogue
    from kepler_core.store import open_store
    from kepler_profiler.similarity import SpecTable
    from kepler_servers.model_request import read_model_request

    catalogue = read_catalogue(open_store(store), compare=SpecTable)
    options: dict[str, Any] = {
        "metrics": metrics, "output_type": output_type, "source": source, "trainer_name": trainer,
        "pipeline_name": pipeline, "filter": filter_, "node_type": node_type, "machine_spec": machine_spec,
        "loose_node_type": False if exact else None, "weight": weights or None,
    }  # fmt: skip
    fields = {key: value for key, value in options.items() if value is not None}
    if request is not None:
        if fields:
            raise UsageError("--request holds the whole request: it cannot be combined with options such as --metrics")
        body = _read(request)
    else:
        features = sorted({feature for model in catalogue.models for feature in model.features})
        fields["metrics"] = features if metrics is None else [name.strip() for name in metrics.split(",")]
        fields.setdefault("output_type", "AbsPower")
        if machine_spec is not None:
            fields["machine_spec"] = read_machine_spec(machine_spec).as_dict()
        body = msgspec.json.encode(fields)
    wanted = read_model_request(body)
    explanation = catalogue.select(wanted).explain()
    if as_json:
        print_json({"selection": explanation})
    else:
        _print(explanation)


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from error


def _print(explanation: dict[str, Any]) -> None:
    version = "" if explanation["version"] is None else f", version {explanation['version']}"
    click.echo(f"{explanation['model']} of pipeline {explanation['pipeline']}{version}")
    error = dict(explanation["error"])
    compared_by = error.pop("compared_by")
    click.echo(f"{_scores(error)}; compared by: {compared_by}")
    if "runner_up" in explanation:
        runner_up = dict(explanation["runner_up"])
        name = runner_up.pop("model")
        click.echo(f"next: {name} ({_scores(runner_up)})")
    _print_node_type(explanation["node_type"])
    if "honesty" in explanation:
        _print_honesty(explanation["honesty"])
    candidates = explanation["candidates"]
    click.echo(f"\n{candidates['considered']} models considered")
    if candidates["dropped"]:
        print_table(
            [(drop["by"], drop["count"], drop["why"]) for drop in candidates["dropped"]],
            ("dropped by", "models", "why"),
        )


def _print_node_type(node_type: dict[str, Any]) -> None:
    from kepler_core.selection.similarity import rounded_down

    spec = ", ".join(f"{key} {value}" for key, value in node_type["machine_spec"].items()) or "unknown machine"
    similarity = f", similarity {rounded_down(node_type['similarity'], 3):.3f}" if "similarity" in node_type else ""
    if node_type["match"] == "unknown":
        click.echo(f"node type {node_type['number']}: the machine of these models is not known")
    else:
        click.echo(f"node type {node_type['number']}: {node_type['match']}{similarity} ({spec})")
    for attribute, likeness in node_type.get("attributes", {}).items():
        click.echo(f"  {attribute:<10} {'not known on one side' if likeness is None else format(likeness, '.3f')}")


def _print_honesty(honesty: dict[str, Any]) -> None:
    if honesty["half_width"]:
        widths = ", ".join(f"{component} ± {width:.1f} W" for component, width in honesty["half_width"].items())
        click.echo(f"{100 * honesty['level']:.0f} % interval: {widths}")
    for flag, sentence in honesty["flags"].items():
        click.echo(f"  - {flag}: {sentence}")


def _scores(scores: dict[str, float | None]) -> str:
    return ", ".join(f"{key} {'unknown' if value is None else format(value, 'g')}" for key, value in scores.items())
