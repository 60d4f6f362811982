"""The command `kepler-model serve online-trainer`."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.cli.configured_option import config_dir_option, configured_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, headers_of, matchers_of, open_client, seconds_of
from kepler_core.errors import UsageError, missing_extra
from kepler_core.machine import read_machine_spec
from kepler_servers.commands.deployment import (
    configure_server_logging,
    create_store_folder,
    log_options,
    state_folder,
    store_location,
)

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_core.prometheus import PrometheusClient
    from kepler_core.store import Store
    from kepler_servers.online_trainer.fetching import Fetcher
    from kepler_servers.online_trainer.rounds import Schedule

DEFAULT_PORT = 8103
DEFAULT_INTERVAL_SECONDS = 300.0
PROMETHEUS_RETRY_SECONDS = 30.0
"""Time during which a round retries a query if the Prometheus server does not answer."""

log = logging.getLogger(__name__)


@attrs.frozen
class Options:
    """The options of `kepler-model serve online-trainer`, with the values from click."""

    pipeline: str
    name: str | None
    server: str | None
    store: str | None
    state: str | None
    machine_spec: str | None
    interval: float | None
    step: float | None
    username: str | None
    password_file: str | None
    token_file: str | None
    headers: tuple[str, ...]
    ca_file: str | None
    insecure: bool | None
    instance: str | None
    selector: str | None
    instances_per_query: int | None
    rate: float
    compress: bool | None
    delay: str
    overlap: str
    backfill: str
    catch_up: str
    retrain_after: int
    memory_instants: int
    memory_size: int
    keep_versions: int | None
    jobs: int
    host: str
    port: int
    log_level: str | None
    config_dir: str | None
    settings: tuple[str, ...]


@click.command(
    "online-trainer", epilog=examples("serve online-trainer --server http://prom:9090 -s models --state state")
)
@configured_option(
    "--pipeline",
    key="ONLINE_TRAINER_PIPELINE",
    metavar="P",
    default="default",
    show_default=True,
    help="The pipeline to train: the name of a shipped pipeline, or a YAML file.",
)
@configured_option(
    "--name",
    key="ONLINE_TRAINER_NAME",
    metavar="NAME",
    help="Name of the pipeline in the model store.  [default: the pipeline's own name]",
)
@click.option("--server", metavar="URL", help="URL of the Prometheus server.  [configuration key: PROM_SERVER]")
@click.option(
    "-s",
    "--store",
    metavar="DIR|URL",
    help="Model store to publish models to.  [configuration key: MODEL_PATH; default: /mnt/models, if it is writable]",
)
@configured_option(
    "--state",
    key="ONLINE_TRAINER_STATE",
    metavar="DIR",
    help="Folder for the stored samples. Each online trainer needs a folder of its own.  "
    "[default: /mnt/state/online-trainer, if it is writable]",
)
@configured_option(
    "--machine-spec",
    key="ONLINE_TRAINER_MACHINE_SPEC",
    metavar="FILE",
    help="JSON file that describes the nodes' machines (see `kepler-model profile machine`).",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    help="Seconds between two rounds of fetching samples.  "
    "[configuration key: PROM_QUERY_INTERVAL or SAMPLING_INTERVAL; default: 300]",
)
@click.option(
    "--step",
    type=click.FloatRange(0.001),
    help="Seconds between two samples of a series.  "
    "[configuration key: PROM_QUERY_STEP; default: fetch all scraped samples]",
)
@access_options
@configured_option(
    "--delay",
    key="ONLINE_TRAINER_DELAY",
    metavar="DURATION",
    default="10s",
    show_default=True,
    help="Minimum age of values to fetch. Younger values may be incomplete.",
)
@configured_option(
    "--overlap",
    key="ONLINE_TRAINER_OVERLAP",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="Maximum delay with which a sample may arrive in Prometheus and still be stored.",
)
@configured_option(
    "--backfill",
    key="ONLINE_TRAINER_BACKFILL",
    metavar="DURATION",
    default="1h",
    show_default=True,
    help="Length of the time range before now that the first round fetches.",
)
@configured_option(
    "--catch-up",
    key="ONLINE_TRAINER_CATCH_UP",
    metavar="DURATION",
    default="6h",
    show_default=True,
    help="Maximum length of the time range that a round fetches, e.g. after the trainer was stopped for days.",
)
@configured_option(
    "--retrain-after",
    key="ONLINE_TRAINER_RETRAIN_AFTER",
    type=click.IntRange(60),
    default=200,
    show_default=True,
    help="Retrain all models after this number of new samples (a sample is one node at one timestamp).",
)
@configured_option(
    "--memory-instants",
    key="ONLINE_TRAINER_MEMORY_INSTANTS",
    type=click.IntRange(200),
    default=20_000,
    show_default=True,
    help="Maximum number of stored samples.",
)
@configured_option(
    "--memory-size",
    key="ONLINE_TRAINER_MEMORY_SIZE",
    metavar="MIB",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Maximum size of the sample store on disk, in MiB.",
)
@click.option(
    "--keep-versions",
    type=click.IntRange(1),
    metavar="N",
    help="Number of versions of the pipeline to keep in the model store, which must be a local folder.  "
    "[configuration key: KEEP_VERSIONS; default: keep all]",
)
@configured_option(
    "-j",
    "--jobs",
    key="ONLINE_TRAINER_JOBS",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of models to fit at a time.",
)
@configured_option(
    "--host",
    key="ONLINE_TRAINER_HOST",
    default="127.0.0.1",
    show_default=True,
    help="Address on which the trainer serves /healthz and /metrics, e.g. 0.0.0.0 for all addresses of the machine.",
)
@configured_option(
    "--port",
    key="ONLINE_TRAINER_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port on which the trainer serves /healthz and /metrics.",
)
@log_options
@config_dir_option
@set_option
@click.pass_context
@json_errors_option
def online_trainer(context: click.Context, /, **values: Any) -> None:
    """Keep the models of a pipeline up to date with the nodes that a Prometheus server scrapes.

    In every round, the trainer fetches new samples, stores them, and compares the power that the served
    models estimate with the measured power. After enough new samples, or if the served models have
    drifted, it trains new models. It tests the new and the served models on data that none of them was
    trained on, and publishes the new models only if they are better.

    \b
    Configuration key without an option, read from the environment or the configuration folder:
      PROM_THIRDPARTY_METRICS  metrics of other exporters to use as features, separated by commas
    """
    from kepler_core.configuration import Configuration
    from kepler_core.store.layout import REPORT_SETTING

    options = Options(**values)
    configuration = Configuration(options.config_dir)
    url = configuration.text("PROM_SERVER", options.server)
    if url is None:
        raise UsageError("no Prometheus server: give --server, or set PROM_SERVER")
    location = store_location(configuration, options.store)
    state_location = _state_location(configuration, options.state)
    configure_server_logging(context, options.log_level)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    stop = threading.Event()
    try:
        client = _open_client(options, configuration, url, stop)
        from kepler_core.store import open_store
        from kepler_servers.http.side_port import start_side_port
        from kepler_servers.online_trainer.app import make_app
        from kepler_servers.online_trainer.round_thread import run_until_stopped
        from kepler_servers.online_trainer.rounds import Rounds
        from kepler_servers.online_trainer.sample_store import SampleStore
        from kepler_servers.online_trainer.state_folder import locked_state
    except ModuleNotFoundError as error:
        raise missing_extra(error, "serve online-trainer") or error from error
    fetcher = _make_fetcher(options, configuration, client)
    create_store_folder(location)
    store = open_store(location)
    store.check_writable(fetcher.spec.name)
    keep_versions = _keep_versions(configuration, options.keep_versions, store)
    machine_spec = None if options.machine_spec is None else read_machine_spec(options.machine_spec).as_dict()
    schedule = _make_schedule(options, configuration)
    overlap = seconds_of(options.overlap, "--overlap")
    max_bytes = options.memory_size * 2**20
    with locked_state(state_location) as state:
        samples = SampleStore(state.samples, overlap=overlap, max_samples=options.memory_instants, max_bytes=max_bytes)
        rounds = Rounds(
            fetcher,
            store,
            state,
            schedule,
            samples=samples,
            machine_spec=machine_spec,
            keep_versions=keep_versions,
            report=configuration.flag(REPORT_SETTING) is not False,
            stop=stop,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        port = start_side_port(make_app(rounds), options.host, options.port)
        log.info("fetching from %s every %g s", client.location, schedule.interval)
        log.info("serving /healthz and /metrics on %s:%d", options.host, port)
        run_until_stopped(rounds, stop)
        log.info("stopped")


def _state_location(configuration: Configuration, option: str | None) -> Path:
    """Return the state folder. Raise `UsageError` if no folder is configured."""
    location = option or state_folder(configuration, "online-trainer")
    if location is None:
        raise UsageError("no state folder: give --state, or set ONLINE_TRAINER_STATE")
    return Path(location)


def _open_client(options: Options, configuration: Configuration, url: str, stop: threading.Event) -> PrometheusClient:
    return open_client(
        url,
        configuration,
        username=options.username,
        password_file=options.password_file,
        token_file=options.token_file,
        ca_file=options.ca_file,
        insecure=options.insecure,
        headers=headers_of(options.headers, configuration),
        patience=PROMETHEUS_RETRY_SECONDS,
        rate=options.rate,
        compress=options.compress,
        stop=stop,
    )


def _make_fetcher(options: Options, configuration: Configuration, client: PrometheusClient) -> Fetcher:
    """Load the pipeline, and return the `Fetcher` that fetches the samples for the pipeline from Prometheus."""
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.targets import refuse_vm_target
    from kepler_servers.online_trainer.fetching import Fetcher

    settings = options.settings
    third_party = configuration.text("PROM_THIRDPARTY_METRICS")
    if third_party is not None:
        names = [word.strip() for word in third_party.split(",") if word.strip()]
        settings = (*settings, f"third_party=[{', '.join(names)}]")
    spec = load_pipeline(options.pipeline, settings=settings, name=options.name)
    refuse_vm_target(spec, "the online trainer reads recordings of machines")
    step = configuration.number("PROM_QUERY_STEP", options.step)
    if step is not None and step <= 0:
        raise UsageError(f"PROM_QUERY_STEP: {step:g} is not above 0")
    matchers = matchers_of(options.selector)
    return Fetcher(client, spec, step, options.instance, matchers, instances_per_query=options.instances_per_query)


def _make_schedule(options: Options, configuration: Configuration) -> Schedule:
    from kepler_servers.online_trainer.rounds import Schedule

    return Schedule(
        interval=_interval(configuration, options.interval),
        delay=seconds_of(options.delay, "--delay"),
        backfill=seconds_of(options.backfill, "--backfill"),
        catch_up=seconds_of(options.catch_up, "--catch-up"),
        retrain_after=options.retrain_after,
        jobs=options.jobs,
    )


def _interval(configuration: Configuration, option: float | None) -> float:
    for key in ("PROM_QUERY_INTERVAL", "SAMPLING_INTERVAL"):
        interval: float | None = configuration.number(key, option)
        if interval is not None:
            if interval <= 0:
                raise UsageError(f"{key}: {interval:g} is not above 0")
            return interval
    return DEFAULT_INTERVAL_SECONDS


def _keep_versions(configuration: Configuration, option: int | None, store: Store) -> int | None:
    """Return the number of versions to keep in the store, or None to keep all."""
    from kepler_core.store.local import LocalStore

    number: float | None = configuration.number("KEEP_VERSIONS", option)
    if number is None:
        return None
    if number < 1 or number != int(number):
        raise UsageError(f"KEEP_VERSIONS: {number:g} is not a whole number above 0")
    if not isinstance(store, LocalStore):
        raise UsageError("--keep-versions (KEEP_VERSIONS) needs a model store in a local folder")
    return int(number)
