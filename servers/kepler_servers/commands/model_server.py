"""The command `kepler-model serve model-server`."""

from __future__ import annotations

import os
import tempfile

import click
import msgspec

from kepler_core.errors import UsageError

DEFAULT_PORT = 8100


@click.command("model-server")
@click.option(
    "-s", "--store", metavar="DIR|URL", help="Model store to serve models from.  [configuration key: MODEL_PATH]"
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port to listen on.  [configuration key: MODEL_SERVER_PORT; default: {DEFAULT_PORT}]",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--config-dir",
    metavar="DIR",
    help="Folder with one file for each configuration key.  [environment variable: CONFIG_PATH]",
)
@click.pass_context
def model_server(
    context: click.Context, store: str | None, host: str, port: int | None, workers: int, config_dir: str | None
) -> None:
    """Serve every Kepler node the power model that fits its machine (POST /model).

    The server notices a newly published pipeline within seconds. GET /healthz lists the served and the
    broken pipelines. GET /openapi.json describes all endpoints.

    \b
    Configuration keys without an option, read from the environment or the configuration folder:
      MODEL_SERVER_MODEL_REQ_PATH  path of the endpoint for models (default: /model)
      INITIAL_PIPELINE_URL         URLs of pipelines to import at the start, separated by commas
      ERROR_KEY                    error that models are compared by (default: mae)
    """
    from kepler_core.configuration import Configuration
    from kepler_core.store import open_store
    from kepler_servers.http.server import serve
    from kepler_servers.model_server.settings import SETTINGS_VARIABLE, TARGET, Settings

    configuration = Configuration(config_dir)
    location = configuration.text("MODEL_PATH", store)
    if location is None:
        raise UsageError("no model store: give --store, or set MODEL_PATH")
    path = configuration.text("MODEL_SERVER_MODEL_REQ_PATH") or "/model"
    if not path.startswith("/"):
        raise UsageError(f"MODEL_SERVER_MODEL_REQ_PATH: {path[:60]!r} does not begin with /")
    chosen_port = configuration.number("MODEL_SERVER_PORT", port)
    if chosen_port is None:
        chosen_port = DEFAULT_PORT
    if not (chosen_port == int(chosen_port) and 0 <= chosen_port <= 65535):
        raise UsageError(f"MODEL_SERVER_PORT: {chosen_port:g} is not a port number")
    open_store(location)  # opened only so that a wrong location is reported once, not by every worker process
    initial = (url.strip() for url in (configuration.text("INITIAL_PIPELINE_URL") or "").split(","))
    with tempfile.TemporaryDirectory(prefix="kepler-model-server-") as scratch:
        settings = Settings(
            location,
            f"{host}:{int(chosen_port)}",
            path,
            configuration.text("ERROR_KEY") or "mae",
            workers,
            bool(context.find_root().params.get("verbose")),
            tuple(url for url in initial if url),
            scratch,
        )
        os.environ[SETTINGS_VARIABLE] = msgspec.json.encode(settings).decode()
        if workers > 1:
            # Each worker process keeps its counters in files in this folder, so that every worker can report the sums.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = scratch
        serve(TARGET, host=host, port=int(chosen_port), workers=workers)
