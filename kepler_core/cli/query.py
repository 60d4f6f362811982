"""The command `query`: a recording from a Prometheus server."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.cli.output import json_option, print_json
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, matchers_of, open_client, seconds_of, unix_time
from kepler_core.errors import PrometheusError, RecordingError, UsageError, missing_extra

if TYPE_CHECKING:
    from kepler_core.prometheus import PrometheusClient, Query
    from kepler_core.prometheus.spool import Spool


@attrs.frozen
class _Request:
    """Options that decide which samples are queried. A command resumes another one if these are equal."""

    start: str | None
    end: str | None
    last: str | None
    step: float | None
    pipeline: str | None
    settings: list[str]
    """A list and no tuple, because the stored arguments are compared after decoding."""
    instance: str | None
    selector: str | None


@click.command()
@click.option(
    "--server",
    metavar="URL",
    envvar="PROM_SERVER",
    required=True,
    help="The Prometheus server.  [variable: PROM_SERVER]",
)
@click.option("--start", metavar="TIME", help="First time: Unix seconds or ISO 8601 (UTC).")
@click.option("--end", metavar="TIME", help="Last time, by default now.")
@click.option("--last", metavar="DURATION", help="Instead of --start: duration before the end, e.g. 2h.")
@click.option(
    "--step",
    metavar="SECONDS",
    type=click.FloatRange(0.001),
    help="Query one sample per step; by default all samples as they were scraped.",
)
@click.option(
    "--pipeline", metavar="P", help="Query only the metrics that this pipeline needs; by default all known metrics."
)
@access_options
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write (.json or .json.gz).")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at a time.")
@click.option(
    "--patience",
    metavar="DURATION",
    default="1m",
    show_default=True,
    help="How long to retry while the server does not answer.",
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
    username: str | None,
    password_file: str | None,
    token_file: str | None,
    ca_file: str | None,
    insecure: bool | None,
    instance: str | None,
    selector: str | None,
    output: str,
    jobs: int,
    patience: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a recording from a Prometheus server, for `validate`, `train` and `estimate`.

    Queries known metrics only. Keeps the answers in FILE.part until all have arrived: after an
    interruption, the same command resumes.
    """
    request = _Request(start, end, last, step, pipeline, list(settings), instance, selector)
    _check_usage(request, output)
    try:
        client = open_client(
            server,
            username=username,
            password_file=password_file,
            token_file=token_file,
            ca_file=ca_file,
            insecure=_insecure(insecure),
            patience=seconds_of(patience, "--patience"),
        )
    except ModuleNotFoundError as error:
        raise missing_extra(error, "query") or error from error
    summary = _run(client, request, output, jobs)
    if as_json:
        print_json(summary)
    else:
        click.echo(
            f"{output}: {summary['metrics']} metrics, {summary['queries']} queries, {summary['bytes']} bytes, "
            f"in {summary['seconds']:.1f} s"
        )


def _check_usage(request: _Request, output: str) -> None:
    if (request.start is None) == (request.last is None):
        raise UsageError("give either --start or --last")
    if request.settings and request.pipeline is None:
        raise UsageError("--set goes with --pipeline")
    if not Path(output).resolve().parent.is_dir():
        raise UsageError(f"cannot write {output}: there is no folder {Path(output).parent}")


def _insecure(option: bool | None) -> bool:
    if option is not None:
        return option
    return os.environ.get("PROM_SSL_DISABLE", "").strip().casefold() == "true"


def _run(client: PrometheusClient, request: _Request, output: str, jobs: int) -> dict[str, Any]:
    """Write the recording; return the output of `--json`."""
    from kepler_core.prometheus.spool import Spool

    spool = Spool(output)
    arguments = {"server": client.location, **attrs.asdict(request)}
    queries = spool.resume(arguments)
    resumed = queries is not None
    if queries is None:
        queries = _plan(client, request)
        spool.begin(arguments, queries)
    missing = [index for index in range(len(queries)) if not spool.has(index)]
    if resumed:
        click.echo(
            f"resuming {spool.folder}: {len(queries) - len(missing)} of {len(queries)} answers are there", err=True
        )
    started = time.perf_counter()
    try:
        _fetch(client, spool, queries, missing, jobs)
    except PrometheusError as error:
        n_kept = sum(spool.has(index) for index in range(len(queries)))
        raise PrometheusError(
            f"{error}; {n_kept} of {len(queries)} answers are in {spool.folder}, the same command resumes", error.kind
        ) from error
    spool.finish(queries)
    return {
        "output": output,
        "server": client.location,
        "start": min(q.start for q in queries) / 1000,
        "end": max(q.end for q in queries) / 1000,
        "metrics": len({q.metric for q in queries}),
        "queries": len(queries),
        "resumed": resumed,
        "bytes": Path(output).stat().st_size,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _plan(client: PrometheusClient, request: _Request) -> list[Query]:
    """Return the queries for the metrics that the server has and the pipeline needs."""
    from kepler_core.prometheus import plan_queries, select_metrics

    spec = None
    if request.pipeline is not None:
        from kepler_core.pipeline.load import load_pipeline

        spec = load_pipeline(request.pipeline, settings=request.settings)
    since, until = _window(client, request)
    matchers = matchers_of(request.selector)
    names = client.metric_names(since, until, matchers)
    selections = select_metrics(names, spec=spec, instance=request.instance, matchers=matchers)
    if not selections:
        contents = f"{len(names)} metrics, but none that is needed" if names else "no metric at all"
        raise RecordingError(f"{client.location} has {contents} between these times")
    return plan_queries(selections, since, until, request.step)


def _window(client: PrometheusClient, request: _Request) -> tuple[float, float]:
    """Return the first and the last time in Unix seconds."""
    # the options are checked before the server is queried for its time
    since = unix_time(request.start, "--start") if request.start is not None else None
    length = seconds_of(request.last, "--last") if request.last is not None else 0.0
    until = unix_time(request.end, "--end") if request.end is not None else client.now()
    if since is None:
        since = until - length
    if not 0 <= since < 1e11 or not 0 <= until < 1e11:
        raise UsageError("a time is not in Unix seconds (milliseconds?)")
    if not since < until:
        raise UsageError("the start is not before the end")
    return since, until


def _fetch(client: PrometheusClient, spool: Spool, queries: list[Query], missing: list[int], jobs: int) -> None:
    """Fetch the missing answers, with a progress bar on a terminal."""
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
