"""`train`: recordings and a pipeline in, published models out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from kepler_core.cli.inputs import input_option, read_all, read_object, store_option
from kepler_core.cli.output import json_option, print_json, print_table, watts
from kepler_core.cli.pipelines import set_option
from kepler_core.errors import EXIT_SOME_FAILED, PipelineError, UnknownPluginError, UsageError
from kepler_core.machine import Machine, read_machine_spec
from kepler_core.pipeline.parallel import Backend
from kepler_core.pipeline.report import Report
from kepler_core.plugins.hooks import HookCall


@click.command()
@click.argument("pipeline")
@input_option()
@store_option()
@click.option("--name", help="Name of the pipeline in the store (default: its own).")
@click.option(
    "--backend",
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="Where models are fitted: processes, threads, or a Dask cluster.",
)
@click.option("--scheduler", metavar="ADDR", help="Dask scheduler, e.g. tcp://host:8786 (default: one of its own).")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Fits at a time (default: one per core).")
@click.option("--machine-spec", metavar="FILE", help="What the machine is (see `kepler-model profile machine`).")
@click.option("--machine-id", metavar="ID", help="What the machine is called in its node type (default: its nodes).")
@click.option("--idle", metavar="FILE", multiple=True, help="A recording of the idle machine, for isolators.")
@click.option("--profile", metavar="FILE", help="The profile of its node type (default: the one in the store).")
@click.option("--trace-hooks", is_flag=True, help="Show every call of a listener, with its time, on standard error.")
@set_option
@json_option
def train(
    pipeline: str,
    inputs: tuple[str, ...],
    store: str,
    name: str | None,
    backend: Backend,
    scheduler: str | None,
    jobs: int | None,
    machine_spec: str | None,
    machine_id: str | None,
    idle: tuple[str, ...],
    profile: str | None,
    trace_hooks: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train, validate and publish the models of a PIPELINE (a shipped one's name, or a YAML file).

    The errors are of data that the models were not fitted on: contiguous blocks of time in turn, not
    shuffled rows. Exit code 3: models were published, but at least one trainer failed (see "failed").

    With --machine-spec the models are of that machine's node type, beside those of other node types that
    the pipeline has in the store already.
    """
    if machine_id is not None and machine_spec is None:
        raise UsageError("--machine-id goes with --machine-spec")
    machine = None if machine_spec is None else Machine(read_machine_spec(machine_spec), machine_id)
    report = run(
        pipeline,
        inputs,
        store,
        name,
        backend=backend,
        scheduler=scheduler,
        jobs=jobs,
        settings=settings,
        machine=machine,
        idle=idle,
        profile=profile,
        trace_hooks=trace_hooks,
    )
    if as_json:
        print_json(report.as_dict())
    else:
        print_report(report)
    return EXIT_SOME_FAILED if report.failed else 0


def run(
    pipeline: str,
    inputs: tuple[str, ...],
    store: str,
    name: str | None = None,
    *,
    backend: Backend = "loky",
    scheduler: str | None = None,
    jobs: int | None = None,
    settings: tuple[str, ...] = (),
    machine: Machine | None = None,
    idle: tuple[str, ...] = (),
    profile: str | None = None,
    trace_hooks: bool = False,
) -> Report:
    """Read, train and publish, with a progress bar on a terminal."""
    from kepler_core.cli.progress import ProgressBar
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.observing import observe_for
    from kepler_core.pipeline.plugins import where_it_was
    from kepler_core.pipeline.train import train as train_pipeline
    from kepler_core.plugins.hooks import hooks
    from kepler_core.store import open_store

    try:
        spec = load_pipeline(pipeline, settings=settings, name=name)
    except PipelineError as error:
        if isinstance(error.__cause__, UnknownPluginError):
            hint = where_it_was(error.__cause__, open_store(store))
            raise PipelineError(error.message + hint, path=error.path, document=error.document) from error
        raise
    listeners = hooks()
    if trace_hooks:
        listeners.trace = _print_call(time.perf_counter())
    known_profile = None if profile is None else read_object(profile)
    started = time.perf_counter()
    observations = observe_for(spec, read_all(inputs, spec.third_party))
    idle_observations = observe_for(spec, read_all(idle, spec.third_party)) if idle else None
    read_seconds = time.perf_counter() - started
    progress = ProgressBar() if sys.stderr.isatty() else None
    if progress is not None:
        listeners.listen(progress)
    try:
        report = train_pipeline(
            spec,
            observations,
            open_store(store),
            backend=backend,
            scheduler=scheduler,
            jobs=jobs,
            listeners=listeners,
            machine=machine,
            idle=idle_observations,
            profile=known_profile,
        )
    finally:
        listeners.trace = None
        if progress is not None:
            progress.close()
    report.seconds = {
        "read": round(read_seconds, 3),
        **report.seconds,
        "total": round(time.perf_counter() - started, 3),
    }
    return report


def _print_call(started: float) -> Callable[[HookCall], None]:
    """Prints a line per call: when, what, who, how long, how it went."""

    def printed(call: HookCall) -> None:
        at = time.perf_counter() - started - call.seconds
        failed = "" if call.failure is None else f"  failed: {call.failure}"
        click.echo(f"{at:9.3f} s  {call.hook:<24} {call.listener:<40} {1000 * call.seconds:9.2f} ms{failed}", err=True)

    return printed


def print_report(report: Report) -> None:
    """The table of models with their errors, then what failed and what was skipped."""
    print_table(
        [
            (
                model["source"],
                model["output_type"],
                model["feature_group"],
                model["trainer"],
                watts(model["mae"]),
                watts(model["mape"]),
                ", ".join(f"{c} {v['mae']:.2f}" for c, v in model["components"].items() if v["mae"] >= 0.005),
                ", ".join(
                    f"{b['constant_mae']:.1f}/{b['line_mae']:.1f}"
                    for b in [model["baselines"][_worst(model["components"])]]
                ),
            )
            for model in report.models
        ],
        ("source", "type", "feature group", "trainer", "MAE W", "MAPE %", "MAE by component", "constant/line"),
    )
    click.echo(
        "\nErrors on data held out in blocks of time; MAE and MAPE are those of the worst component, "
        "DynPower's\nare of the sum over a node's containers. constant/line: MAE of a constant and of a "
        "straight line through\nthe main feature, for that component."
    )
    if report.notes:
        click.echo("\nNoticed:")
        _print_together(report.notes, "note")
    if report.skipped:
        click.echo("\nNot trained, because the data does not allow it:")
        _print_together(report.skipped, "reason")
    if report.failed:
        click.echo("\nFailed:")
        for failure in report.failed:
            where = f"{failure['source']} {failure['output_type']} {failure['feature_group']}"
            click.echo(f"  {failure['trainer'] or 'data set'} ({where}): {failure['reason']}")
    click.echo(
        f"\n{len(report.models)} models published as {report.store}/{report.pipeline}, version {report.version}, "
        f"in {report.seconds['total']:.1f} s"
    )


def _print_together(found: list[dict[str, Any]], key: str) -> None:
    """What is said of several data sets, once, with the data sets."""
    seen: dict[str, list[str]] = {}
    for one in found:
        seen.setdefault(one[key], []).append(f"{one['source']} {one['output_type']} {one['feature_group']}")
    for said, which in seen.items():
        more = f" and {len(which) - 3} more" if len(which) > 3 else ""
        click.echo(f"  {said}: {', '.join(which[:3])}{more}")


def _worst(components: dict[str, dict[str, float]]) -> str:
    return max(components, key=lambda component: components[component]["mae"])
