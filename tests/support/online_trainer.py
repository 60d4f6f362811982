"""An online trainer whose clock is set by the test, and recordings for this trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import yaml

from kepler_core.pipeline.load import load_pipeline, pipeline_from
from kepler_core.prometheus import PrometheusClient, Server, select_metrics
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.schemas import is_used_metric
from kepler_core.simulate import START, Simulation, recording
from kepler_core.store import Store, open_store
from kepler_core.store.models import read_models
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.fetching import Fetcher
from kepler_servers.online_trainer.rounds import Rounds, Schedule
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.state_folder import StateFolder

Content = Mapping[str, Sequence[Mapping[str, Any]]]
"""A recording as decoded JSON."""

PIPELINE = """\
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [{name: PolynomialRegressionTrainer}]
dyn_trainers: []
"""
STEP_SECONDS = 3
TIMESTAMPS = 700
SHIFT_SECONDS = 900
"""Seconds from the beginning of the recording until the power of the simulated machine shifts by 15 %."""


def shifting_recording() -> Content:
    """Return a recording of 35 minutes with a power shift after 15 minutes."""
    return recording(
        Simulation(
            containers=4,
            timestamps=TIMESTAMPS,
            sockets=1,
            churn=0.2,
            resets=2,
            accelerator=False,
            shift_at=SHIFT_SECONDS / STEP_SECONDS / TIMESTAMPS,
            seed=5,
        )
    )


class ManualClock(PrometheusClient):
    """A Prometheus client whose current time is its attribute `time`. The test sets this attribute."""

    time = 0.0

    def now(self) -> float:
        return self.time


@attrs.define
class TrainerUnderTest:
    """An online trainer without a loop: the test starts each round."""

    folder: Path
    url: str
    pipeline: str = PIPELINE
    machine_spec: Mapping[str, Any] | None = None
    state: str = "state"
    client: ManualClock = attrs.field(init=False)
    rounds: Rounds = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = ManualClock(Server(self.url), patience=0)
        self.start()

    def start(self, pipeline: str | None = None, **schedule: Any) -> None:
        """Start the online trainer, or restart it with the same state folder."""
        path = self.folder / "test.yaml"
        path.write_text(pipeline or self.pipeline)
        self.state_folder.path.mkdir(exist_ok=True)
        fetcher = Fetcher(self.client, load_pipeline(path), None, None, ())
        samples = SampleStore(self.state_folder.samples, overlap=30)
        settings = {"interval": 60.0, "delay": 0.0, "backfill": 120.0, "retrain_after": 100, **schedule}
        spec = None if self.machine_spec is None else dict(self.machine_spec)
        self.rounds = Rounds(
            fetcher, self.store, self.state_folder, Schedule(**settings), samples=samples, machine_spec=spec
        )

    @property
    def state_folder(self) -> StateFolder:
        return StateFolder(self.folder / self.state)

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "store"))

    def run_round(self, seconds: float) -> bool:
        """Run a round, and return whether it succeeded.

        The round runs at the time `seconds` after the beginning of the recording. `ManualClock` shows this time.
        """
        self.client.time = START + seconds
        return self.rounds.try_round()

    def run_rounds(self, times: Iterable[float]) -> None:
        """Run a round at each time in `times` (seconds of the recording), and check that all rounds succeed."""
        for seconds in times:
            assert self.run_round(seconds), self.rounds.status.problem

    @property
    def decision(self) -> dict[str, Any]:
        assert self.rounds.status.last_decision is not None
        return self.rounds.status.last_decision

    def stored_samples(self) -> list[tuple[str, float]]:
        return stored_samples(self.rounds.samples)

    def served_mae(self, content: Content, since: float, until: float) -> float:
        """Return the mean absolute error of the served model on a part of a recording, in watts of package power.

        `since` and `until` are in seconds after the beginning of the recording.
        """
        observations = observe_part(content, since, until)
        (entry,) = read_models(self.store.snapshot("test"))
        model = entry.load()
        X = np.column_stack([observations.node_features[name] for name in model.features])
        measured = observations.power["rapl-sysfs", "package"]
        usable = np.isfinite(X).all(axis=1) & np.isfinite(measured)
        return float(np.abs(model.predict(X[usable])["package"] - measured[usable]).mean())


def stored_samples(samples: SampleStore) -> list[tuple[str, float]]:
    """Return the pair (node, time) of each stored sample."""
    table = samples.table()
    return list(zip(table.column("node").to_pylist(), table.column("time").to_pylist(), strict=True))


def cut(content: Content, since: float, until: float) -> dict[str, list[dict[str, Any]]]:
    """Return the part of a recording between two times, which are in seconds after the beginning of the recording."""
    return {
        metric: [
            {"metric": s["metric"], "values": [v for v in s["values"] if since <= v[0] - START <= until]}
            for s in series
        ]
        for metric, series in content.items()
    }


def observe_part(content: Content, since: float, until: float) -> Observations:
    """Return the observations in the part of a recording between two times.

    The times are in seconds after the beginning of the recording.
    """
    return observe([read_recording(cut(content, since, until), name="x", wanted=is_used_metric)])


def expected_samples(content: Content, until: float) -> list[tuple[str, float]]:
    """Return the sorted pairs (node, time) of all samples that an online trainer must have stored at the time `until`.

    `until` is in seconds after the beginning of the recording.
    """
    spec = pipeline_from({"name": "test", **yaml.safe_load(PIPELINE)}, "test")
    selected = {selection.metric for selection in select_metrics(list(content), spec=spec)}
    part = {
        metric: [s for s in series if s["values"]]
        for metric, series in cut(content, 0, until).items()
        if metric in selected
    }
    observations = observe([read_recording(part, name="x", wanted=is_used_metric)])
    complete = sample_table.completeness(observations)
    node = observations.streams[0].node
    # The online trainer stores the newest sample of a node only in the next round.
    return sorted(
        (node, float(time)) for time, values in zip(observations.sample_time[:-1], complete[:-1], strict=True) if values
    )
