"""The command `train`, which trains the models of a pipeline on recordings and publishes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.findings import finding_lines
from kepler_core.cli.fleet_machines import fleet_machines
from kepler_core.cli.inputs import (
    FROM_METRICS,
    idle_option,
    input_option,
    machine_spec_option,
    machine_specs_option,
    metric_prefix_option,
    parse_vm_guests,
    profile_option,
    read_object,
    store_option,
    vm_guest_option,
    vm_settings,
)
from kepler_core.cli.output import json_option, print_json
from kepler_core.cli.pairs import PairFiles, pair_options, read_pairs
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.tables import TableFiles, read_tables, table_files, table_options
from kepler_core.cli.training_recordings import check_part_options, observe_recordings
from kepler_core.errors import (
    EXIT_SOME_FAILED,
    KeplerError,
    PipelineError,
    RecordingError,
    UnknownPluginError,
    UsageError,
)
from kepler_core.store.layout import REPORT_LISTENER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kepler_core.machine import Machine
    from kepler_core.pipeline.parallel import Backend
    from kepler_core.pipeline.report import Report
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.pipeline.tables import TableTraining
    from kepler_core.plugins.hooks import HookCall, Hooks
    from kepler_core.recording.findings import Finding


@click.command(
    epilog=examples(
        "train default -i recording.json.gz -s models",
        "train quickstart -i recording.json.gz -s models --set 'feature_groups=[BPFOnly]'",
        "train default --host host.json --guest guest.csv --vm vm-a -s models",
    )
)
@click.argument("pipeline")
@input_option(required=False)
@table_options
@pair_options
@store_option()
@click.option("--name", help="Name of the pipeline in the store (default: the name in the pipeline file).")
@click.option(
    "--backend",
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="Where Parquet recordings are read and models are fitted: in processes (loky), in threads, or on a Dask "
    "cluster.",
)
@click.option(
    "--scheduler",
    metavar="ADDR",
    help="Address of a Dask scheduler, e.g. tcp://host:8786 (default: start a local Dask cluster).",
)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Number of simultaneous fits (default: one per core).")
@click.option(
    "--part-samples",
    type=click.IntRange(1),
    help="Number of samples of a Parquet recording that a process reads at a time (default: 4,000,000, which take "
    "about 300 MB). A part is larger if a single machine has more samples.",
)
@click.option(
    "--sample-rows",
    type=click.IntRange(1000),
    help="Number of rows (containers and nodes, each at a timestamp) of Parquet recordings to keep for the training "
    "(default: 2,000,000, which take about 300 MB).",
)
@machine_spec_option()
@click.option(
    "--machine-id",
    metavar="ID",
    help="Name under which the store lists the machine as a member of its node type (default: the node names in "
    "the recordings).",
)
@machine_specs_option(". Models are trained for each node type, and published as one version.")
@idle_option()
@profile_option()
@click.option(
    "--trace-hooks",
    is_flag=True,
    help="Print each call of a listener to standard error, with its start time and duration.",
)
@click.option("--strict", is_flag=True, help="Train nothing if the recordings have any finding, and exit with code 1.")
@click.option(
    "--report",
    type=click.Choice(["html", "none"]),
    default="html",
    show_default=True,
    help="Add the page report.html to the pipeline, with errors, pictures and the data that was left out (html), or "
    "add no page (none).",
)
@vm_guest_option()
@metric_prefix_option()
@set_option
@json_option
def train(
    pipeline: str,
    inputs: tuple[str, ...],
    tables: tuple[str, ...],
    columns: tuple[str, ...],
    energy_source: str | None,
    store: str,
    name: str | None,
    backend: Backend,
    scheduler: str | None,
    jobs: int | None,
    part_samples: int | None,
    sample_rows: int | None,
    machine_spec: str | None,
    machine_id: str | None,
    machine_specs: str | None,
    idle: tuple[str, ...],
    profile: str | None,
    trace_hooks: bool,
    strict: bool,
    report: Literal["html", "none"],
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    pairs: PairFiles | None,
) -> int:
    """Train, validate and publish the models of a pipeline.

    PIPELINE is the name of a shipped pipeline or a YAML file.

    The reported errors are measured on data that the models were not fitted on. The pipeline's validation
    scheme holds out blocks of time, the end of each recording, or whole nodes. It never holds out single
    rows at random.

    Exit code 3 means that models were published, but at least one trainer failed. The report lists the failures.

    With --machine-spec, the models belong to the node type of the described machine. The pipeline's models
    of other node types stay in the store.

    With --machine-specs, nodes with equal machines are one node type, and each type gets models of its own. The
    descriptions of the machines are in a file, or (--machine-specs metrics) in the recordings' own metrics. If a type
    has at least 5 nodes, the report lists the outliers: nodes whose power differs from that of the other nodes at the
    same work (see also the command `nodes`).

    --vm-guest sets the keys use_vm_metrics and vm_guests of the pipeline.

    --data trains from tables, e.g. of your own meters, instead of recordings (see docs/tables.md).

    --host, --guest and --vm train a model of a virtual machine from recordings of its host and of itself
    (see docs/pairs.md).
    """
    of_recordings = {"--vm-guest": vm_guests, "--metric-prefix": None if idle else metric_prefix}
    of_recordings["--machine-specs"] = machine_specs
    only = [option for option, value in of_recordings.items() if value]
    if machine_specs is not None:
        others = {"--machine-spec": machine_spec, "--machine-id": machine_id, "--profile": profile}
        if unusable := [option for option, value in others.items() if value]:
            raise UsageError(f"{unusable[0]} describes one machine, so it cannot be used with --machine-specs")
    result = run(
        pipeline,
        inputs,
        store,
        name,
        backend=backend,
        scheduler=scheduler,
        jobs=jobs,
        settings=(*settings, *vm_settings(parse_vm_guests(vm_guests))),
        machine=_machine(machine_spec, machine_id),
        idle=idle,
        profile=profile,
        trace_hooks=trace_hooks,
        strict=strict,
        tables=_instead_of_recordings(inputs, tables, columns, energy_source, pairs, only),
        metric_prefix=metric_prefix,
        with_page=report == "html",
        part_samples=part_samples,
        sample_rows=sample_rows,
        machine_specs=machine_specs,
    )
    if as_json:
        print_json(result.as_dict())
    else:
        from kepler_core.cli.training_report import print_report

        print_report(result)
    return EXIT_SOME_FAILED if result.failed else 0


def _instead_of_recordings(
    inputs: tuple[str, ...],
    tables: tuple[str, ...],
    columns: tuple[str, ...],
    energy_source: str | None,
    pairs: PairFiles | None,
    only_recordings: Sequence[str],
) -> TableFiles | PairFiles | None:
    """Return the tables or pairs that a user names; None if the user names recordings."""
    if pairs is None:
        return table_files(inputs, tables, columns, energy_source, only_recordings)
    others = {"--input": inputs, "--data": tables, "--column": columns, "--energy-source": energy_source}
    if given := [*only_recordings, *(option for option, value in others.items() if value)]:
        raise UsageError(f"{given[0]} cannot be used with --host and --guest")
    return pairs


def _machine(machine_spec: str | None, machine_id: str | None) -> Machine | None:
    """Return the machine that the options --machine-spec and --machine-id describe."""
    from kepler_core.machine import Machine, read_machine_spec

    if machine_id is not None and machine_spec is None:
        raise UsageError("--machine-id needs --machine-spec")
    return None if machine_spec is None else Machine(read_machine_spec(machine_spec), machine_id)


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
    strict: bool = False,
    tables: TableFiles | PairFiles | None = None,
    metric_prefix: str | None = None,
    with_page: bool = True,
    part_samples: int | None = None,
    sample_rows: int | None = None,
    machine_specs: str | None = None,
) -> Report:
    """Read recordings or tables, train a pipeline's models on them and publish the models.

    Shows a progress bar if standard error is a terminal.
    """
    from kepler_core.machine import Machine, MachineSpec
    from kepler_core.pipeline.train import train as train_pipeline
    from kepler_core.plugins.hooks import hooks
    from kepler_core.recording.findings import findings
    from kepler_core.store import open_store

    check_part_options((*inputs, *idle), part_samples, sample_rows)
    spec = _load_pipeline(pipeline, settings, name, store)
    if machine_specs == FROM_METRICS and spec.use_vm_metrics:
        raise UsageError("--machine-specs metrics describes hosts, but use_vm_metrics trains on virtual machines")
    fleet = fleet_machines(machine_specs, (*inputs, *idle), metric_prefix)
    largest = machine if fleet is None else Machine(MachineSpec(cores=fleet.most_cores()))
    with _shown(listeners := hooks(), trace_hooks), nullcontext() if with_page else listeners.without(REPORT_LISTENER):
        stored_profile = None if profile is None else read_object(profile)
        started = time.perf_counter()
        table_data = _read_tables(tables, spec, machine)
        observed = partial(
            observe_recordings, spec, machine=largest, metric_prefix=metric_prefix, part_samples=part_samples,
            sample_rows=sample_rows, backend=backend, scheduler=scheduler, jobs=jobs,
        )  # fmt: skip
        if table_data is None:
            observations = observed(inputs)
        else:
            spec, observations = table_data.spec, table_data.rows.data.observations
        if strict and (lines := finding_lines(findings(observations.counts))):
            raise RecordingError(f"--strict: {len(lines)} kinds of findings; {' | '.join(lines)}")
        idle_observations = observed(idle) if idle else None
        groups, machine_notes = ([], ()) if fleet is None else fleet.groups(observations, idle_observations)
        read_seconds = time.perf_counter() - started
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
                profile=stored_profile,
                tables=table_data,
                groups=groups,
            )
        except KeplerError:
            _print_severe(findings(observations.counts), machine_notes)
            raise
    report.machine_notes = list(machine_notes)
    total_seconds = time.perf_counter() - started
    report.seconds = {"read": round(read_seconds, 3), **report.seconds, "total": round(total_seconds, 3)}
    return report


def _read_tables(
    tables: TableFiles | PairFiles | None, spec: PipelineSpec, machine: Machine | None
) -> TableTraining | None:
    if tables is None:
        return None
    return read_pairs(tables, spec, machine) if isinstance(tables, PairFiles) else read_tables(tables, spec, machine)


def _print_severe(all_findings: Sequence[Finding], machine_notes: Sequence[str]) -> None:
    """Print what may explain why a training failed: findings with the severity "error", and notes about machines."""
    severe = finding_lines([finding for finding in all_findings if finding.severity == "error"])
    for line in (*severe, *machine_notes):
        click.echo(f"kepler-model: {line}", err=True)


def _load_pipeline(pipeline: str, settings: tuple[str, ...], name: str | None, store: str) -> PipelineSpec:
    """Load a pipeline.

    The pipeline may name a plugin that is not installed. If the store knows the plugin's distribution from an
    earlier training, the error ends with the pip command that installs it.
    """
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.plugins import where_it_was
    from kepler_core.store import open_store

    try:
        return load_pipeline(pipeline, settings=settings, name=name)
    except PipelineError as error:
        if isinstance(error.__cause__, UnknownPluginError):
            hint = where_it_was(error.__cause__, open_store(store))
            raise PipelineError(error.message + hint, path=error.path, document=error.document) from error
        raise


@contextmanager
def _shown(listeners: Hooks, trace_hooks: bool) -> Iterator[None]:
    """Show a progress bar if standard error is a terminal, and print listener calls if `trace_hooks` is true."""
    from kepler_core.cli.progress import progress_bar

    if trace_hooks:
        listeners.trace = _print_call(time.perf_counter())
    try:
        with progress_bar(listeners):
            yield
    finally:
        listeners.trace = None


def _print_call(started: float) -> Callable[[HookCall], None]:
    """Return a function that prints one line about each call of a listener, with the seconds since `started`."""

    def print_call(call: HookCall) -> None:
        at = time.perf_counter() - started - call.seconds
        failed = "" if call.failure is None else f"  failed: {call.failure}"
        click.echo(f"{at:9.3f} s  {call.hook:<24} {call.listener:<40} {1000 * call.seconds:9.2f} ms{failed}", err=True)

    return print_call
