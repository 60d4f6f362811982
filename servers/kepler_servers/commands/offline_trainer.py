"""`serve offline-trainer`."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from kepler_core.errors import MissingExtraError, UsageError

DEFAULT_PORT = 8102

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes: 512MiB, 2G, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15})([KMG]?)(i?B)?", str(value).strip())
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is not a size such as 512MiB, 2G or 1000000", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.command("offline-trainer")
@click.option("-s", "--store", metavar="DIR|URL", help="The model store to publish into.  [key: MODEL_PATH]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Trainings at a time.")
@click.option("--token-file", metavar="FILE", help="Clients must send the token in it (Authorization: Bearer).")
@click.option("--insecure", is_flag=True, help="Listen on an address that others can reach without a token.")
@click.option(
    "--state",
    metavar="DIR",
    help="Folder of the queue, inputs and results.  [default: $STATE_DIRECTORY, else below $XDG_STATE_HOME]",
)
@click.option(
    "--backend",
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="Where models are fitted: processes, threads, or a Dask cluster.",
)
@click.option("--scheduler", metavar="ADDR", help="Dask scheduler, e.g. tcp://host:8786 (default: one of its own).")
@click.option("--fits", type=click.IntRange(1, 1024), help="Fits at a time of each training.  [default: cores / jobs]")
@click.option(
    "--max-body", type=Size(), default="512MiB", show_default=True, help="Largest request, as JSON that is not packed."
)
@click.option(
    "--memory-limit",
    type=Size(),
    default="8GiB",
    show_default=True,
    help="Address space of each process of a training.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Longest training.",
)
@click.option(
    "--max-queue", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Jobs that may wait."
)
@click.option(
    "--keep-inputs",
    type=click.FloatRange(0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="How long a finished job's input is kept.",
)
@click.option(
    "--keep-results",
    type=click.FloatRange(0),
    default=168,
    show_default=True,
    metavar="HOURS",
    help="How long a finished job and its zip are kept. What is in the store stays.",
)
@click.option("--config-dir", metavar="DIR", help="Folder with one file per key.  [variable: CONFIG_PATH]")
@click.pass_context
def offline_trainer(
    context: click.Context,
    store: str | None,
    host: str,
    port: int,
    jobs: int,
    token_file: str | None,
    insecure: bool,
    state: str | None,
    backend: Literal["loky", "threading", "dask"],
    scheduler: str | None,
    fits: int | None,
    max_body: int,
    memory_limit: int,
    time_limit: float,
    max_queue: int,
    keep_inputs: float,
    keep_results: float,
    config_dir: str | None,
) -> None:
    """Train pipelines from recordings that are sent to it (POST /train), and publish them.

    Requests become jobs in a queue on the disk: they survive clients that hang up and servers that are
    killed. GET /jobs lists them, GET /openapi.json all endpoints. `kepler-model submit` is a client.
    """
    for module in ("pandas", "sklearn", "joblib"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("serve offline-trainer", "train", module)
    from kepler_core.configuration import Configuration
    from kepler_core.store import open_store
    from kepler_servers.http.adapter import serve
    from kepler_servers.offline_trainer.settings import SETTINGS_VARIABLE, TARGET, Settings, StateFolder
    from kepler_servers.offline_trainer.worker import lock, read_token

    location = Configuration(config_dir).text("MODEL_PATH", store)
    if location is None:
        raise UsageError("no model store: give --store, or set MODEL_PATH")
    if scheduler is not None and backend != "dask":
        raise UsageError("--scheduler goes with --backend dask")
    open_store(location)  # one that cannot be is said here, once
    if read_token(token_file) is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines: give --token-file, or say --insecure to let anybody train"
        )
    folder = StateFolder(state or default_state())
    try:
        folder.make()
    except OSError as error:
        raise UsageError(f"--state {folder.root}: {error.strerror or error}") from error
    lock(folder).close()  # another one is said here, once
    settings = Settings(
        store=location,
        state=str(folder.root.resolve()),
        address=f"{host}:{port}",
        token_file=None if token_file is None else str(Path(token_file).resolve()),
        jobs=jobs,
        fits=fits or max(1, len(os.sched_getaffinity(0)) // jobs),
        backend=backend,
        scheduler=scheduler,
        max_body=max_body,
        memory_limit=memory_limit,
        time_limit=time_limit,
        max_queue=max_queue,
        keep_inputs=keep_inputs * 3600,
        keep_results=keep_results * 3600,
        verbose=bool(context.find_root().params.get("verbose")),
    )
    os.environ[SETTINGS_VARIABLE] = msgspec.json.encode(settings).decode()
    serve(TARGET, host=host, port=port, workers=1)


def default_state() -> str:
    """Where a service, or a user's program, keeps what must survive it."""
    if (given := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]) != "":
        return given
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "kepler-core", "offline-trainer")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
