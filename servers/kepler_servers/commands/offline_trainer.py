"""The command `kepler-model serve offline-trainer`."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from kepler_core.cli.configured_option import config_dir_option, configured_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_core.errors import MissingExtraError, UsageError
from kepler_servers.commands.deployment import (
    configure_server_logging,
    create_store_folder,
    log_options,
    state_folder,
    store_location,
)

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_servers.offline_trainer.settings import Settings

DEFAULT_PORT = 8102

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Type of options whose value is a number of bytes, such as 512MiB, 2G or 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15})([KMG]?)(i?B)?", str(value).strip())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a size such as 512MiB, 2G or 1000000", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.command(
    "offline-trainer",
    epilog=examples(
        "serve offline-trainer -s models", "serve offline-trainer -s models --host 0.0.0.0 --token-file token"
    ),
)
@click.option(
    "-s",
    "--store",
    metavar="DIR|URL",
    help="Model store that trained pipelines are published to.  [configuration key: MODEL_PATH; "
    "default: /mnt/models, if it is writable]",
)
@configured_option(
    "--host", key="OFFLINE_TRAINER_HOST", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@configured_option(
    "--port",
    key="OFFLINE_TRAINER_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on.",
)
@configured_option(
    "-j",
    "--jobs",
    key="OFFLINE_TRAINER_JOBS",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of jobs to train at a time.",
)
@configured_option(
    "--allow-host",
    key="OFFLINE_TRAINER_ALLOW_HOST",
    metavar="HOST",
    multiple=True,
    help="Host name to accept in the headers Host and Origin (repeatable); used if --host is a loopback address.",
)
@configured_option(
    "--token-file",
    key="OFFLINE_TRAINER_TOKEN_FILE",
    metavar="FILE",
    help="File with the token that clients must send (Authorization: Bearer).",
)
@configured_option(
    "--insecure",
    key="OFFLINE_TRAINER_INSECURE",
    is_flag=True,
    help="Let clients on other machines train without a token.",
)
@configured_option(
    "--state",
    key="OFFLINE_TRAINER_STATE",
    metavar="DIR",
    help="Folder for queued jobs, their inputs and results.  [default: $STATE_DIRECTORY, else "
    "/mnt/state/offline-trainer if it is writable, else below $XDG_STATE_HOME]",
)
@configured_option(
    "--backend",
    key="OFFLINE_TRAINER_BACKEND",
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="Where models are fitted: in processes (loky), in threads (threading) or on a Dask cluster (dask).",
)
@configured_option(
    "--scheduler",
    key="OFFLINE_TRAINER_SCHEDULER",
    metavar="ADDR",
    help="Address of the Dask scheduler, e.g. tcp://host:8786.  [default: a local scheduler]",
)
@configured_option(
    "--fits",
    key="OFFLINE_TRAINER_FITS",
    type=click.IntRange(1, 1024),
    help="Number of models that each job fits at a time.  [default: number of CPU cores divided by --jobs]",
)
@configured_option(
    "--max-body",
    key="OFFLINE_TRAINER_MAX_BODY",
    type=Size(),
    default="512MiB",
    show_default=True,
    help="Maximum size of a request's JSON body, after decompression.",
)
@configured_option(
    "--memory-limit",
    key="OFFLINE_TRAINER_MEMORY_LIMIT",
    type=Size(),
    default="8GiB",
    show_default=True,
    help="Maximum size of the address space (virtual memory) of each training process.",
)
@configured_option(
    "--time-limit",
    key="OFFLINE_TRAINER_TIME_LIMIT",
    type=click.FloatRange(1),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Maximum duration of a job's training.",
)
@configured_option(
    "--max-queue",
    key="OFFLINE_TRAINER_MAX_QUEUE",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Maximum number of jobs in the queue.",
)
@configured_option(
    "--keep-inputs",
    key="OFFLINE_TRAINER_KEEP_INPUTS",
    type=click.FloatRange(0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="Time after which the inputs of a finished job are removed.",
)
@configured_option(
    "--keep-results",
    key="OFFLINE_TRAINER_KEEP_RESULTS",
    type=click.FloatRange(0),
    default=168,
    show_default=True,
    metavar="HOURS",
    help="Time after which a finished job and its zip are removed. The trained pipeline stays in the store.",
)
@log_options
@config_dir_option
@click.pass_context
@json_errors_option
def offline_trainer(
    context: click.Context,
    store: str | None,
    host: str,
    port: int,
    jobs: int,
    allow_host: tuple[str, ...],
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
    log_level: str | None,
    config_dir: str | None,
) -> None:
    """Train pipelines from recordings that clients send (POST /train), and publish them.

    Each request becomes a job in a queue on disk. A job is not lost if the client disconnects or the
    server is killed. GET /jobs lists the jobs, and GET /openapi.json describes all endpoints. The
    command `kepler-model submit` sends such requests.
    """
    for module in ("pandas", "sklearn", "joblib"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("serve offline-trainer", "train", module)
    from kepler_core.configuration import Configuration
    from kepler_core.urls import is_loopback
    from kepler_servers.http.server import serve
    from kepler_servers.offline_trainer.settings import SETTINGS_VARIABLE, TARGET, Settings

    level, log_format = configure_server_logging(context, log_level)
    configuration = Configuration(config_dir)
    location = store_location(configuration, store)
    if scheduler is not None and backend != "dask":
        raise UsageError("--scheduler needs --backend dask")
    settings = Settings(
        store=location,
        state=str(Path(state or default_state(configuration)).resolve()),
        address=f"{host}:{port}",
        allowed_hosts=tuple(name.lower() for name in (host, *allow_host)) if is_loopback(host) else None,
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
        log_level=level,
        log_format=log_format,
    )
    _check(settings, host, insecure=insecure)
    os.environ[SETTINGS_VARIABLE] = msgspec.json.encode(settings).decode()
    serve(TARGET, host=host, port=port, workers=1)


def _check(settings: Settings, host: str, *, insecure: bool) -> None:
    """Check the settings before the HTTP process starts. Raises `UsageError` if that process could not use them."""
    from kepler_core.urls import is_loopback
    from kepler_servers.offline_trainer.queue_database import open_queue
    from kepler_servers.offline_trainer.settings import StateFolder
    from kepler_servers.offline_trainer.worker import lock, read_token

    if read_token(settings.token_file) is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines: give --token-file, or --insecure to let any client "
            "train (configuration keys: OFFLINE_TRAINER_TOKEN_FILE, OFFLINE_TRAINER_INSECURE)"
        )
    folder = StateFolder(settings.state)
    try:
        folder.create()
    except OSError as error:
        raise UsageError(f"--state {folder.root}: {error.strerror or error}") from error
    with lock(folder):
        open_queue(folder.queue).close()
    create_store_folder(settings.store)


def default_state(configuration: Configuration) -> str:
    """Return the default state folder: from systemd, or else in the container's volume, or else in the user's home."""
    if (folder := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]) != "":
        return folder
    if (in_volume := state_folder(configuration, "offline-trainer")) is not None:
        return in_volume
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "kepler-core", "offline-trainer")
