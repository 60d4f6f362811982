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
from typing import Any

import click

from kepler_core.cli.pipelines import set_option
from kepler_core.cli.prometheus import access_options, matchers_of, open_client, seconds_of
from kepler_core.errors import UsageError, missing_extra
from kepler_core.machine import read_machine_spec

DEFAULT_PORT = 8103
DEFAULT_INTERVAL = 300.0
PATIENCE = 30.0


@click.command("online-trainer")
@click.option(
    "--pipeline",
    metavar="P",
    default="default",
    show_default=True,
    help="What to train: a shipped pipeline's name, or a YAML file.",
)
@click.option("--name", metavar="NAME", help="Name of the pipeline in the store (default: its own).")
@click.option("--server", metavar="URL", help="The Prometheus server.  [key: PROM_SERVER]")
@click.option("-s", "--store", metavar="DIR|URL", help="The model store.  [key: MODEL_PATH]")
@click.option("--state", metavar="DIR", required=True, help="Folder for what is remembered; of this trainer alone.")
@click.option("--machine-spec", metavar="FILE", help="What the nodes are (see `kepler-model profile machine`).")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    help="Seconds between rounds.  [key: PROM_QUERY_INTERVAL or SAMPLING_INTERVAL; default: 300]",
)
@click.option(
    "--step",
    type=click.FloatRange(0.001),
    help="One sample per so many seconds.  [key: PROM_QUERY_STEP; default: as scraped]",
)
@access_options
@click.option(
    "--delay", metavar="DURATION", default="10s", show_default=True, help="How long samples are given to arrive."
)
@click.option(
    "--overlap", metavar="DURATION", default="2m", show_default=True, help="Samples that come so late are still taken."
)
@click.option(
    "--backfill", metavar="DURATION", default="1h", show_default=True, help="How far back the first round looks."
)
@click.option(
    "--catch-up",
    metavar="DURATION",
    default="6h",
    show_default=True,
    help="How far back a round looks after an absence.",
)
@click.option(
    "--retrain-after",
    type=click.IntRange(60),
    default=200,
    show_default=True,
    help="New instants (timestamps of a node) after which all is trained anew.",
)
@click.option(
    "--memory-instants",
    type=click.IntRange(200),
    default=20_000,
    show_default=True,
    help="Instants that are remembered at most.",
)
@click.option(
    "--memory-size",
    metavar="MIB",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Size of the memory on the disk at most.",
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
def online_trainer(
    context: click.Context,
    pipeline: str,
    name: str | None,
    server: str | None,
    store: str | None,
    state: str,
    machine_spec: str | None,
    interval: float | None,
    step: float | None,
    username: str | None,
    password_file: str | None,
    token_file: str | None,
    ca_file: str | None,
    insecure: bool | None,
    instance: str | None,
    selector: str | None,
    delay: str,
    overlap: str,
    backfill: str,
    catch_up: str,
    retrain_after: int,
    memory_instants: int,
    memory_size: int,
    jobs: int,
    host: str,
    port: int,
    config_dir: str | None,
    settings: tuple[str, ...],
) -> None:
    """Keep the models of a pipeline up with the machines that a Prometheus server knows.

    Every interval it fetches what is new, remembers it, and compares the served models with it. When
    there is enough that is new, or the models have drifted, new ones are trained and compared with the
    served ones on data that neither was trained on; only what is better is published.

    \b
    Keys that are read from the environment or the configuration folder, besides those below:
      PROM_THIRDPARTY_METRICS  metrics of other exporters to use as features, separated by commas
    """
    from kepler_core.configuration import Configuration

    configuration = Configuration(config_dir)
    url = configuration.text("PROM_SERVER", server)
    if url is None:
        raise UsageError("no Prometheus server: give --server, or set PROM_SERVER")
    location = configuration.text("MODEL_PATH", store)
    if location is None:
        raise UsageError("no model store: give --store, or set MODEL_PATH")
    logging.basicConfig(
        level=logging.DEBUG if context.find_root().params.get("verbose") else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    stop = threading.Event()
    try:
        client = open_client(
            url, username=username, password_file=password_file, token_file=token_file, ca_file=ca_file,
            insecure=bool(configuration.flag("PROM_SSL_DISABLE", insecure)), patience=PATIENCE, stop=stop,
        )  # fmt: skip
        from kepler_core.pipeline.load import load_pipeline
        from kepler_core.store import open_store
        from kepler_servers.online_trainer.exposition import serve
        from kepler_servers.online_trainer.fetching import Source
        from kepler_servers.online_trainer.memory import TrainingMemory
        from kepler_servers.online_trainer.rounds import Pace, Rounds, state_folder
    except ModuleNotFoundError as error:
        raise missing_extra(error, "serve online-trainer") or error from error
    third_party = configuration.text("PROM_THIRDPARTY_METRICS")
    if third_party is not None:
        names = [word.strip() for word in third_party.split(",") if word.strip()]
        settings = (*settings, f"third_party=[{', '.join(names)}]")
    spec = load_pipeline(pipeline, settings=settings, name=name)
    opened = open_store(location)
    opened.check_writable(spec.name)
    machine = None if machine_spec is None else read_machine_spec(machine_spec).as_dict()
    pace = Pace(
        interval=_interval(configuration, interval),
        delay=seconds_of(delay, "--delay"),
        backfill=seconds_of(backfill, "--backfill"),
        catch_up=seconds_of(catch_up, "--catch-up"),
        retrain_after=retrain_after,
        jobs=jobs,
    )
    with _alone(Path(state)) as folder:
        memory = TrainingMemory(
            state_folder(folder),
            overlap=seconds_of(overlap, "--overlap"),
            most_instants=memory_instants,
            most_bytes=memory_size * 2**20,
        )
        chosen_step = configuration.number("PROM_QUERY_STEP", step)
        if chosen_step is not None and chosen_step <= 0:
            raise UsageError(f"PROM_QUERY_STEP: {chosen_step:g} is not above 0")
        source = Source(client, spec, chosen_step, instance, matchers_of(selector), jobs=4)
        rounds = Rounds(source, opened, folder, pace, memory=memory, machine_spec=machine, stop=stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        chosen = serve(rounds, host, port)
        log = logging.getLogger(__name__)
        log.info("asking %s every %g s; /healthz and /metrics on %s:%d", client.location, pace.interval, host, chosen)
        rounds.run()
        log.info("stopped")


def _interval(configuration: Any, given: float | None) -> float:
    for key in ("PROM_QUERY_INTERVAL", "SAMPLING_INTERVAL"):
        found: float | None = configuration.number(key, given)
        if found is not None:
            if found <= 0:
                raise UsageError(f"{key}: {found:g} is not above 0")
            return found
    return DEFAULT_INTERVAL


@contextmanager
def _alone(state: Path) -> Iterator[Path]:
    """The state folder, absolute, and locked: two trainers would undo each other's work."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{state}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{state} is in use by another online trainer") from error
        yield state.resolve()
    finally:
        os.close(descriptor)
