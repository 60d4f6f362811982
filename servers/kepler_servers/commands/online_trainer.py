"""`serve online-trainer`."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, matchers_of, open_client, seconds_of
from kepler_core.errors import UsageError, missing_extra
from kepler_core.logs import configure_logging
from kepler_core.machine import read_machine_spec

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_core.prometheus import PrometheusClient
    from kepler_servers.online_trainer.fetching import Fetcher
    from kepler_servers.online_trainer.rounds import Schedule
    from kepler_servers.online_trainer.state_folder import StateFolder

DEFAULT_PORT = 8103
DEFAULT_INTERVAL_SECONDS = 300.0
PROMETHEUS_RETRY_SECONDS = 30.0
"""How long a round repeats a query that the Prometheus server does not answer."""

log = logging.getLogger(__name__)


@attrs.frozen
class Options:
    """The command's options, as click parsed them."""

    pipeline: str
    name: str | None
    server: str | None
    store: str | None
    state: str
    machine_spec: str | None
    interval: float | None
    step: float | None
    username: str | None
    password_file: str | None
    token_file: str | None
    ca_file: str | None
    insecure: bool | None
    instance: str | None
    selector: str | None
    delay: str
    overlap: str
    backfill: str
    catch_up: str
    retrain_after: int
    memory_instants: int
    memory_size: int
    jobs: int
    host: str
    port: int
    config_dir: str | None
    settings: tuple[str, ...]


@click.command("online-trainer")
@click.option(
    "--pipeline",
    metavar="P",
    default="default",
    show_default=True,
    help="The pipeline to train: the name of a shipped pipeline, or a YAML file.",
)
@click.option("--name", metavar="NAME", help="Name of the pipeline in the store (default: its own).")
@click.option("--server", metavar="URL", help="The Prometheus server.  [key: PROM_SERVER]")
@click.option("-s", "--store", metavar="DIR|URL", help="The model store.  [key: MODEL_PATH]")
@click.option("--state", metavar="DIR", required=True, help="Folder for the samples; each trainer needs its own.")
@click.option("--machine-spec", metavar="FILE", help="Description of the nodes (see `kepler-model profile machine`).")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    help="Seconds between rounds.  [key: PROM_QUERY_INTERVAL or SAMPLING_INTERVAL; default: 300]",
)
@click.option(
    "--step",
    type=click.FloatRange(0.001),
    help="Seconds between the samples to fetch.  [key: PROM_QUERY_STEP; default: as scraped]",
)
@access_options
@click.option(
    "--delay",
    metavar="DURATION",
    default="10s",
    show_default=True,
    help="Fetch only values that are older, because younger ones may be incomplete.",
)
@click.option(
    "--overlap",
    metavar="DURATION",
    default="2m",
    show_default=True,
    help="Accept samples that arrive late by up to this time.",
)
@click.option(
    "--backfill", metavar="DURATION", default="1h", show_default=True, help="How far back the first round fetches."
)
@click.option(
    "--catch-up",
    metavar="DURATION",
    default="6h",
    show_default=True,
    help="How far back a round fetches after a pause.",
)
@click.option(
    "--retrain-after",
    type=click.IntRange(60),
    default=200,
    show_default=True,
    help="Retrain all models after this number of new samples (a sample is one node at one timestamp).",
)
@click.option(
    "--memory-instants",
    type=click.IntRange(200),
    default=20_000,
    show_default=True,
    help="Maximum number of stored samples.",
)
@click.option(
    "--memory-size",
    metavar="MIB",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Maximum size of the sample store on disk.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Fits at a time.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address for /healthz and /metrics.")  # noqa: S104
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port for /healthz and /metrics.",
)
@click.option("--config-dir", metavar="DIR", help="Folder with one file per key.  [variable: CONFIG_PATH]")
@set_option
@click.pass_context
def online_trainer(context: click.Context, /, **values: Any) -> None:
    """Keep the models of a pipeline up to date with the nodes that a Prometheus server scrapes.

    In every round the trainer fetches new samples, stores them, and compares the served models with
    them. After enough new samples, or when the models have drifted, it trains new models and compares
    them with the served ones on data that neither was trained on. It publishes only better models.

    \b
    Keys that are read from the environment or the configuration folder, besides those below:
      PROM_THIRDPARTY_METRICS  metrics of other exporters to use as features, separated by commas
    """
    from kepler_core.configuration import Configuration

    options = Options(**values)
    configuration = Configuration(options.config_dir)
    url = configuration.text("PROM_SERVER", options.server)
    if url is None:
        raise UsageError("no Prometheus server: give --server, or set PROM_SERVER")
    location = configuration.text("MODEL_PATH", options.store)
    if location is None:
        raise UsageError("no model store: give --store, or set MODEL_PATH")
    configure_logging(logging.DEBUG if context.find_root().params.get("verbose") else logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    stop = threading.Event()
    try:
        client = _open_client(options, configuration, url, stop)
        from kepler_core.store import open_store
        from kepler_servers.http.side_port import start_side_port
        from kepler_servers.online_trainer.app import make_app
        from kepler_servers.online_trainer.rounds import Rounds
        from kepler_servers.online_trainer.sample_store import SampleStore
    except ModuleNotFoundError as error:
        raise missing_extra(error, "serve online-trainer") or error from error
    fetcher = _make_fetcher(options, configuration, client)
    store = open_store(location)
    store.check_writable(fetcher.spec.name)
    machine_spec = None if options.machine_spec is None else read_machine_spec(options.machine_spec).as_dict()
    schedule = _make_schedule(options, configuration)
    overlap = seconds_of(options.overlap, "--overlap")
    max_bytes = options.memory_size * 2**20
    with _locked_state(Path(options.state)) as state:
        samples = SampleStore(state.samples, overlap=overlap, max_samples=options.memory_instants, max_bytes=max_bytes)
        rounds = Rounds(fetcher, store, state, schedule, samples=samples, machine_spec=machine_spec, stop=stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        port = start_side_port(make_app(rounds), options.host, options.port)
        log.info("fetching from %s every %g s", client.location, schedule.interval)
        log.info("serving /healthz and /metrics on %s:%d", options.host, port)
        rounds.run()
        log.info("stopped")


def _open_client(options: Options, configuration: Configuration, url: str, stop: threading.Event) -> PrometheusClient:
    return open_client(
        url,
        username=options.username,
        password_file=options.password_file,
        token_file=options.token_file,
        ca_file=options.ca_file,
        insecure=bool(configuration.flag("PROM_SSL_DISABLE", options.insecure)),
        patience=PROMETHEUS_RETRY_SECONDS,
        stop=stop,
    )


def _make_fetcher(options: Options, configuration: Configuration, client: PrometheusClient) -> Fetcher:
    """Load the pipeline, and return what fetches its samples."""
    from kepler_core.pipeline.load import load_pipeline
    from kepler_servers.online_trainer.fetching import Fetcher

    settings = options.settings
    third_party = configuration.text("PROM_THIRDPARTY_METRICS")
    if third_party is not None:
        names = [word.strip() for word in third_party.split(",") if word.strip()]
        settings = (*settings, f"third_party=[{', '.join(names)}]")
    spec = load_pipeline(options.pipeline, settings=settings, name=options.name)
    step = configuration.number("PROM_QUERY_STEP", options.step)
    if step is not None and step <= 0:
        raise UsageError(f"PROM_QUERY_STEP: {step:g} is not above 0")
    return Fetcher(client, spec, step, options.instance, matchers_of(options.selector))


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


@contextmanager
def _locked_state(folder: Path) -> Iterator[StateFolder]:
    """Create and lock the state folder: two trainers would overwrite each other's files."""
    from kepler_servers.online_trainer.state_folder import StateFolder

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder} is in use by another online trainer") from error
        yield StateFolder(folder.resolve())
    finally:
        os.close(descriptor)
