"""Test that the sample store contains each sample once, and that a full store still contains rare loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.schemas import is_used_metric
from kepler_core.simulate import START, Simulation, recording
from kepler_servers.online_trainer import sample_store as sample_store_module
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.collecting import SampleCollector
from kepler_servers.online_trainer.sample_files import SampleStoreError
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.stratified_sampling import assign_strata, select_samples, water_fill

STEP_SECONDS = 3
LATE_SECONDS = 30
Content = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def two_nodes() -> Content:
    """A simulated recording of two nodes over six minutes."""
    return recording(Simulation(containers=3, timestamps=120, nodes=2, sockets=1, accelerator=False))


def between(content: Content, since: float, until: float, late: str = "-") -> Observations | None:
    """Return the observations from `since` to `until` that a Prometheus server could return at the time `until`.

    If the name of a metric contains `late`, its values of the last `LATE_SECONDS` are missing, as if they had
    not arrived yet.
    """
    part = {}
    for metric, series in content.items():
        end = until - LATE_SECONDS if late in metric else until
        cut = [{"metric": s["metric"], "values": [v for v in s["values"] if since <= v[0] <= end]} for s in series]
        if kept := [s for s in cut if s["values"]]:
            part[metric] = kept
    return observe([read_recording(part, name="x", wanted=is_used_metric)]) if part else None


def add(store: SampleStore, observations: Observations, since: float, until: float) -> None:
    """Add the new samples of a fetch from `since` to `until` to the store."""
    collector = SampleCollector(store, since, until)
    collector.add(observations)
    collector.store()


def fetch(store: SampleStore, content: Content, until: float, late: str = "-") -> None:
    """Append the samples that a round of the online trainer would fetch at time `until`."""
    cursor = store.cursor(until)
    since = START - 60.0 if cursor is None else cursor - 2 * store.reach
    observations = between(content, since, until, late)
    if observations is not None:
        add(store, observations, since, until)


def observed(content: Content, until: float) -> Observations:
    """Return all observations of a recording up to the time `until`."""
    observations = between(content, 0, until)
    assert observations is not None
    return observations


def expected_keys(observations: Observations) -> set[tuple[str, float]]:
    """Return (node, time) of the samples that a store must contain: all complete samples except each node's newest."""
    complete = sample_table.completeness(observations)
    keys = set()
    for code, stream in enumerate(observations.streams):
        samples = np.flatnonzero(observations.sample_stream == code)[:-1]
        keys |= {(stream.node, float(observations.sample_time[sample])) for sample in samples if complete[sample]}
    return keys


def sample_keys(observations: Observations) -> list[tuple[str, float]]:
    """Return the pair (node, time) of each sample."""
    return [
        (observations.streams[code].node, float(time))
        for code, time in zip(observations.sample_stream, observations.sample_time, strict=True)
    ]


def container_values(observations: Observations, feature: str) -> dict[tuple[str, float, str], float]:
    """Return the values of a feature of containers. A key is (node, time, container)."""
    keys = sample_keys(observations)
    rows = zip(
        observations.row_sample, observations.row_container, observations.container_features[feature], strict=True
    )
    return {(*keys[sample], observations.containers[container]): float(value) for sample, container, value in rows}


def check_equal(store: SampleStore, expected: Observations) -> None:
    """Check that the store contains all expected samples exactly once, with the expected values."""
    stored = sample_table.to_observations(store.table(), store.step)
    keys = sample_keys(stored)
    assert len(set(keys)) == len(keys)
    assert set(keys) == expected_keys(expected)
    number = {key: at for at, key in enumerate(sample_keys(expected))}
    same = np.array([number[key] for key in keys])
    for name, values in expected.node_features.items():
        np.testing.assert_allclose(stored.node_features[name], values[same], rtol=1e-9)
    for source_component, values in expected.power.items():
        np.testing.assert_allclose(stored.power[source_component], values[same], rtol=1e-9)
    for name in expected.container_features:
        stored_values = container_values(stored, name)
        values_of_keys = {key: v for key, v in container_values(expected, name).items() if key[:2] in set(keys)}
        assert stored_values.keys() == values_of_keys.keys()
        np.testing.assert_allclose(
            list(stored_values.values()), [values_of_keys[key] for key in stored_values], rtol=1e-9
        )


def test_samples_are_the_same_after_writing_and_reading(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "m", overlap=30)
    fetch(store, two_nodes, START + 360)
    check_equal(store, observed(two_nodes, START + 360))
    check_equal(SampleStore(tmp_path / "m", overlap=30), observed(two_nodes, START + 360))
    assert sample_table.to_observations(store.table(), store.step).step == STEP_SECONDS


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(1, 360), st.sampled_from(["", "again", "reopen", "late", "tidy"])), min_size=1, max_size=8
    )
)
def test_each_sample_is_stored_once(
    tmp_path_factory: pytest.TempPathFactory, two_nodes: Content, rounds: list[tuple[int, str]]
) -> None:
    """Each sample is stored once.

    Rounds run at random times. Some rounds are repeated, follow a restart, or lack the newest values of a metric.
    """
    folder = tmp_path_factory.mktemp("m") / "memory"
    store = SampleStore(folder, overlap=60)
    until = START + 30.0
    for seconds, event in rounds:
        until = min(until + seconds, START + 3 * 119.0)
        if event == "reopen":
            store = SampleStore(folder, overlap=60)
        fetch(store, two_nodes, until, late="package_joules" if event == "late" else "-")
        if event in ("again", "late"):
            fetch(store, two_nodes, until)
        if event == "tidy":
            usual, sample_store_module.MERGE_FILES = sample_store_module.MERGE_FILES, 1
            store.tidy()
            sample_store_module.MERGE_FILES = usual
    check_equal(store, observed(two_nodes, until))
    assert store.seen == store.sample_count


def test_late_samples_are_added_within_the_overlap_only(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "m", overlap=60)
    one_node = {m: [s for s in series if s["metric"]["instance"] == "node-0"] for m, series in two_nodes.items()}
    fetch(store, one_node, START + 100)
    # The fetch at 150 s is the first with samples of node-1. Some of these samples are older than the fetch before.
    fetch(store, two_nodes, START + 150)
    stored = sample_keys(sample_table.to_observations(store.table(), store.step))
    times = [time for node, time in stored if node == "node-1"]
    assert min(times) > START + 100 - 60
    assert min(times) <= START + 100 - 60 + 2 * STEP_SECONDS
    expected = {
        key for key in expected_keys(observed(two_nodes, START + 150)) if key[0] == "node-0" or key[1] > START + 40
    }
    assert set(stored) == expected


def test_a_clock_that_was_wrong_for_a_while_does_not_stop_fetching(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "m", overlap=60)
    fetch(store, two_nodes, START + 100)
    observations = between(two_nodes, START + 40, START + 110)
    assert observations is not None
    add(store, observations, START + 40, START + 1e6)
    assert store.cursor(START + 110) == START + 100
    fetch(store, two_nodes, START + 110)
    fetch(store, two_nodes, START + 200)
    check_equal(store, observed(two_nodes, START + 200))


def test_leftovers_of_a_kill_are_ignored_and_removed(two_nodes: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = SampleStore(folder, overlap=30)
    for until in range(60, 360, 60):
        fetch(store, two_nodes, START + until)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".6.parquet.part").write_bytes(b"half a file")
    store.max_bytes, store.overlap = 1, 1e9
    assert store.tidy() == 0  # no sample is removed, because with this overlap, all samples may be fetched again
    assert [path.name for path in folder.glob("*.parquet")] == ["5.base.parquet"]
    # restore the files that were merged, as if the process had been killed before it removed them
    for name, data in before.items():
        (folder / name).write_bytes(data)
    reopened = SampleStore(folder, overlap=30)
    check_equal(reopened, observed(two_nodes, START + 300))
    assert sorted(path.name for path in folder.iterdir()) == ["5.base.parquet"]
    fetch(reopened, two_nodes, START + 357)
    check_equal(reopened, observed(two_nodes, START + 357))


def test_a_damaged_file_is_set_aside(two_nodes: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = SampleStore(folder, overlap=30)
    fetch(store, two_nodes, START + 100)
    fetch(store, two_nodes, START + 200)
    data = (folder / "2.parquet").read_bytes()
    (folder / "2.parquet").write_bytes(data[: len(data) // 2])
    reopened = SampleStore(folder, overlap=30)
    assert reopened.damaged == ["2.parquet"]
    assert (folder / "2.parquet.damaged").exists()
    fetch(reopened, two_nodes, START + 200)
    check_equal(reopened, observed(two_nodes, START + 200))


def test_the_time_range_of_a_damaged_file_is_fetched_again(two_nodes: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = SampleStore(folder, overlap=30)
    for until in (100, 160, 220, 280):
        fetch(store, two_nodes, START + until)
    (folder / "2.parquet").write_bytes(b"no Parquet")
    for _ in range(2):  # twice, as if the first process was killed before it fetched the samples again
        reopened = SampleStore(folder, overlap=30)
        assert reopened.has_lost
        assert reopened.cursor(START + 280) == START + 100
        assert reopened.tidy() == 0
    fetch(reopened, two_nodes, START + 280)
    check_equal(reopened, observed(two_nodes, START + 280))
    reopened.clear_lost()
    assert (folder / "2.parquet.lost").exists()
    for last in (reopened, SampleStore(folder, overlap=30)):
        assert not last.has_lost
        assert last.cursor(START + 280) == START + 280


def test_a_time_range_that_the_server_no_longer_has_is_fetched_again_once(two_nodes: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = SampleStore(folder, overlap=30)
    for until in (100, 160, 220, 280):
        fetch(store, two_nodes, START + until)
    (folder / "1.parquet").write_bytes(b"no Parquet")
    reopened = SampleStore(folder, overlap=30)
    assert reopened.cursor(START + 280) is None
    reopened.clear_lost()
    assert reopened.cursor(START + 280) == START + 280


def test_samples_that_are_farther_apart_than_the_overlap_are_all_added(tmp_path: Path) -> None:
    slow = recording(Simulation(containers=2, timestamps=60, sockets=1, step=300, accelerator=False, resets=0))
    store = SampleStore(tmp_path / "m", overlap=120)
    for until in range(1800, 17_700, 430):
        fetch(store, slow, START + until)
    assert store.step == 300
    check_equal(store, observed(slow, START + until))


def test_a_failed_write_changes_nothing(two_nodes: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = SampleStore(folder, overlap=30)
    fetch(store, two_nodes, START + 100)
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.write_bytes(b"")  # writing fails, because a file is in place of the folder
    with pytest.raises(SampleStoreError, match="cannot write"):
        fetch(store, two_nodes, START + 200)
    assert store.cursor(START + 200) == START + 100
    folder.unlink()
    moved.rename(folder)
    fetch(store, two_nodes, START + 200)
    check_equal(store, observed(two_nodes, START + 200))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 300))
def test_the_capacity_is_divided_evenly(sizes: list[int], capacity: int) -> None:
    counts = np.array(sizes)
    quotas = water_fill(counts, capacity)
    assert quotas.sum() == min(capacity, sum(sizes))
    assert ((quotas >= 0) & (quotas <= counts)).all()
    is_cut = quotas < counts
    if is_cut.any():
        # all groups that lose elements keep nearly the same number: the largest number or one less
        assert quotas.max() <= quotas[is_cut].min() + 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 200))
def test_the_selection_covers_all_strata(seed: int, n: int, capacity: int) -> None:
    rng = np.random.default_rng(seed)
    node = rng.integers(0, 3, n)
    time = np.sort(rng.uniform(0, 1e6, n))
    cycles = rng.uniform(0, 1e9, n)
    features = {"cpu_instructions": cycles * rng.choice([0.5, 2.0], n), "cpu_cycles": cycles}
    selected = select_samples(node, time, features, capacity)
    assert selected.sum() == min(capacity, n)
    assert (selected == select_samples(node, time, features, capacity)).all()
    strata = assign_strata(node, features)
    if capacity >= 3 * len(np.unique(strata)):
        assert set(strata[selected]) == set(strata)


def test_a_week_of_idle_does_not_displace_a_load_test() -> None:
    day = 86_400.0
    idle_time = np.arange(0, 7 * day, 60)
    load_time = 1.5 * day + np.arange(0, 1800, 60)
    time = np.concatenate([idle_time, load_time])
    rng = np.random.default_rng(0)
    instructions = np.concatenate([rng.uniform(0, 1e7, len(idle_time)), rng.uniform(5e9, 1e10, len(load_time))])
    order = np.argsort(time)
    time, instructions = time[order], instructions[order]
    selected = select_samples(np.zeros(len(time), dtype=np.int64), time, {"cpu_instructions": instructions}, 300)
    assert (selected & (instructions > 1e9)).sum() == len(load_time)
    selected_idle = np.sort(time[selected & (instructions < 1e9)])
    assert len(selected_idle) == 300 - len(load_time)
    assert np.diff(selected_idle).max() < day  # idle samples from every day of the week are kept


def test_the_number_of_samples_is_bounded(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "m", overlap=15, max_samples=60)
    for until in range(60, 360, 30):
        fetch(store, two_nodes, START + until)
        store.tidy()
        assert store.sample_count <= 1.1 * 60
    assert store.seen == len(expected_keys(observed(two_nodes, START + 330)))
    assert set(store.samples_by_node) == {"node-0", "node-1"}


def test_the_size_on_disk_is_bounded(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "n", overlap=15, max_bytes=20_000)
    for until in range(60, 360, 30):
        fetch(store, two_nodes, START + until)
        store.tidy()
    assert store.size < 60_000
    assert store.sample_count > 10


def test_thinning_out_does_not_change_the_scrape_step(two_nodes: Content, tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "m", overlap=6, max_samples=24)
    for until in range(60, 360, 30):
        fetch(store, two_nodes, START + until)
        store.tidy()
    for opened in (store, SampleStore(tmp_path / "m", overlap=6)):
        observations = sample_table.to_observations(opened.table(), opened.step)
        times = observations.sample_time[observations.sample_stream == 0]
        assert np.mean(np.diff(times)) > 2 * STEP_SECONDS
        assert observations.step == STEP_SECONDS
