"""`query`: a recording from a Prometheus server."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.output import json_option, print_json
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, matchers_of, open_client, seconds_of, unix_time
from kepler_core.errors import PrometheusError, RecordingError, UsageError

if TYPE_CHECKING:
    from kepler_core.prometheus import PrometheusClient, Query


@click.command()
@click.option(
    "--server",
    metavar="URL",
    envvar="PROM_SERVER",
    required=True,
    help="The Prometheus server.  [variable: PROM_SERVER]",
)
@click.option("--start", metavar="TIME", help="From then: Unix seconds or ISO 8601 (UTC).")
@click.option("--end", metavar="TIME", help="Until then, by default now.")
@click.option("--last", metavar="DURATION", help="In place of --start: so long before the end, e.g. 2h.")
@click.option(
    "--step",
    metavar="SECONDS",
    type=click.FloatRange(0.001),
    help="One sample per step; by default all samples as they were scraped.",
)
@click.option(
    "--pipeline", metavar="P", help="Only the metrics that this pipeline needs; by default all that are known."
)
@access_options
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to write (.json or .json.gz).")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Questions at a time.")
@click.option(
    "--patience",
    metavar="DURATION",
    default="1m",
    show_default=True,
    help="How long a server that does not answer is asked again.",
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

    Only known metrics are asked for. What is answered is kept in FILE.part until all is there: the
    same command resumes after an interruption.
    """
    if (start is None) == (last is None):
        raise UsageError("give either --start or --last")
    if settings and pipeline is None:
        raise UsageError("--set goes with --pipeline")
    if not Path(output).resolve().parent.is_dir():
        raise UsageError(f"cannot write {output}: there is no folder {Path(output).parent}")
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
        from kepler_core.errors import missing_extra

        raise missing_extra(error, "query") or error from error
    asked = {
        "server": client.location, "start": start, "end": end, "last": last, "step": step, "pipeline": pipeline,
        "settings": list(settings), "instance": instance, "selector": selector,
    }  # fmt: skip
    from kepler_core.prometheus.spool import Spool

    spool = Spool(output)
    queries = spool.resume(asked)
    resumed = queries is not None
    if queries is None:
        queries = _plan(client, start, end, last, step, pipeline, settings, instance, selector)
        spool.begin(asked, queries)
    missing = [index for index in range(len(queries)) if not spool.has(index)]
    if resumed:
        click.echo(
            f"resuming {spool.folder}: {len(queries) - len(missing)} of {len(queries)} answers are there", err=True
        )
    started = time.perf_counter()
    try:
        _fetch(client, spool, queries, missing, jobs)
    except PrometheusError as error:
        there = sum(spool.has(index) for index in range(len(queries)))
        raise PrometheusError(
            f"{error}; {there} of {len(queries)} answers are in {spool.folder}, the same command resumes", error.kind
        ) from error
    spool.finish(queries)
    summary = {
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
    if as_json:
        print_json(summary)
    else:
        click.echo(
            f"{output}: {summary['metrics']} metrics, {summary['queries']} queries, {summary['bytes']} bytes, "
            f"in {summary['seconds']:.1f} s"
        )


def _insecure(given: bool | None) -> bool:
    import os

    return given if given is not None else os.environ.get("PROM_SSL_DISABLE", "").strip().casefold() == "true"


def _plan(
    client: PrometheusClient,
    start: str | None,
    end: str | None,
    last: str | None,
    step: float | None,
    pipeline: str | None,
    settings: tuple[str, ...],
    instance: str | None,
    selector: str | None,
) -> list[Query]:
    from kepler_core.prometheus import plan_queries, select_metrics

    spec = None
    if pipeline is not None:
        from kepler_core.pipeline.load import load_pipeline

        spec = load_pipeline(pipeline, settings=settings)
    since, until = _window(client, start, end, last)
    matchers = matchers_of(selector)
    names = client.metric_names(since, until, matchers)
    selections = select_metrics(names, spec=spec, instance=instance, matchers=matchers)
    if not selections:
        what = f"{len(names)} metrics, but none that is needed" if names else "no metric at all"
        raise RecordingError(f"{client.location} has {what} between these times")
    return plan_queries(selections, since, until, step)


def _window(client: PrometheusClient, start: str | None, end: str | None, last: str | None) -> tuple[float, float]:
    # all that can be wrong is said before the server is asked for its clock
    since = unix_time(start, "--start") if start is not None else None
    length = seconds_of(last, "--last") if last is not None else 0.0
    until = unix_time(end, "--end") if end is not None else client.now()
    if since is None:
        since = until - length
    if not 0 <= since < 1e11 or not 0 <= until < 1e11:
        raise UsageError("a time is not in Unix seconds (milliseconds?)")
    if not since < until:
        raise UsageError("the start is not before the end")
    return since, until


def _fetch(client: PrometheusClient, spool: Any, queries: list[Query], missing: list[int], jobs: int) -> None:
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
