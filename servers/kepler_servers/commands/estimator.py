"""The commands `kepler-model serve estimator` and `kepler-model estimator status`."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.configured_option import config_dir_option, configured_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.cli.socket_option import socket_option
from kepler_core.client import EstimatorClient
from kepler_servers.commands.deployment import configure_server_logging, log_options, store_in_volume

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_servers.estimator.listening import Listening
    from kepler_servers.estimator.model_providers import ModelProvider

_INIT_KEYS = tuple(
    f"{level}_{kind}_INIT_URL" for level in ("NODE", "CONTAINER", "PROCESS") for kind in ("TOTAL", "COMPONENTS")
)

_MAX_CELL_CHARACTERS = 40
"""Maximum length of a text in the table of `estimator status`, if the text comes from a request or is a reason."""
_MAX_PROBLEM_CHARACTERS = 1000
"""Maximum length of a reason below the table of `estimator status`. The estimator cuts reasons at the same length."""

_DEFAULT_SERVICE = "kepler-model-server.kepler.svc.cluster.local"
"""Name of the Kubernetes Service of kepler-model-server. It is the default of `MODEL_SERVER_URL` in
kepler-model-server."""


@click.command(
    "estimator",
    epilog=examples(
        "serve estimator -s models", "serve estimator --model-server http://model-server:8100 --metrics-port 9103"
    ),
)
@configured_option(
    "--socket",
    "path",
    key="ESTIMATOR_SOCKET",
    metavar="PATH",
    help="Unix socket to listen on.  [default: both /tmp/estimator.sock and /tmp/estimator.socket]",
)
@click.option(
    "-s",
    "--store",
    metavar="DIR|URL",
    help="Model store to get models from.  [configuration key: MODEL_PATH; default: /mnt/models, if it exists]",
)
@click.option(
    "--model-server",
    metavar="URL",
    help="Model server to get models from, before any URL or store is tried.  [configuration key: MODEL_SERVER_URL]",
)
@configured_option(
    "--machine-spec",
    key="ESTIMATOR_MACHINE_SPEC",
    metavar="FILE",
    help="JSON file that describes this machine.  [default: the estimator discovers the description]",
)
@configured_option(
    "--reply-limit",
    key="ESTIMATOR_REPLY_LIMIT",
    type=click.IntRange(0),
    default=4096,
    show_default=True,
    help="Maximum length of a reply in bytes; 0 means no limit. Kepler reads at most 4096 bytes.",
)
@configured_option(
    "--refresh",
    key="ESTIMATOR_REFRESH",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Interval in seconds at which the estimator searches for better models.",
)
@configured_option(
    "--metrics-host",
    key="ESTIMATOR_METRICS_HOST",
    metavar="ADDR",
    default="127.0.0.1",
    show_default=True,
    help="Address on which Prometheus metrics are served, e.g. 0.0.0.0 for all addresses of the machine.",
)
@configured_option(
    "--metrics-port",
    key="ESTIMATOR_METRICS_PORT",
    type=click.IntRange(0, 65535),
    help="Serve Prometheus metrics on this TCP port.",
)
@log_options
@config_dir_option
@click.pass_context
@json_errors_option
def estimator(
    context: click.Context,
    path: str | None,
    store: str | None,
    model_server: str | None,
    machine_spec: str | None,
    config_dir: str | None,
    reply_limit: int,
    refresh: float,
    metrics_host: str,
    metrics_port: int | None,
    log_level: str | None,
) -> None:
    """Answer Kepler's requests for watts over a unix socket.

    The estimator asks the model server first, then the configured URLs, then the store, and uses the
    first model that it gets. While the server, URL or store of a model in use does not answer, the
    estimator keeps using the model, and asks again later. `kepler-model estimator status` shows the models in use.

    \b
    Configuration keys without an option, read from the environment or the configuration folder:
      MODEL_SERVER_ENABLE           if false, MODEL_SERVER_URL is ignored; if true, MODEL_SERVER_URL is
                                    http://kepler-model-server.kepler.svc.cluster.local:8100 by default
      MODEL_SERVER_MODEL_REQ_PATH   path of the model server's endpoint for models (default: /model)
      NODE_TOTAL_INIT_URL           URL of a model archive (zip) or weights (JSON) for the platform power of a node
      NODE_COMPONENTS_INIT_URL      URL of a model archive for the component power of a node
      CONTAINER_TOTAL_INIT_URL      URL of a model archive for the platform power of containers
      CONTAINER_COMPONENTS_INIT_URL URL of a model archive for the component power of containers
      PROCESS_TOTAL_INIT_URL        used if CONTAINER_TOTAL_INIT_URL is not set
      PROCESS_COMPONENTS_INIT_URL   used if CONTAINER_COMPONENTS_INIT_URL is not set
      ERROR_KEY                     error that models of the store are compared by (default: mae)
    """
    from kepler_core.configuration import Configuration
    from kepler_servers.estimator.listening import DEFAULT_PATHS, listen

    configure_server_logging(context, log_level)
    configuration = Configuration(config_dir)
    providers = _providers(
        configuration, model_server, configuration.text("MODEL_PATH", store) or store_in_volume(configuration)
    )
    spec = machine(machine_spec)
    # Until the event loop handles signals, they are only stored in a list. A handler that raises an exception could
    # interrupt the import of a C module. Then the interpreter crashes when it exits, or the exception gets lost.
    early_signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: early_signals.append(number))
    sockets = listen([path] if path is not None else DEFAULT_PATHS)
    try:
        metrics_address = None if metrics_port is None else (metrics_host, metrics_port)
        _serve(
            sockets,
            providers,
            spec,
            reply_limit=reply_limit,
            refresh=refresh,
            metrics_address=metrics_address,
            early_signals=early_signals,
        )
    finally:
        for listening in sockets:
            listening.close()


def _serve(
    sockets: Sequence[Listening],
    providers: Sequence[ModelProvider],
    spec: dict[str, Any],
    *,
    reply_limit: int,
    refresh: float,
    metrics_address: tuple[str, int] | None,
    early_signals: Sequence[int],
) -> None:
    """Answer the requests on the sockets until the process gets SIGTERM or SIGINT.

    `early_signals` has the signals that the process got before the event loop handled them.
    """
    import logging
    import socket

    from kepler_servers.estimator.counters import Counters
    from kepler_servers.estimator.loop import Loop
    from kepler_servers.estimator.model_cache import ModelCache
    from kepler_servers.estimator.request_handler import RequestHandler

    log = logging.getLogger(__name__)
    counters = Counters()
    cache = ModelCache(providers, machine_spec=spec, refresh_seconds=refresh, on_search_end=lambda: loop.wake())
    about: dict[str, Any] = {
        "sockets": [str(listening.path) for listening in sockets],
        "origins": [provider.name for provider in providers],
        "machine_spec": spec,
        "pid": os.getpid(),
    }
    handler = RequestHandler(cache, counters, reply_limit=reply_limit, about=about, host_name=socket.gethostname())
    loop = Loop(sockets, handler, counters)
    loop.stop_on_signals()
    if early_signals:
        return
    if metrics_address is not None:
        from kepler_servers.estimator.metrics import serve_metrics

        serve_metrics(*metrics_address, handler)
    log.info("listening on %s", ", ".join(about["sockets"]))
    if not providers:
        log.warning("no model server, URL or store is configured: all requests will fail")
    cache.start()
    loop.run()
    if not cache.stop():
        # The background thread still waits for a server or store that does not answer. A normal exit would also wait:
        # remote stores are read in threads of `concurrent.futures`, and Python waits for these threads when it exits.
        # `os._exit` does not wait.
        for listening in sockets:
            listening.close()
        logging.shutdown()
        os._exit(0)


def _providers(configuration: Configuration, model_server: str | None, store: str | None) -> list[ModelProvider]:
    """Return the configured model providers, in the order in which the model cache asks them."""
    from kepler_servers.estimator.configured_providers import model_server_provider, store_provider

    providers: list[ModelProvider] = []
    url = configuration.text("MODEL_SERVER_URL", model_server)
    # MODEL_SERVER_ENABLE=false turns off the configuration key MODEL_SERVER_URL, but not the option --model-server.
    if model_server is None and (enabled := configuration.flag("MODEL_SERVER_ENABLE")) is not None:
        url = (url or _DEFAULT_SERVICE) if enabled else None
    init_urls = {key: text for key in _INIT_KEYS if (text := configuration.text(key)) is not None}
    if url is not None or init_urls:
        from kepler_servers.estimator.remote_providers import UrlProvider
        from kepler_servers.estimator.time_limited_provider import TimeLimitedProvider

        if url is not None:
            providers.append(model_server_provider(_request_url(url, configuration)))
        if init_urls:
            providers.append(TimeLimitedProvider(UrlProvider(init_urls)))
    if store is not None:
        providers.append(store_provider(store, configuration.text("ERROR_KEY") or "mae"))
    return providers


def _request_url(url: str, configuration: Configuration) -> str:
    """Return the URL for model requests to a model server. Raises `UsageError` if the server's URL is invalid."""
    from kepler_servers.estimator.configured_providers import model_request_url

    if url == _DEFAULT_SERVICE:
        url = f"http://{url}:{configuration.text('MODEL_SERVER_PORT') or 8100}"
    return model_request_url(url, configuration.text("MODEL_SERVER_MODEL_REQ_PATH"), "MODEL_SERVER_URL")


def machine(name: str | None) -> dict[str, Any]:
    """Return the description of the machine for which models are selected.

    The description is read from the file `name`. If `name` is None, the description of this machine is discovered.
    """
    if name is None:
        from kepler_profiler.machine import discover

        return discover().spec.as_dict()
    from kepler_core.machine import read_machine_spec

    return read_machine_spec(name).as_dict()


@click.group("estimator")
def estimator_commands() -> None:
    """Show the state of a running estimator."""


@estimator_commands.command(epilog=examples("estimator status", "estimator status --socket /tmp/estimator.sock --json"))
@socket_option()
@json_option
def status(path: str, as_json: bool) -> None:
    """Show the models that the estimator uses, the providers they came from, and the request counters."""
    report = EstimatorClient(path).status()
    if as_json:
        print_json(report)
        return
    requests = report["requests"]
    latency = report["latency_ms"]
    click.echo(f"up {report['uptime_seconds']:g} s, listening on {', '.join(report['sockets'])}")
    click.echo(f"models from: {', '.join(report['origins']) or 'no provider'}")
    quantiles = f"; median {latency['p50']:g} ms, p99 {latency['p99']:g} ms" if latency else ""
    click.echo(f"{requests['answered']} requests answered, {requests['failed']} failed{quantiles}")
    for key, description in (
        ("invalid_rows", "invalid rows"),
        ("rows_outside", "rows outside the range of the model's training"),
        ("disagreements", "rows answered by a model's twin, because model and twin disagreed"),
        ("replies_with_fewer_decimals", "replies with fewer decimals"),
        ("replies_without_all_components", "replies without all components"),
        ("replies_too_long", "replies that are too long for Kepler"),
    ):
        if report[key]:
            click.echo(f"{report[key]} {description}")
    for features, count in report["dead_features"].items():
        click.echo(f"{count} requests in which {features} are 0 in all rows although the CPUs run")
    if report["models"]:
        click.echo("")
        _print_models(report["models"])
    if report.get("models_left_out"):
        click.echo(f"{report['models_left_out']} more kinds of requests are not listed")


def _print_models(models: Sequence[dict[str, Any]]) -> None:
    """Print a table with the status of each kind of request.

    Below the table, print a line for each distinct problem.
    """
    from kepler_core.messages import printable

    rows = []
    for m in models:
        source, trainer = (printable(m[key], _MAX_CELL_CHARACTERS) for key in ("source", "trainer"))
        none = printable(f"none: {m['problem'] or 'the search is not over'}", _MAX_CELL_CHARACTERS)
        model = m.get("model") or none
        rows.append(
            (
                m["output_type"],
                source,
                trainer or None,
                model,
                m.get("origin"),
                m.get("age_seconds"),
                m.get("core_ratio"),
            )
        )
    print_table(rows, ("type", "source", "trainer", "model", "origin", "age s", "core ratio"))
    with_problem: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for m in models:
        if m["problem"]:
            prefix = "passed over for" if "model" in m else "no model for"
            with_problem.setdefault((prefix, m["problem"]), []).append(m)
    for (prefix, problem), affected in with_problem.items():
        first = ", ".join(part for part in (affected[0][key] for key in ("output_type", "source", "trainer")) if part)
        more = f" and {len(affected) - 1} more" if len(affected) > 1 else ""
        click.echo(f"{prefix} {printable(first)}{more}: {printable(problem, _MAX_PROBLEM_CHARACTERS)}")
