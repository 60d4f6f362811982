"""The commands `profile build`, `profile show`, `profile compare` and `profile schema`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.inputs import metric_prefix_option, read_all
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.errors import StoreError, UsageError

if TYPE_CHECKING:
    from kepler_profiler.profile.document import NodeProfile

PROFILE_FILE = "profile.json"


@click.command(epilog=examples("profile build recording.json.gz --machine-spec spec.json -o built"))
@click.argument("recordings", nargs=-1, metavar="RECORDING...")
@click.option("--idle", metavar="FILE", multiple=True, help="Recording of the idle machine; can be repeated.")
@click.option("--machine-spec", metavar="FILE", help="Description of the machine (see `profile machine`).")
@click.option("--vm", "use_vm_metrics", is_flag=True, help='Use the process-level metrics of a VM (job="vm").')
@metric_prefix_option()
@click.option("-o", "--output", metavar="DIR", required=True, help="Folder for profile.json and the plots.")
@click.option("--format", "formats", type=click.Choice(["png", "svg", "none"]), default="png", show_default=True,
              help="Format of the plots.")  # fmt: skip
@json_option
def build(
    recordings: tuple[str, ...],
    idle: tuple[str, ...],
    machine_spec: str | None,
    use_vm_metrics: bool,
    metric_prefix: str | None,
    output: str,
    formats: str,
    as_json: bool,
) -> None:
    """Build the profile of a machine from its recordings.

    The idle power is the power in the blocks of time with the lowest load. If the machine was never idle, the idle
    power is marked as an upper bound. The number of cores in --machine-spec helps to decide whether the machine was
    idle.
    """
    from kepler_core.machine import read_machine_spec
    from kepler_core.recording import observe
    from kepler_profiler.profile import build_profile, write_profile

    if not recordings and not idle:
        raise UsageError("no recording given")
    spec = {} if machine_spec is None else read_machine_spec(machine_spec).as_dict()
    busy = (
        observe(read_all(recordings, metric_prefix=metric_prefix), use_vm_metrics=use_vm_metrics)
        if recordings
        else None
    )
    quiet = observe(read_all(idle, metric_prefix=metric_prefix), use_vm_metrics=use_vm_metrics) if idle else None
    profile = build_profile(busy, quiet, machine_spec=spec)
    folder = Path(output)
    _write(folder, PROFILE_FILE, write_profile(profile))
    plots: list[str] = []
    if formats != "none":
        from kepler_profiler.profile.plots import draw_profile

        plots = draw_profile(folder, profile, [part for part in (busy, quiet) if part is not None], formats)
    if as_json:
        print_json(profile)
        return
    print_profile(profile)
    click.echo(f"\nWritten to {folder / PROFILE_FILE}" + (f" and {len(plots)} plots beside it." if plots else "."))


@click.command(epilog=examples("profile show built", "profile show models/quickstart#0"))
@click.argument("profile", metavar="PROFILE")
@json_option
def show(profile: str, as_json: bool) -> None:
    """Show a profile in a file, in a folder written by `profile build`, or in a store: STORE/PIPELINE[#NODE_TYPE]."""
    document = read(profile)
    if as_json:
        print_json(document)
    else:
        print_profile(document)


@click.command(epilog=examples("profile compare before after -o both.png"))
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@click.option("-o", "--output", metavar="FILE", help="Write a plot that compares the two profiles (.png or .svg).")
@json_option
def compare(one: str, other: str, output: str | None, as_json: bool) -> None:
    """Compare two profiles: idle and highest power, feature scales, machines."""
    from kepler_profiler.profile.compare import compare_profiles

    if output is not None and Path(output).suffix not in (".png", ".svg"):
        raise UsageError(f"{output}: the file name of a plot must end in .png or .svg")
    first, second = read(one), read(other)
    comparison = compare_profiles(first, second)
    if output is not None:
        from kepler_profiler.profile.plots import draw_comparison

        draw_comparison(Path(output), (one, first), (other, second))
    if as_json:
        print_json(comparison)
        return
    click.echo(f"A {one}\nB {other}")
    _print_comparison(comparison)


@click.command(epilog=examples("profile schema > profile.schema.json"))
@json_errors_option
def schema() -> None:
    """Print the JSON Schema of a profile."""
    from kepler_profiler.profile.document import json_schema

    print_json(json_schema())


def read(where: str) -> NodeProfile:
    """Read the profile in a file, in a folder that `profile build` has written, or in a pipeline of a store."""
    from kepler_core.pipeline.node_types import profile_file
    from kepler_core.store import open_store
    from kepler_core.urls import is_url, shown_location
    from kepler_profiler.profile.document import read_profile

    location, _, number = where.partition("#")
    path = Path(location)
    if not number and path.is_dir() and (path / PROFILE_FILE).is_file():
        path = path / PROFILE_FILE
    if not number and path.is_file():
        try:
            return read_profile(path.read_bytes(), str(path))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
    store, _, pipeline = location.rstrip("/").rpartition("/")
    if not pipeline or (number and not number.isdecimal()) or not (is_url(location) or path.is_dir()):
        raise UsageError(
            f"{shown_location(where)}: no such profile; "
            f"give a file, a folder with {PROFILE_FILE}, or STORE/PIPELINE#NODE_TYPE"
        )
    snapshot = open_store(store or ".").snapshot(pipeline)
    name = profile_file(int(number or 0))
    if name not in snapshot.names:
        files = (n for n in snapshot.names if "profiles/" in n)
        numbers = ", ".join(sorted(file.removeprefix("profiles/").removesuffix(".json") for file in files)) or "none"
        raise StoreError(
            f"{shown_location(location)}: no profile of node type {number or 0} (node types with a profile: {numbers})"
        )
    return read_profile(snapshot.read(name), f"{shown_location(location)}#{number or 0}")


def print_profile(profile: NodeProfile) -> None:
    """Print a profile as tables."""
    _print_recordings(profile)
    click.echo("")
    print_table(
        [
            (source, component, _watts(power.idle, power.upper_bound), f"{power.idle_spread:.2f}", power.idle_samples,
             _watts(power.maximum), power.samples)
            for source, components in profile.power.items()
            for component, power in components.items()
        ],
        ("source", "component", "idle W", "± W", "samples", "highest W", "samples"),
    )  # fmt: skip
    click.echo("")
    print_table(
        [
            (name, _number(values.lowest), _number(values.median), _number(values.highest), values.samples)
            for name, values in profile.features.items()
        ],
        ("feature", "lowest", "median", "highest (scale)", "samples"),
    )
    click.echo(f"feature groups: {', '.join(profile.feature_groups) or 'none'}")
    if profile.background:
        click.echo(f"{len(profile.background)} background containers")
    if profile.notes:
        click.echo("\nNotes:")
        for note in profile.notes:
            click.echo(f"  - {note}")


def _print_recordings(profile: NodeProfile) -> None:
    spec = ", ".join(f"{key} {value}" for key, value in profile.machine_spec.items()) or "not known"
    click.echo(f"machine: {spec}")
    for entry in profile.recordings:
        gaps = f", {entry.gaps} gaps" if entry.gaps else ""
        idle = ", of the idle machine" if entry.idle else ""
        click.echo(f"{entry.recording}: {entry.node}, {entry.timestamps} timestamps {entry.step:g} s apart{gaps}{idle}")
    quiet = profile.quiet
    if quiet.feature is not None:
        capacity = f" of {quiet.capacity:g}" if quiet.capacity is not None else ""
        click.echo(
            f"quietest {quiet.blocks} blocks of {quiet.block_steps}: {quiet.feature} {quiet.level:.4g} per "
            f"second{capacity}; highest {quiet.highest:.4g}; {'idle' if quiet.idle else 'not idle'}"
        )


def _print_comparison(comparison: dict[str, Any]) -> None:
    likeness = comparison["machine"]
    click.echo(f"machines: similarity {likeness['similarity']:.3f}" if likeness["known"] else "machines: not known")
    click.echo("")
    print_table(
        [
            (p["source"], p["component"], *(_watts(p[side], p[f"{side}_bound"]) for side in ("idle_a", "idle_b")),
             _difference(p["idle_a"], p["idle_b"]), _watts(p["maximum_a"]), _watts(p["maximum_b"]))
            for p in comparison["power"]
        ],
        ("source", "component", "idle A W", "idle B W", "B - A", "highest A W", "highest B W"),
    )  # fmt: skip
    click.echo("")
    print_table(
        [
            (f["feature"], _number(f["highest_a"]), _number(f["highest_b"]), _number(f["ratio"]))
            for f in comparison["features"]
        ],
        ("feature", "highest A", "highest B", "B / A"),
    )
    for note in comparison["notes"]:
        click.echo(f"  - {note}")


def _watts(watts: float | None, bound: bool = False) -> str:
    return "-" if watts is None else f"{'≤ ' if bound else ''}{watts:.2f}"


def _difference(one: float | None, other: float | None) -> str:
    return "-" if one is None or other is None else f"{other - one:+.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _write(folder: Path, name: str, content: bytes) -> None:
    from kepler_core.atomic_files import whole_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / name, f".{os.getpid()}") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"cannot write {folder / name}: {error.strerror or error}") from error
