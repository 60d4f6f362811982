"""Test that a Parquet recording gives the same observations if it is read in parts or by several workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.observations import assert_same

from kepler_core.errors import RecordingError
from kepler_core.parquet import RecordingWriter, open_parts, write_recording
from kepler_core.pipeline.part_sampling import observe_sample
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import Simulation, recording

pytest.importorskip("pyarrow")

SPEC = PipelineSpec("parts")
NODES, TIMES = 4, 3000


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """Return a recording over 2.5 hours, in which each node is scraped at times of its own."""
    simulation = Simulation(nodes=NODES, containers=3, timestamps=TIMES, churn=0.2)
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(recording(simulation)))
    for series in document.values():
        for one in series:
            offset = 0.001 * int(one["metric"]["instance"].removeprefix("node-"))
            one["values"] = [[round(time + offset, 3), value] for time, value in one["values"]]
    return document


@pytest.fixture(scope="module")
def parquet(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "r.parquet"
    with RecordingWriter(path, "a") as writer:
        write_recording(read_recording(content), writer)
    return path


def in_one_part(parquet: Path, max_rows: int) -> Observations:
    return observe_sample(SPEC, [open_parts(parquet)], max_rows=max_rows, jobs=1)[0]


@pytest.mark.parametrize("max_rows", [20_000, 10**7])
@pytest.mark.parametrize(("part_samples", "jobs"), [(1, 1), (200_000, 1), (1, 2)])
def test_parts_and_workers_change_nothing(parquet: Path, part_samples: int, jobs: int, max_rows: int) -> None:
    expected = in_one_part(parquet, max_rows)
    parts = open_parts(parquet, part_samples=part_samples)
    assert len(parts.parts) > 1
    observed, n_samples = observe_sample(SPEC, [parts], max_rows=max_rows, jobs=jobs)
    assert_same(observed, expected)
    assert observed.counts.as_dict() == expected.counts.as_dict()
    assert n_samples == NODES * TIMES


@pytest.mark.parametrize("max_rows", [20_000, 10**7])
def test_slices_of_time_change_no_value(parquet: Path, max_rows: int) -> None:
    """If a recording is read in slices of time, the rates at the edges of the slices are right, too."""
    whole = open_parts(parquet)
    sliced = open_parts(parquet, part_samples=1, machine_samples=15_000)
    assert len(whole.parts) == 1
    edges = sorted({part.start for part in sliced.parts})
    assert np.unique(np.diff(edges)).tolist() == [3600.0]
    assert len(sliced.parts) == NODES * len(edges)
    longest = max(part.read().sample_counts["kepler_node_package_joules_total"] for part in sliced.parts)
    assert longest < sum(whole.sample_counts.values())
    assert_same(observe_sample(SPEC, [sliced], max_rows=max_rows, jobs=1)[0], in_one_part(parquet, max_rows))


def test_all_rows_are_those_of_the_recording_in_json(parquet: Path, content: dict[str, Any]) -> None:
    """A recording in JSON gives the same values, except for rounding: sums are added up in another order."""
    observed, expected = in_one_part(parquet, 10**7), observe([read_recording(content)])
    assert len(observed.row_sample) == len(expected.row_sample)
    for key, watts in expected.power.items():
        np.testing.assert_allclose(observed.power[key], watts, rtol=1e-12)
    for name, values in expected.node_features.items():
        np.testing.assert_allclose(observed.node_features[name], values, rtol=1e-12)


def test_usage_and_energy_with_different_node_labels(tmp_path: Path) -> None:
    """Two node labels, one for usage and one for energy, are joined to one machine if there is no third label.

    The whole recording counts, not each part of it.
    """
    times = [1.7e9 + 5 * at for at in range(200)]
    rng = np.random.default_rng(0)

    def series(**labels: str) -> dict[str, Any]:
        values = np.cumsum(rng.uniform(200, 400, len(times)))
        return {"metric": labels, "values": [[t, f"{v:.2f}"] for t, v in zip(times, values.tolist(), strict=True)]}

    def written(n: int) -> Path:
        usage = [series(instance=f"10.0.0.{node}:9102", container_id=f"{node:064x}") for node in range(n)]
        energy = [series(instance=f"host-{node}", mode="dynamic", source="rapl-sysfs") for node in range(n)]
        content = {"kepler_container_bpf_cpu_time_ms_total": usage, "kepler_node_package_joules_total": energy}
        path = tmp_path / f"{n}.parquet"
        with RecordingWriter(path, "a") as writer:
            write_recording(read_recording(content), writer)
        return path

    for n, joined in ((1, 1), (2, 0)):
        for part_samples in (1, 10**6):
            parts = open_parts(written(n), part_samples=part_samples)
            counts = observe_sample(SPEC, [parts], jobs=1)[0].counts
            assert sum(counts.joined_nodes.values()) == joined, (n, part_samples)


def test_wrong_recordings_are_errors(parquet: Path, content: dict[str, Any]) -> None:
    with pytest.raises(RecordingError, match="given twice"):
        observe_sample(SPEC, [open_parts(parquet), open_parts(parquet)])
    other = read_recording(json.loads(json.dumps(content)), name="other")
    with pytest.raises(RecordingError, match="both hold node 'node-0' at the same time"):
        observe_sample(SPEC, [open_parts(parquet), other], jobs=1)
