"""`submit`: send a pipeline and a recording to an offline trainer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.output import json_option, print_json, watts
from kepler_core.cli.pipelines import set_option
from kepler_core.errors import EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from kepler_servers.offline_trainer.client import TrainerClient

_POLL_SECONDS = 0.5
_OVER = ("done", "failed", "cancelled")


@click.command()
@click.argument("pipeline")
@click.option(
    "-i", "--input", "input_", metavar="FILE", required=True, help="Prometheus range-query results (.json or .json.gz)."
)
@click.option(
    "--server", metavar="URL", default="http://127.0.0.1:8102", show_default=True, help="The offline trainer."
)
@click.option("--name", help="Name of the pipeline in the store (default: its own).")
@click.option("--idle", metavar="FILE", help="A recording of the idle machine, for isolators.")
@click.option("--machine-spec", metavar="FILE", help="What the machine is (see `kepler-model profile machine`).")
@click.option("--token-file", metavar="FILE", help="The server's token is in it.")
@click.option("--wait", is_flag=True, help="Until the job is over.")
@click.option("-o", "--output", metavar="FILE", help="Where to write the trained pipeline's zip (waits for it).")
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
    """Have an offline trainer train a PIPELINE (a shipped one's name, or a YAML file).

    The job goes on whether this command waits for it or not. Exit codes: 0 done, or queued without
    --wait; 1 the job failed; 3 done, but some models failed.
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
    with _bar("sending", submission.size) as sent:
        job = client.submit(submission, sent)
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


class _bar:  # noqa: N801
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, label: str, length: int) -> None:
        self._label = label
        self._length = length
        self._stack = ExitStack()

    def __enter__(self) -> Callable[[int], None]:
        if not sys.stderr.isatty():
            return lambda more: None
        bar: Any = click.progressbar(length=self._length, label=self._label, file=sys.stderr)
        entered: Any = self._stack.enter_context(bar)
        update: Callable[[int], None] = entered.update
        return update

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _wait(client: TrainerClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it is over, with its progress shown."""

    def until(ready: Callable[[dict[str, Any]], bool], job: dict[str, Any]) -> dict[str, Any]:
        while not ready(job) and job["state"] not in _OVER:
            time.sleep(_POLL_SECONDS)
            job = client.job(job["id"])
        return job

    job = until(lambda found: found["progress"]["models"] is not None, job)
    with _bar("training", job["progress"]["models"] or 0) as trained:
        done = 0
        while True:
            now = job["progress"]["trained"] + job["progress"]["failed"]
            trained(now - done)
            done = now
            if job["state"] in _OVER:
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
            where = f"{failure['source']} {failure['output_type']} {failure['feature_group']}"
            click.echo(f"failed: {failure['trainer'] or 'data set'} ({where}): {failure['reason']}")
        if output is not None:
            click.echo(f"written to {output}")
        return
    error = job["error"] or {"msg": "it was cancelled"}
    click.echo(f"kepler-model: error: job {job['id']} {job['state']}: {error['msg']}", err=True)
    for group in error.get("findings", {}).get("groups", ()):
        if not group["trainable"]:
            click.echo(f"  {group['source']} {group['feature_group']}: {group['reason']}", err=True)
