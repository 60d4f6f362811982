"""The command `query`, which writes a recording from the samples of a Prometheus server."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.atomic_files import check_output
from kepler_core.cli.examples import examples
from kepler_core.cli.inputs import metric_prefix_option
from kepler_core.cli.output import json_option, print_json
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, headers_of, matchers_of, open_client, seconds_of, unix_time
from kepler_core.errors import PrometheusError, RecordingError, UsageError, missing_extra
from kepler_core.parquet.layout import check_folder, is_parquet

if TYPE_CHECKING:
    from kepler_core.prometheus import PrometheusClient, Query
    from kepler_core.prometheus.spool import Spool


_QUERY_LESS = "but the same command would fail again; query fewer series with --selector or --instance"
_ADVICE = {
    "too large": _QUERY_LESS,
    "timeout": _QUERY_LESS,
    "refused": "but the same command would fail again",
    "answer": "but the same command would probably fail again",
}
"""Maps kinds of `PrometheusError` to advice for the user.

After an error of any other kind, the user can resume the query with the same command.
"""


@attrs.frozen
class _Request:
    """Options that decide which samples are queried.

    A command resumes an interrupted query only if all of these options are the same as in the interrupted command.
    """

    start: str | None
    end: str | None
    last: str | None
    step: float | None
    pipeline: str | None
    settings: list[str]
    """Values of `--set`. A list, not a tuple, because it is compared with a list that was decoded from JSON."""
    instance: str | None
    selector: str | None
    headers: str | None
    """Digest of the request headers; None if there are none. A header may select the tenant whose samples are
    returned."""
    metric_prefix: str | None
    machines: bool


@click.command(
    epilog=examples(
        "query --server http://prometheus:9090 --last 1h -o recording.json.gz",
        "query --server http://prometheus:9090 --last 2d --instance 'node1.*' -o recording.json.gz",
    )
)
@click.option(
    "--server",
    metavar="URL",
    envvar="PROM_SERVER",
    required=True,
    help="URL of the Prometheus server.  [variable: PROM_SERVER]",
)
@click.option("--start", metavar="TIME", help="Start of the time range: Unix seconds or ISO 8601 (UTC).")
@click.option("--end", metavar="TIME", help="End of the time range, by default now.")
@click.option("--last", metavar="DURATION", help="Length of the time range, e.g. 2h, instead of --start.")
@click.option(
    "--step",
    metavar="SECONDS",
    type=click.FloatRange(0.001),
    help="Query one sample every SECONDS. The number is rounded to a multiple of the scrape interval. By default, all "
    "scraped samples are queried.",
)
@click.option(
    "--pipeline", metavar="P", help="Query only the metrics that the pipeline P needs; by default all known metrics."
)
@metric_prefix_option()
@click.option(
    "--machines",
    is_flag=True,
    help="Also query the metrics that describe the nodes' machines, one sample per hour. `train --machine-specs "
    "metrics` needs them.",
)
@access_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    help="Recording to write (.json, .json.gz or .parquet). Samples are added to a recording in Parquet that exists "
    "already.",
)
@click.option(
    "--to-csv",
    metavar="[DIR]",
    is_flag=False,
    flag_value="",
    help="Also write the samples of each metric to a CSV file in the folder DIR (without DIR: in a folder beside FILE "
    "with the ending _csv).",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Number of parallel requests."
)
@click.option(
    "--patience",
    metavar="DURATION",
    default="1m",
    show_default=True,
    help="Time for which requests are repeated if the server does not answer.",
)
@set_option
@json_option
def query(
    server: str,
    start: str | None,
    end: str | None,
    last: str | None,
    step: float | None,
    pipeline: str | None,
    metric_prefix: str | None,
    machines: bool,
    username: str | None,
    password_file: str | None,
    token_file: str | None,
    headers: tuple[str, ...],
    ca_file: str | None,
    insecure: bool | None,
    instance: str | None,
    selector: str | None,
    instances_per_query: int | None,
    rate: float,
    compress: bool | None,
    output: str,
    to_csv: str | None,
    jobs: int,
    patience: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a recording from a Prometheus server, for `validate`, `train` and `estimate`.

    Only metrics that an installed metric schema knows are queried. The server's answers are kept in the
    folder FILE.part until all have arrived. After an interruption, run the same command again to resume.
    """
    from kepler_core.configuration import Configuration

    configuration = Configuration()
    own_headers = headers_of(headers, configuration)
    request = _Request(
        start, end, last, step, pipeline, list(settings), instance, selector, _digest(own_headers), metric_prefix,
        machines,
    )  # fmt: skip
    _check_usage(request, output, to_csv)
    try:
        client = open_client(
            server,
            configuration,
            username=username,
            password_file=password_file,
            token_file=token_file,
            ca_file=ca_file,
            insecure=insecure,
            headers=own_headers,
            patience=seconds_of(patience, "--patience"),
            rate=rate,
            compress=compress,
        )
    except ModuleNotFoundError as error:
        raise missing_extra(error, "query") or error from error
    summary = _run(client, request, output, jobs, instances_per_query)
    if to_csv is not None:
        to_csv = to_csv or f"{output.removesuffix('.gz').removesuffix('.json')}_csv"
        summary["csv"] = _write_csv(output, to_csv)
    if as_json:
        print_json(summary)
    else:
        click.echo(
            f"{output}: {summary['metrics']} metrics, {summary['queries']} queries, {summary['bytes']} bytes, "
            f"in {summary['seconds']:.1f} s"
        )
        if to_csv is not None:
            click.echo(f"{to_csv}: {len(summary['csv'])} CSV files")


def _digest(headers: Mapping[str, str]) -> str | None:
    if not headers:
        return None
    return hashlib.sha256(repr(sorted(headers.items())).encode()).hexdigest()[:16]


def _check_usage(request: _Request, output: str, to_csv: str | None) -> None:
    if (request.start is None) == (request.last is None):
        raise UsageError("give either --start or --last")
    if request.settings and request.pipeline is None:
        raise UsageError("--set needs --pipeline")
    if not is_parquet(output):
        check_output(output)
    elif to_csv is not None:
        raise UsageError("--to-csv needs a recording in JSON (.json or .json.gz)")
    else:
        check_folder(Path(output))


def _run(
    client: PrometheusClient, request: _Request, output: str, jobs: int, instances_per_query: int | None
) -> dict[str, Any]:
    """Write the recording and return the summary that `--json` prints."""
    from kepler_core.prometheus.spool import Spool

    spool = Spool(output)
    arguments = {"server": client.location, **attrs.asdict(request)}
    queries = spool.resume(arguments)
    resumed = queries is not None
    if queries is None:
        queries = _plan(client, request, jobs, instances_per_query)
        spool.begin(arguments, queries)
    missing = [index for index in range(len(queries)) if not spool.has(index)]
    if resumed:
        click.echo(
            f"resuming {spool.folder}: {len(queries) - len(missing)} of {len(queries)} answers are already in it",
            err=True,
        )
    started = time.perf_counter()
    try:
        _fetch(client, spool, queries, missing, jobs)
    except PrometheusError as error:
        n_kept = sum(spool.has(index) for index in range(len(queries)))
        advice = _ADVICE.get(error.kind, "the same command resumes")
        raise PrometheusError(
            f"{error}; {n_kept} of {len(queries)} answers are in {spool.folder}, {advice}", error.kind
        ) from error
    spool.finish(queries)
    return {
        "output": output,
        "server": client.location,
        "start": min(q.start for q in queries) / 1000,
        "end": max(q.end for q in queries) / 1000,
        "step": None if queries[0].step is None else queries[0].step / 1000,
        "metrics": len({q.metric for q in queries}),
        "queries": len(queries),
        "resumed": resumed,
        "bytes": _size(Path(output)),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _size(output: Path) -> int:
    """Return the size of a recording in bytes."""
    files = output.rglob("*") if output.is_dir() else [output]
    return sum(file.stat().st_size for file in files if file.is_file())


def _write_csv(recording: str, folder: str) -> list[str]:
    """Write the metrics of a recording as CSV files, and return the paths of the files."""
    from kepler_core.recording import read_recording
    from kepler_core.recording.csv_files import write_metrics

    try:
        return [str(path) for path in write_metrics(read_recording(recording), Path(folder))]
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error


def _plan(client: PrometheusClient, request: _Request, jobs: int, instances_per_query: int | None) -> list[Query]:
    """Return the queries for all metrics that the server has and that the pipeline needs."""
    from kepler_core.prometheus import plan_machine_queries, plan_queries, select_machine_metrics, select_metrics
    from kepler_core.prometheus.scrape_interval import rounded_step, scrape_interval
    from kepler_core.prometheus.sharding import choose_shards, instances_by_label, sample_of_many

    spec = None
    if request.pipeline is not None:
        from kepler_core.pipeline.load import load_pipeline

        spec = load_pipeline(request.pipeline, settings=request.settings)
    since, until = _window(client, request)
    matchers = matchers_of(request.selector)
    names = client.metric_names(since, until, matchers)
    selections = select_metrics(
        names, spec=spec, instance=request.instance, matchers=matchers, metric_prefix=request.metric_prefix
    )
    if not selections:
        contents = f"{len(names)} metrics, but none that is needed" if names else "no metric at all"
        raise RecordingError(f"{client.location} has {contents} in the queried time range")
    instances = instances_by_label(client, selections, since, until)
    step = request.step
    if step is not None:
        sample = sample_of_many(instances)
        interval = scrape_interval(client, selections, since, until, request.metric_prefix, sample)
        if interval is None:
            click.echo(f"--step {step:g}: the scrape interval is unknown; the step must be a multiple of it", err=True)
        elif (rounded := rounded_step(step, interval)) != step:
            click.echo(f"--step {step:g} is changed to {rounded:g}: samples are scraped every {interval:g} s", err=True)
            step = rounded
    shards = choose_shards(client, selections, instances, (since, until), step, most=instances_per_query, jobs=jobs)
    queries = plan_queries(selections, since, until, step, shards)
    if request.machines:
        others = select_machine_metrics(
            names, selections, instance=request.instance, matchers=matchers, metric_prefix=request.metric_prefix
        )
        queries += plan_machine_queries(others, since, until)
    return queries


def _window(client: PrometheusClient, request: _Request) -> tuple[float, float]:
    """Return the start and the end of the queried time range in Unix seconds."""
    # check all options before requesting the current time from the server
    since = unix_time(request.start, "--start") if request.start is not None else None
    length = seconds_of(request.last, "--last") if request.last is not None else 0.0
    until = unix_time(request.end, "--end") if request.end is not None else client.now()
    if since is None:
        since = until - length
    if not 0 <= since < 1e11 or not 0 <= until < 1e11:
        raise UsageError("the start or the end is not in Unix seconds (is it in milliseconds?)")
    if not since < until:
        raise UsageError("the start is not before the end")
    return since, until


def _fetch(client: PrometheusClient, spool: Spool, queries: list[Query], missing: list[int], jobs: int) -> None:
    """Write the missing answers to the spool (the folder FILE.part); show a progress bar if stderr is a terminal.

    `missing` holds the indices of the queries in `queries` whose answers are not on disk yet.
    """
    from kepler_core.prometheus import answers

    index_of = {queries[index]: index for index in missing}
    with ExitStack() as stack:
        bar: Any = None
        if sys.stderr.isatty():
            bar = stack.enter_context(
                click.progressbar(length=len(queries), label="querying", file=sys.stderr, show_pos=True)
            )
            bar.update(len(queries) - len(missing))
        for query, results in answers(client, [queries[index] for index in missing], jobs=jobs):
            spool.keep(index_of[query], results)
            if bar is not None:
                bar.update(1)
