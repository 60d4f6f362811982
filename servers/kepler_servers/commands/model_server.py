"""The command `kepler-model serve model-server`."""

from __future__ import annotations

import os
import tempfile

import click
import msgspec

from kepler_core.cli.configured_option import config_dir_option, configured_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_core.errors import UsageError
from kepler_servers.commands.deployment import (
    configure_server_logging,
    create_store_folder,
    log_options,
    store_location,
)

DEFAULT_PORT = 8100


@click.command(
    "model-server",
    epilog=examples("serve model-server -s models", "serve model-server -s s3://bucket/folder --workers 2"),
)
@click.option(
    "-s",
    "--store",
    metavar="DIR|URL",
    help="Model store to serve models from.  [configuration key: MODEL_PATH; default: /mnt/models, if it is writable]",
)
@configured_option(
    "--host",
    key="MODEL_SERVER_HOST",
    default="0.0.0.0",  # noqa: S104
    show_default=True,
    help="Address to listen on.",
)
@configured_option(
    "--port",
    key="MODEL_SERVER_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on.",
)
@configured_option(
    "--workers",
    key="MODEL_SERVER_WORKERS",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of worker processes.",
)
@log_options
@config_dir_option
@click.pass_context
@json_errors_option
def model_server(
    context: click.Context,
    store: str | None,
    host: str,
    port: int,
    workers: int,
    log_level: str | None,
    config_dir: str | None,
) -> None:
    """Send each Kepler node the power model that fits its machine (POST /model).

    The server notices a newly published pipeline within seconds. GET /healthz lists the served and the
    broken pipelines. GET /openapi.json describes all endpoints. Open the address of the server in a browser to
    see its pipelines, models and machines, and to have a selection explained.

    \b
    Configuration keys without an option, read from the environment or the configuration folder:
      MODEL_SERVER_MODEL_REQ_PATH  path of the endpoint for models (default: /model)
      INITIAL_PIPELINE_URL         URLs of pipelines to import at the start, separated by commas
      MODEL_TOPURL                 URL of a mirror of the public model database; if INITIAL_PIPELINE_URL is not
                                   set, the database's default pipelines are imported from there at the start
      ERROR_KEY                    error that models are compared by (default: mae)
    """
    from kepler_core.configuration import Configuration
    from kepler_servers.http.server import serve
    from kepler_servers.model_server.initial_locations import initial_locations
    from kepler_servers.model_server.settings import SETTINGS_VARIABLE, TARGET, Settings

    level, log_format = configure_server_logging(context, log_level)
    configuration = Configuration(config_dir)
    location = store_location(configuration, store)
    path = configuration.text("MODEL_SERVER_MODEL_REQ_PATH") or "/model"
    if not path.startswith("/"):
        raise UsageError(f"MODEL_SERVER_MODEL_REQ_PATH: {path[:60]!r} does not begin with /")
    initial = initial_locations(configuration.text("INITIAL_PIPELINE_URL"), configuration.text("MODEL_TOPURL"))
    # If the location of the store is wrong, the error is reported once here. Otherwise, every worker process would
    # report it.
    create_store_folder(location)
    with tempfile.TemporaryDirectory(prefix="kepler-model-server-") as scratch:
        settings = Settings(
            location,
            f"{host}:{port}",
            path,
            configuration.text("ERROR_KEY") or "mae",
            workers,
            level,
            log_format,
            initial,
            scratch,
        )
        os.environ[SETTINGS_VARIABLE] = msgspec.json.encode(settings).decode()
        if workers > 1:
            # Each worker process stores its counters in files in this folder, so that every worker can report the sums.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = scratch
        serve(TARGET, host=host, port=port, workers=workers)
