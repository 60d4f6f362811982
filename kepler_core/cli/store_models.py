"""The commands `store show` and `store compare`, which show the measured errors of the models of pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.export_files import write_atomically
from kepler_core.cli.inputs import store_option
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.errors import UsageError
from kepler_core.honesty.document import SPLIT_NAMES, SplitName, read_honesty
from kepler_core.honesty.flags import ONE_RECORDING
from kepler_core.honesty.interval import widest_half_width
from kepler_core.json_files import indented_json
from kepler_core.store.layout import REPORT_FILE

if TYPE_CHECKING:
    from kepler_core.comparison.comparison import Comparison
    from kepler_core.comparison.pairs import Pair
    from kepler_core.comparison.sides import Side
    from kepler_core.store import Snapshot, Store
    from kepler_core.store.models import StoredModel

_KEYS = ("source", "output_type", "feature_group", "trainer")


@click.command(epilog=examples("store show quickstart -s models"))
@click.argument("pipeline", metavar="PIPELINE[@VERSION]")
@store_option()
@json_option
def show(pipeline: str, store: str, as_json: bool) -> None:
    """Show the errors on each split, the intervals and the training data of a pipeline's models.

    A split is a kind of held-out data. A split that was never measured is shown as "-". Without @VERSION, the current
    version is shown.
    """
    models = _models(store, pipeline)
    entries = [_entry(model) for model in models]
    if as_json:
        print_json(entries)
        return
    rows = [
        (
            *(entry[key] for key in _KEYS),
            *(watts(entry["splits"].get(name)) for name in SPLIT_NAMES),
            watts(entry["half_width"]),
            "-" if entry["twin"] is None else f"{entry['twin'].feature_group}/{entry['twin'].model_name}",
        )
        for entry in entries
    ]
    print_table(rows, ("source", "type", "feature group", "trainer", *SPLIT_NAMES, "± 90 % W", "twin"))
    click.echo(
        "\nMAE in watts on held-out data; ± 90 % W: typical half-width of the interval, on machines of the training."
    )
    _print_seen(models)


def _print_seen(models: list[StoredModel]) -> None:
    """Print how much data the models were trained on, and the range of each feature.

    Models that were trained on equal amounts of data are printed together.
    """
    trainings: dict[tuple[int, int, int, int], dict[str, tuple[float, float]]] = {}
    for model in models:
        if (honesty := read_honesty(model.metadata)) is not None:
            seen = honesty.seen
            key = (seen.recordings, seen.days, seen.nodes, seen.samples)
            trainings.setdefault(key, {}).update(seen.features)
    for (recordings, days, nodes, samples), features in trainings.items():
        counts = ((recordings, "recording"), (days, "day"), (nodes, "node"), (samples, "sample"))
        numbers = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
        click.echo(f"\nTrained on {numbers}:")
        print_table(
            [(name, f"{low:.4g}", f"{high:.4g}") for name, (low, high) in sorted(features.items())],
            ("feature", "lowest", "highest"),
            "  ",
        )
        if recordings == 1:
            click.echo(f"  {ONE_RECORDING}")


@click.command(epilog=examples("store compare quickstart@1 quickstart@2 -s models"))
@click.argument("first", metavar="PIPELINE[@VERSION]")
@click.argument("second", metavar="PIPELINE[@VERSION]")
@store_option()
@click.option(
    "--other-store", metavar="DIR|URL", help="The model store of the second pipeline.  [default: the value of --store]"
)
@click.option(
    "--report",
    metavar="FILE",
    help="Write the whole comparison to this file: a page with pictures (FILE.html) or a document (FILE.json).",
)
@json_option
def compare(first: str, second: str, store: str, other_store: str | None, report: str | None, as_json: bool) -> None:
    """Compare the errors of the models of two pipelines, or of two versions of a pipeline.

    Two models are compared if they have the same energy source, output type, feature group and trainer. The
    comparison uses a split (a kind of held-out data) that was measured for both models: the split with the largest
    error. The report of --report also has the models that Kepler Core would select, the training data, and the settings
    that differ.
    """
    from kepler_core.comparison.comparison import compare_sides
    from kepler_core.comparison.pairs import pairs_of

    kind = None if report is None else _report_kind(report)
    one, two = _sides((first, store), (second, store if other_store is None else other_store))
    compared = [_compared(pair) for pair in pairs_of(one, two)]
    if report is not None:
        _write_report(compare_sides(one, two), report, kind)
    if as_json:
        print_json(compared)
        return
    print_table(
        [
            (*(entry[key] for key in _KEYS), entry["split"], watts(entry["first"]), watts(entry["second"]),
             entry["better"])
            for entry in compared
        ],
        ("source", "type", "feature group", "trainer", "split", first, second, "better"),
    )  # fmt: skip
    for name in ("first", "second"):
        wins = sum(entry["better"] == name for entry in compared)
        click.echo(f"{'' if name == 'second' else chr(10)}{first if name == 'first' else second}: "
                   f"lower MAE in {wins} of {len(compared)} models")  # fmt: skip


def _compared(pair: Pair) -> dict[str, Any]:
    """Return the errors of two models, and the better model, on the split with the largest error.

    Only splits (kinds of held-out data) that were measured for both models are considered.
    """
    entry: dict[str, Any] = {**dict(zip(_KEYS, pair.key, strict=True)), "split": pair.split}
    for name, model in (("first", pair.first), ("second", pair.second)):
        entry[name] = None if model is None or pair.split is None else model.errors[pair.split].mae
    names = {"A": "first", "B": "second"}
    entry["better"] = f"only {names[pair.only]}" if pair.only else names[pair.better] if pair.better else None
    return entry


def _report_kind(report: str) -> str:
    """Return the suffix of the file to write; raise `UsageError` if it is neither .html nor .json."""
    suffix = Path(report).suffix.lower()
    if suffix not in (".html", ".json"):
        raise UsageError(f"--report {report}: the name of the file must end in .html or .json")
    return suffix


def _sides(first: tuple[str, str], second: tuple[str, str]) -> tuple[Side, Side]:
    """Read the two pipelines that a user compares. Each of `first` and `second` is (name of the pipeline, store).

    Raises `UsageError` if the pipelines estimate different kinds of power (different targets). An example is the power
    of a machine and the power of a virtual machine. The errors of such pipelines cannot be compared.
    """
    from kepler_core.comparison.sides import read_side
    from kepler_core.pipeline.targets import target_of

    snapshots = [_snapshot(location, name) for name, location in (first, second)]
    targets = list(map(target_of, snapshots))
    if targets[0] != targets[1]:
        raise UsageError(
            f"{first[0]} has the target {targets[0]}, {second[0]} has the target {targets[1]}: they estimate different "
            "kinds of power, so their errors cannot be compared"
        )
    return read_side("A", *first, snapshots[0]), read_side("B", *second, snapshots[1])


def _write_report(comparison: Comparison, path: str, kind: str | None) -> None:
    """Write a comparison as JSON, or as the HTML page that a listener of the hook `kepler_pipelines_compared` makes."""
    if kind == ".json":
        content = indented_json(comparison.as_dict())
    else:
        from kepler_core.plugins.hooks import hooks

        files: dict[str, bytes] = {}
        hooks().call("kepler_pipelines_compared", comparison=comparison, files=files)
        if REPORT_FILE not in files:
            raise UsageError(
                f"--report {path}: no page was made. The listener kepler-core:report makes it, which needs "
                "pip install 'kepler-core[train]' (kepler-model plugins list shows whether it is turned off)"
            )
        content = files[REPORT_FILE]
    write_atomically(Path(path), content)
    click.echo(f"Report: {path}", err=True)


def _errors(model: StoredModel) -> dict[SplitName, float]:
    honesty = read_honesty(model.metadata)
    if honesty is None:
        return {}
    return {name: errors.mae for name, errors in honesty.splits.items() if errors is not None}


def _key(model: StoredModel) -> tuple[str, ...]:
    return (model.source, model.output_type, model.feature_group, model.trainer)


def _entry(model: StoredModel) -> dict[str, Any]:
    """Return the description of a model that `store show --json` prints."""
    honesty = read_honesty(model.metadata)
    entry: dict[str, Any] = {"path": model.path, **dict(zip(_KEYS, _key(model), strict=True))}
    entry |= {"node_type": model.node_type, "mae": model.metadata.get("mae"), "splits": _errors(model)}
    return entry | {
        "hardest": None if honesty is None else honesty.hardest,
        "half_width": None if honesty is None else widest_half_width(honesty),
        "twin": None if honesty is None else honesty.twin,
        "seen": None if honesty is None else honesty.seen,
    }


def _models(location: str, name: str) -> list[StoredModel]:
    """Return the models of a pipeline `NAME` or `NAME@VERSION`; raise `UsageError` if the version is not a number."""
    from kepler_core.store.models import read_models

    return read_models(_snapshot(location, name))


def _snapshot(location: str, name: str) -> Snapshot:
    from kepler_core.store import open_store

    pipeline, _, version = name.partition("@")
    if version and not version.isdecimal():
        raise UsageError(f"{name}: the version after @ must be a number, such as {pipeline}@1")
    opened = open_store(location)
    _check_exists(opened, pipeline)
    return opened.snapshot(pipeline, int(version) if version else None)


def _check_exists(opened: Store, pipeline: str) -> None:
    if pipeline not in opened.pipelines():
        raise opened.no_such_pipeline(pipeline)
