"""Tests of the file with rows of training data that is stored with a pipeline."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from kepler_core.errors import PipelineError, StoreError
from kepler_core.pipeline.kept_rows import MAX_BYTES, MAX_ROWS, node_rows, read_kept_rows, write_kept_rows
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.train import train
from kepler_core.recording import observe, read_recording
from kepler_core.recording.observations import Observations
from kepler_core.simulate import Simulation, recording
from kepler_core.store import Store, open_store

PIPELINE = "energy_sources: [rapl]\nfeature_groups: [CounterOnly]\nabs_trainers: [LinearRegressionTrainer]\n"


@pytest.fixture(scope="module")
def observations() -> Observations:
    return observe([read_recording(recording(Simulation(containers=3, timestamps=120, sockets=1, resets=0, nodes=2)))])


def trained(folder: Path, observations: Observations, *settings: str) -> Store:
    (folder / "p.yaml").write_text(PIPELINE)
    store = open_store(str(folder / "store"))
    train(load_pipeline(folder / "p.yaml", settings=settings), observations, store, jobs=1)
    return store


def document(**changes: Any) -> bytes:
    rows: dict[str, Any] = {"time": [1.0, 2.0], "stream": [0, 0], "features": {"a": [1.0, None]}, "power": {}}
    return gzip.compress(json.dumps(rows | changes).encode())


def test_rows_are_read_as_they_were_written(observations: Observations) -> None:
    written = node_rows(observations)
    read = read_kept_rows(write_kept_rows(observations, MAX_ROWS), "f")
    assert len(read.time) == len(written.time) > 200
    assert np.array_equal(read.time, written.time)
    assert np.array_equal(read.stream, written.stream)
    assert set(np.unique(read.stream)) == {0, 1}
    assert read.features.keys() == written.features.keys()
    assert read.power.keys() == written.power.keys() >= {"rapl-sysfs/package", "acpi/platform"}
    for name, values in {**written.features, **written.power}.items():
        assert np.allclose({**read.features, **read.power}[name], values, rtol=1e-5, atol=0, equal_nan=True)


def test_rows_are_evenly_spaced_if_there_are_too_many(observations: Observations) -> None:
    times = read_kept_rows(write_kept_rows(observations, 10), "f").time
    assert len(times) == 10
    all_times = node_rows(observations).time
    assert set(times) <= set(all_times)
    assert times.max() - times.min() > 0.7 * (all_times.max() - all_times.min())


def test_equal_observations_give_equal_files(observations: Observations) -> None:
    assert write_kept_rows(observations, 50) == write_kept_rows(observations, 50)


def test_complete_rows_have_known_values_only(observations: Observations) -> None:
    rows = read_kept_rows(document(features={"a": [1.0, None], "b": [3.0, 4.0]}), "f")
    complete = rows.complete(["a"], [])
    assert complete is not None
    assert complete.time.tolist() == [1.0]
    assert complete.features.keys() == {"a"}
    assert rows.complete(["a", "c"], []) is None
    assert rows.complete(["a"], ["rapl-sysfs/package"]) is None


DAMAGED = {
    "empty": b"",
    "not gzip": b"not gzip",
    "cut off": document()[:-6],
    "not JSON": gzip.compress(b"{"),
    "no object": gzip.compress(b"[]"),
    "too large": gzip.compress(b" " * (MAX_BYTES + 1)),
    "unknown key": document(other=1),
    "fewer streams": document(stream=[0]),
    "fewer values": document(features={"a": [1.0]}),
    "text": document(features={"a": [1.0, "1"]}),
    "negative feature": document(features={"a": [1.0, -1.0]}),
    "huge power": document(power={"rapl-sysfs/package": [1.0, 1e300]}),
    "huge stream": document(stream=[0, 2**70]),
    "negative stream": document(stream=[0, -1]),
    "too many rows": document(time=[0.0] * 2001, stream=[0] * 2001, features={}),
    "too many columns": document(features={str(number): [1.0, 1.0] for number in range(1001)}),
}


def test_the_undamaged_file_can_be_read() -> None:
    assert len(read_kept_rows(document(), "f").time) == 2


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named(content: bytes) -> None:
    with pytest.raises(StoreError, match=r"^samples/0\.json\.gz: .+"):
        read_kept_rows(content, "samples/0.json.gz")


def test_a_training_stores_rows(tmp_path: Path, observations: Observations) -> None:
    snapshot = trained(tmp_path, observations, "keep_rows=40").snapshot("p")
    assert len(read_kept_rows(snapshot.read("samples/0.json.gz"), "f").time) == 40


def test_a_training_stores_no_rows_if_the_pipeline_says_so(tmp_path: Path, observations: Observations) -> None:
    snapshot = trained(tmp_path, observations, "keep_rows=0").snapshot("p")
    assert not [name for name in snapshot.names if name.startswith("samples/")]


@pytest.mark.parametrize("value", ["-1", "2001", "1.5"])
def test_the_number_of_rows_is_checked(tmp_path: Path, value: str) -> None:
    (tmp_path / "p.yaml").write_text(PIPELINE)
    with pytest.raises(PipelineError, match="keep_rows"):
        load_pipeline(tmp_path / "p.yaml", settings=[f"keep_rows={value}"])
