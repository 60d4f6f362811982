"""The command `kepler-model submit`, which sends a pipeline and a recording to an offline trainer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, watts
from kepler_core.cli.pipelines import set_option
from kepler_core.errors import EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from kepler_servers.offline_trainer.client import TrainerClient

_POLL_SECONDS = 0.5


@click.command(epilog=examples("submit quickstart -i recording.json.gz --wait -o pipeline.zip"))
@click.argument("pipeline")
@click.option(
    "-i",
    "--input",
    "input_",
    metavar="FILE",
    required=True,
    help="Recording to train on: Prometheus range-query results (.json or .json.gz).",
)
@click.option(
    "--server", metavar="URL", default="http://127.0.0.1:8102", show_default=True, help="URL of the offline trainer."
)
@click.option("--name", help="Name of the pipeline in the model store.  [default: the pipeline's own name]")
@click.option("--idle", metavar="FILE", help="Recording of the idle machine, for isolators that need one.")
@click.option(
    "--machine-spec", metavar="FILE", help="JSON file that describes the machine (see `kepler-model profile machine`)."
)
@click.option("--token-file", metavar="FILE", help="File with the token that the offline trainer requires.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended, and show its result.")
@click.option("-o", "--output", metavar="FILE", help="Write the trained pipeline's zip to FILE. Implies --wait.")
@set_option
@json_option
def submit(
    pipeline: str,
    input_: str,
    server: str,
    name: str | None,
    idle: str | None,
    machine_spec: str | None,
    token_file: str | None,
    wait: bool,
    output: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> int:
    """Have an offline trainer train a PIPELINE (the name of a shipped pipeline, or a YAML file).

    Interrupting this command does not cancel the job.

    \b
    Exit codes:
      0  the job is done; without --wait: the job is queued
      1  the job failed or was cancelled
      3  the job is done, but some models failed
    """
    from kepler_core.cli.inputs import read_object
    from kepler_core.pipeline.load import as_document, load_pipeline
    from kepler_servers.offline_trainer.client import Submission, TrainerClient
    from kepler_servers.offline_trainer.worker import read_token

    spec = load_pipeline(pipeline, settings=settings, name=name, resolve=False)
    members: dict[str, Any] = {"pipeline": as_document(spec)}
    if machine_spec is not None:
        members["machine_spec"] = read_object(machine_spec)
    recordings = {"prom_response": Path(input_)}
    if idle is not None:
        recordings["idle_prom_response"] = Path(idle)
    for path in recordings.values():
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
    token = read_token(token_file)
    client = TrainerClient(server, token=None if token is None else token.decode())
    submission = Submission(members, recordings)
    with _progress_bar("sending", submission.size) as advance:
        job = client.submit(submission, advance)
    url = f"{client.url}{job['url']}"
    if not wait and output is None:
        if as_json:
            print_json(job)
        else:
            click.echo(f"job {job['id']}: {job['state']}\n{url}")
        return 0
    if sys.stderr.isatty():
        click.echo(f"job {job['id']} at {url}", err=True)
    job = _wait(client, job)
    if job["state"] == "done" and output is not None:
        client.download(job["id"], Path(output))
    if as_json:
        print_json(job)
    else:
        _print(job, output)
    if job["state"] != "done":
        return 1
    return EXIT_SOME_FAILED if job["report"]["failed"] else 0


@contextmanager
def _progress_bar(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if standard error is a terminal. Yield the function that advances the bar."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    bar: Any = click.progressbar(length=length, label=label, file=sys.stderr)
    with bar as shown:
        yield shown.update


def _wait(client: TrainerClient, job: dict[str, Any]) -> dict[str, Any]:
    """Show the progress of a job until it has ended, and return the final state of the job."""
    from kepler_servers.offline_trainer.job import FINAL_STATES

    while job["progress"]["models"] is None and job["state"] not in FINAL_STATES:
        time.sleep(_POLL_SECONDS)
        job = client.job(job["id"])
    with _progress_bar("training", job["progress"]["models"] or 0) as advance:
        shown = 0
        while True:
            ended = job["progress"]["trained"] + job["progress"]["failed"]
            advance(ended - shown)
            shown = ended
            if job["state"] in FINAL_STATES:
                return client.job(job["id"])
            time.sleep(_POLL_SECONDS)
            job = client.job(job["id"])


def _print(job: dict[str, Any], output: str | None) -> None:
    if job["state"] == "done":
        models = [model for model in job["models"] if "reason" not in model]
        best = min(models, key=lambda model: model["mae"], default=None)
        click.echo(f"{len(models)} models of pipeline {job['pipeline']} published, version {job['version']}")
        if best is not None:
            click.echo(f"lowest error: {best['path']}, MAE {watts(best['mae'])} W")
        for failure in job["report"]["failed"]:
            place = f"{failure['source']} {failure['output_type']} {failure['feature_group']}"
            click.echo(f"failed: {failure['trainer'] or 'data set'} ({place}): {failure['reason']}")
        if output is not None:
            click.echo(f"written to {output}")
        return
    error = job["error"] or {}
    reason = f": {error['msg']}" if error else ""
    click.echo(f"kepler-model: error: job {job['id']} {job['state']}{reason}", err=True)
    for group in error.get("findings", {}).get("groups", ()):
        if not group["trainable"]:
            click.echo(f"  {group['source']} {group['feature_group']}: {group['reason']}", err=True)
