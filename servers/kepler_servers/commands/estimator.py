"""`serve estimator` and `estimator status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.client import DEFAULT_SOCKET, EstimatorClient
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_servers.estimator.origins import Origin

_INIT_KEYS = tuple(
    f"{level}_{kind}_INIT_URL" for level in ("NODE", "CONTAINER", "PROCESS") for kind in ("TOTAL", "COMPONENTS")
)


@click.command("estimator")
@click.option("--socket", "path", metavar="PATH", help="Listen there only.  [default: /tmp/estimator.sock and .socket]")
@click.option("-s", "--store", metavar="DIR|URL", help="The model store.  [key: MODEL_PATH]")
@click.option("--model-server", metavar="URL", help="Ask this server first.  [key: MODEL_SERVER_URL]")
@click.option("--machine-spec", metavar="FILE", help="This machine's description as JSON.  [default: found out]")
@click.option("--config-dir", metavar="DIR", help="Folder with one file per key.  [variable: CONFIG_PATH]")
@click.option(
    "--reply-limit",
    type=click.IntRange(0),
    default=4096,
    show_default=True,
    help="Longest reply in bytes: Kepler reads once, and no more than 4096. 0: no limit.",
)
@click.option(
    "--refresh",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Seconds until a model is asked for again.",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve Prometheus metrics on this TCP port.")
@click.pass_context
def estimator(
    context: click.Context,
    path: str | None,
    store: str | None,
    model_server: str | None,
    machine_spec: str | None,
    config_dir: str | None,
    reply_limit: int,
    refresh: float,
    metrics_port: int | None,
) -> None:
    """Answer Kepler's requests for watts over a unix socket.

    Models come from the model server, else from the configured URLs, else from the store; whatever is
    unreachable is asked again, and the last good model answers meanwhile. `kepler-model estimator
    status` shows what is in use.

    \b
    Keys that are read from the environment or the configuration folder, besides those below:
      MODEL_SERVER_ENABLE          false: do not ask the server that MODEL_SERVER_URL names
      MODEL_SERVER_MODEL_REQ_PATH  path of its model request (/model)
      NODE_TOTAL_INIT_URL, NODE_COMPONENTS_INIT_URL, CONTAINER_… or PROCESS_…
                                   model archives (zip) by level and kind
      ERROR_KEY                    the error that models of the store are compared by (mae)
    """
    import logging

    from kepler_core.configuration import Configuration
    from kepler_servers.estimator.answers import Answers
    from kepler_servers.estimator.counters import Figures
    from kepler_servers.estimator.keeper import ModelKeeper
    from kepler_servers.estimator.listening import DEFAULT_PATHS, listen
    from kepler_servers.estimator.loop import Loop

    verbose = bool(context.find_root().params.get("verbose"))
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    configuration = Configuration(config_dir)
    origins = _origins(configuration, model_server, configuration.text("MODEL_PATH", store))
    spec = machine(machine_spec)
    sockets = listen([path] if path is not None else DEFAULT_PATHS)
    try:
        figures = Figures()
        keeper = ModelKeeper(origins, machine_spec=spec, refresh_seconds=refresh, found=lambda: loop.wake())
        about: dict[str, Any] = {
            "sockets": [str(found.path) for found in sockets],
            "origins": [origin.name for origin in origins],
            "machine_spec": spec,
            "pid": os.getpid(),
        }
        answers = Answers(keeper, figures, reply_limit=reply_limit, about=about)
        loop = Loop(sockets, answers, figures)
        if metrics_port is not None:
            from kepler_servers.estimator.metrics import serve_metrics

            serve_metrics(metrics_port, answers)
        log = logging.getLogger(__name__)
        log.info("listening on %s", ", ".join(about["sockets"]))
        if not origins:
            log.warning("no model server, URL or store is configured: there are no models to answer with")
        keeper.start()
        loop.run()
        keeper.stop()
    finally:
        for found in sockets:
            found.close()


def _origins(configuration: Configuration, model_server: str | None, store: str | None) -> list[Origin]:
    origins: list[Origin] = []
    url = configuration.text("MODEL_SERVER_URL", model_server)
    enabled = configuration.flag("MODEL_SERVER_ENABLE")
    if enabled is None:
        enabled = True
    init = {key: found for key in _INIT_KEYS if (found := configuration.text(key)) is not None}
    if (url is not None and (enabled or model_server is not None)) or init:
        from kepler_servers.estimator.remote_origins import ModelServerOrigin, UrlOrigin
        from kepler_servers.estimator.unhurried import Unhurried

        if url is not None and (enabled or model_server is not None):
            origins.append(Unhurried(ModelServerOrigin(_request_url(url, configuration))))
        if init:
            origins.append(Unhurried(UrlOrigin(init)))
    if store is not None:
        from kepler_core.store import open_store
        from kepler_profiler.similarity import SpecTable
        from kepler_servers.estimator.origins import StoreOrigin
        from kepler_servers.live_catalogue import LiveCatalogue

        error_key = configuration.text("ERROR_KEY") or "mae"
        live = LiveCatalogue(open_store(store), compare=SpecTable, error_key=error_key, serving=False)
        origins.append(StoreOrigin(live))
    return origins


def _request_url(url: str, configuration: Configuration) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"MODEL_SERVER_URL: {url[:100]!r} is not http://host:port")
    path = configuration.text("MODEL_SERVER_MODEL_REQ_PATH") or "/model"
    return url if parts.path not in ("", "/") else url.rstrip("/") + path


def machine(name: str | None) -> dict[str, Any]:
    """The machine that models are chosen for: as the file describes it, else this one."""
    if name is None:
        from kepler_profiler.machine import discover

        return discover().spec.as_dict()
    from kepler_core.machine import read_machine_spec

    return read_machine_spec(name).as_dict()


@click.group("estimator")
def estimator_commands() -> None:
    """Look at a running estimator."""


@estimator_commands.command()
@click.option("--socket", "path", default=DEFAULT_SOCKET, show_default=True, help="Where the estimator listens.")
@json_option
def status(path: str, as_json: bool) -> None:
    """Which models answer, where they are from, and what was counted."""
    found = EstimatorClient(path).status()
    if as_json:
        print_json(found)
        return
    requests = found["requests"]
    latency = found["latency_ms"]
    click.echo(f"up {found['uptime_seconds']:g} s, listening on {', '.join(found['sockets'])}")
    click.echo(f"models from: {', '.join(found['origins']) or 'nowhere'}")
    took = f"; median {latency['p50']:g} ms, p99 {latency['p99']:g} ms" if latency else ""
    click.echo(f"{requests['answered']} requests answered, {requests['failed']} without an answer{took}")
    for key, what in (
        ("invalid_rows", "rows that could not be right"),
        ("replies_with_fewer_decimals", "replies with fewer decimals"),
        ("replies_without_all_components", "replies without all components"),
        ("replies_too_long", "replies that are too long for Kepler"),
    ):
        if found[key]:
            click.echo(f"{found[key]} {what}")
    if found["models"]:
        click.echo("")
        print_table(
            [
                (m["output_type"], m["source"], m.get("model") or m["problem"], m.get("origin"), m.get("age_seconds"),
                 m.get("core_ratio"))
                for m in found["models"]
            ],
            ("type", "source", "model", "origin", "age s", "core ratio"),
        )  # fmt: skip
