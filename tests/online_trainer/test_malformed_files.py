"""Test how the online trainer handles malformed files that it reads at its start and in its rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.linear_models import MACHINE, LinearModel
from support.online_trainer import TrainerUnderTest, observe_part

from kepler_core.errors import KeplerError
from kepler_core.simulate import Simulation, recording
from kepler_core.store.layout import pipeline_files
from kepler_core.store.local import LocalStore
from kepler_servers.online_trainer.app import health
from kepler_servers.online_trainer.drift import DriftMonitor
from kepler_servers.online_trainer.power_shift import ShiftLog
from kepler_servers.online_trainer.sample_store import SampleStore

HEADER: dict[str, Any] = {"layout": 1, "since": 0.0, "until": 5.0, "seen": 1, "step": 3.0}
KEYS: dict[str, pa.Array] = {
    "node": pa.array(["a"]), "time": pa.array([4.0]), "complete": pa.array([2], pa.int32()),
}  # fmt: skip
HUGE = "1" + "0" * 400


def header(**members: Any) -> bytes:
    return json.dumps({**HEADER, **members}).encode()


SAMPLE_FILES = {
    "no header": (None, KEYS),
    "an empty header": (b"", KEYS),
    "a header of invalid UTF-8": (b'{"layout":1,"x":"\xff"}', KEYS),
    "a nested header": (b"[" * 100_000, KEYS),
    "a list as header": (b"[]", KEYS),
    "a time of 400 digits": (header(until=5).replace(b" 5", b" " + HUGE.encode()), KEYS),
    "a huge time": (header(until=1e300), KEYS),
    "a time as text": (header(since="now"), KEYS),
    "a negative count": (header(seen=-1), KEYS),
    "a step of zero": (header(step=0), KEYS),
    "no columns": (header(), {}),
    "a missing column": (header(), {name: KEYS[name] for name in ("node", "time")}),
    "a node that is a number": (header(), {**KEYS, "node": pa.array([[1]])}),
    "a node that is null": (header(), {**KEYS, "node": pa.array([None], pa.string())}),
    "a time that is text": (header(), {**KEYS, "time": pa.array(["noon"])}),
    "a time that is NaN": (header(), {**KEYS, "time": pa.array([float("nan")])}),
}


@pytest.mark.parametrize(("metadata", "columns"), SAMPLE_FILES.values(), ids=SAMPLE_FILES)
def test_a_malformed_sample_file_is_set_aside(
    metadata: bytes | None, columns: dict[str, pa.Array], tmp_path: Path
) -> None:
    def write(name: str, header: bytes | None, columns: dict[str, pa.Array]) -> None:
        table = pa.table(columns).replace_schema_metadata(None if header is None else {b"kepler": header})
        pq.write_table(table, tmp_path / name)

    write("1.parquet", header(), KEYS)
    write("2.parquet", metadata, columns)
    store = SampleStore(tmp_path)
    assert store.samples_by_node == {"a": 1}
    assert store.damaged == ["2.parquet"]
    assert store.cursor(10.0) == 5.0


DECISIONS = [
    b"",
    b"[]",
    b'{"node_type":"\xff"}',
    b'{"node_type":0,"data_until":"yesterday"}',
    b'{"node_type":0,"data_until":null}',
    b'{"node_type":0,"data_until":1e300}',
    b'{"node_type":0,"data_until":%s}' % HUGE.encode(),
    b'{"node_type":0,"decision":["published"]}',
    b'{"node_type":0,"version":"one"}',
    b"[" * 100_000,
]


def test_malformed_decisions_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "store" / ".decisions" / "test"
    folder.mkdir(parents=True)
    good = {"node_type": 0, "decision": "kept", "data_until": 5.0, "version": None, "reason": "good"}
    for number, content in enumerate([json.dumps(good).encode(), *DECISIONS]):
        (folder / f"{number:014d}-00000000.json").write_bytes(content)
    trainer = TrainerUnderTest(tmp_path, "http://127.0.0.1:1")
    assert not trainer.run_round(60)
    assert trainer.rounds.status.problems == {"unreachable": 1}
    assert trainer.decision == good
    summary = health(trainer.rounds).last_decision
    assert summary is not None
    assert summary.reason == "good"


@pytest.mark.parametrize(
    "content", [b"", b"5", b"{}", b'{"changes":[{}]}', b'{"changes":"\xff"}', b'{"changes":' + b"[" * 100_000]
)
def test_a_malformed_shift_log_is_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    path.write_bytes(content)
    with pytest.raises(KeplerError, match="cannot be read") as caught:
        ShiftLog(path).shifts()
    assert len(str(caught.value).splitlines()) == 1


COUNTERS = LinearModel(
    group="CounterOnly", features=("cache_miss",), watts={"package": (50.0, {"cache_miss": 1e-9})}
)  # fmt: skip


def served(folder: Path, **metadata: Any) -> DriftMonitor:
    """Publish two models, the first with changed metadata. Return a drift monitor that has loaded both models."""
    stored, files = LinearModel().stored()
    odd = stored | metadata
    files["metadata.json"] = json.dumps(odd).encode()
    node_types = {"0": {"attrs": MACHINE, "members": []}}
    store = LocalStore(folder / "store")
    store.publish("p", pipeline_files([(odd, files), COUNTERS.stored()], {"name": "p"}, node_types))
    monitor = DriftMonitor(store, "p", MACHINE)
    assert monitor.refresh()
    return monitor


def watched_groups(monitor: DriftMonitor) -> list[str]:
    return sorted(watched.entry.feature_group for watched in monitor.watched)


@pytest.mark.parametrize("mae", [None, "low", [1], {}])
def test_a_model_without_a_validated_error_is_not_watched(mae: Any, tmp_path: Path) -> None:
    assert watched_groups(served(tmp_path, mae=mae)) == ["CounterOnly"]


def test_a_model_that_fails_is_not_watched_any_longer(tmp_path: Path) -> None:
    """If a model raises an exception, it is not compared with samples any longer. Other models are still compared."""
    monitor = served(tmp_path)
    assert watched_groups(monitor) == ["BPFOnly", "CounterOnly"]

    class FailingModel:
        model = LinearModel(features=("bpf_cpu_time_ms",))

        def watts(self, X: Any) -> Any:
            raise ZeroDivisionError("raised by a model format of a third-party plugin")

    failing = next(watched for watched in monitor.watched if watched.entry.feature_group == "BPFOnly")
    failing.model = cast("Any", FailingModel())
    observations = observe_part(recording(Simulation(containers=2, timestamps=60)), 0, 170)
    monitor.update(observations, np.arange(len(observations.sample_time)))
    assert watched_groups(monitor) == ["CounterOnly"]
    assert monitor.watched[0].running()
