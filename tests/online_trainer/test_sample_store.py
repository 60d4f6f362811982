"""The training memory: each instant once, whatever comes when; bounded, and spread over what was seen."""

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
from kepler_core.recording.schemas import is_known_metric
from kepler_core.simulate import START, Simulation, recording
from kepler_servers.online_trainer import instants
from kepler_servers.online_trainer import memory as memory_module
from kepler_servers.online_trainer.memory import TrainingMemory, TrainingMemoryError
from kepler_servers.online_trainer.strata import choose, strata, water_fill

STEP = 3
LATE = 30
Content = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def content() -> Content:
    return recording(Simulation(containers=3, timestamps=120, nodes=2, sockets=1, accelerator=False))


def between(content: Content, since: float, until: float, skip: str = "-") -> Observations | None:
    """What a server would have answered, with a metric whose newest samples have not arrived."""
    part = {
        metric: [
            {"metric": s["metric"], "values": samples}
            for s in series
            if (samples := [v for v in s["values"] if since <= v[0] <= (until - LATE if skip in metric else until)])
        ]
        for metric, series in content.items()
    }
    part = {metric: series for metric, series in part.items() if series}
    return observe([read_recording(part, name="x", wanted=is_known_metric)]) if part else None


def fetch(memory: TrainingMemory, content: Content, until: float, skip: str = "-") -> None:
    """A round's fetch, as the trainer makes it."""
    cursor = memory.cursor(until)
    since = START - 60.0 if cursor is None else cursor - 2 * memory.reach
    found = between(content, since, until, skip)
    if found is not None:
        memory.append(found, since=since, until=until)


def truth(content: Content, until: float) -> Observations:
    found = between(content, 0, until)
    assert found is not None
    return found


def keys(observations: Observations) -> set[tuple[str, float]]:
    """Instants that can be used and are not a node's newest."""
    complete = instants.completeness(observations)
    found = set()
    for code, stream in enumerate(observations.streams):
        mine = np.flatnonzero(observations.sample_stream == code)[:-1]
        found |= {(stream.node, float(observations.sample_time[at])) for at in mine if complete[at]}
    return found


def check_is_truth(memory: TrainingMemory, expected: Observations) -> None:
    """The memory holds all that was there, once, with the same values."""
    found = instants.to_observations(memory.table(), memory.step)
    at = {
        (expected.streams[code].node, float(time)): number
        for number, (code, time) in enumerate(zip(expected.sample_stream, expected.sample_time, strict=True))
    }
    have = [(found.streams[c].node, float(t)) for c, t in zip(found.sample_stream, found.sample_time, strict=True)]
    assert len(set(have)) == len(have)
    assert set(have) == keys(expected)
    index = np.array([at[key] for key in have])
    for name, values in expected.node_features.items():
        np.testing.assert_allclose(found.node_features[name], values[index], rtol=1e-9)
    for key, values in expected.power.items():
        np.testing.assert_allclose(found.power[key], values[index], rtol=1e-9)

    def rows(o: Observations, name: str) -> dict[tuple[str, float, str], float]:
        return {
            (o.streams[o.sample_stream[i]].node, float(o.sample_time[i]), o.containers[c]): float(v)
            for i, c, v in zip(o.row_sample, o.row_container, o.container_features[name], strict=True)
        }

    for name in expected.container_features:
        mine, theirs = rows(found, name), rows(expected, name)
        theirs = {key: value for key, value in theirs.items() if key[:2] in set(have)}
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose(list(mine.values()), [theirs[key] for key in mine], rtol=1e-9)


def test_nothing_is_lost_on_the_way_to_the_disk_and_back(content: Content, tmp_path: Path) -> None:
    memory = TrainingMemory(tmp_path / "m", overlap=30)
    fetch(memory, content, START + 360)
    check_is_truth(memory, truth(content, START + 360))
    check_is_truth(TrainingMemory(tmp_path / "m", overlap=30), truth(content, START + 360))
    assert instants.to_observations(memory.table(), memory.step).step == STEP


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(1, 360), st.sampled_from(["", "again", "reopen", "late", "tidy"])), min_size=1, max_size=8
    )
)
def test_each_instant_is_there_once_whatever_comes_when(
    tmp_path_factory: pytest.TempPathFactory, content: Content, rounds: list[tuple[int, str]]
) -> None:
    """Rounds at any times, repeated, after a restart, with a metric that comes too late."""
    folder = tmp_path_factory.mktemp("m") / "memory"
    memory = TrainingMemory(folder, overlap=60)
    until = START + 30.0
    for seconds, what in rounds:
        until = min(until + seconds, START + 3 * 119.0)
        if what == "reopen":
            memory = TrainingMemory(folder, overlap=60)
        fetch(memory, content, until, skip="package_joules" if what == "late" else "-")
        if what in ("again", "late"):
            fetch(memory, content, until)
        if what == "tidy":
            usual, memory_module.SEGMENTS = memory_module.SEGMENTS, 1
            memory.tidy()
            memory_module.SEGMENTS = usual
    check_is_truth(memory, truth(content, until))
    assert memory.seen == memory.instants


def test_late_samples_within_the_overlap_are_taken_and_others_are_not(content: Content, tmp_path: Path) -> None:
    memory = TrainingMemory(tmp_path / "m", overlap=60)
    one_node = {m: [s for s in series if s["metric"]["instance"] == "node-0"] for m, series in content.items()}
    fetch(memory, one_node, START + 100)
    fetch(memory, content, START + 150)  # node-1 comes for the first time, from before the cursor
    times = [time for node, time in keys(instants.to_observations(memory.table(), memory.step)) if node == "node-1"]
    assert min(times) > START + 100 - 60
    assert min(times) <= START + 100 - 60 + 2 * STEP
    expected = {key for key in keys(truth(content, START + 150)) if key[0] == "node-0" or key[1] > START + 40}
    have = {(n, t) for n, times in memory._known.items() for t in times}
    assert have == expected


def test_a_clock_that_was_wrong_for_a_while_does_not_stop_the_fetching(content: Content, tmp_path: Path) -> None:
    memory = TrainingMemory(tmp_path / "m", overlap=60)
    fetch(memory, content, START + 100)
    found = between(content, START + 40, START + 110)
    assert found is not None
    memory.append(found, since=START + 40, until=START + 1e6)
    assert memory.cursor(START + 110) == START + 100
    fetch(memory, content, START + 110)
    fetch(memory, content, START + 200)
    check_is_truth(memory, truth(content, START + 200))


def test_what_a_kill_leaves_is_not_counted(content: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    memory = TrainingMemory(folder, overlap=30)
    for until in range(60, 360, 60):
        fetch(memory, content, START + until)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".6.parquet.part").write_bytes(b"half a file")
    memory.most_bytes, memory.overlap = 1, 1e9
    assert memory.tidy() == 0  # all is newer than the overlap
    assert [path.name for path in folder.glob("*.parquet")] == ["5.base.parquet"]
    for name, data in before.items():  # killed before they were removed
        (folder / name).write_bytes(data)
    again = TrainingMemory(folder, overlap=30)
    check_is_truth(again, truth(content, START + 300))
    assert sorted(path.name for path in folder.iterdir()) == ["5.base.parquet"]
    fetch(again, content, START + 357)
    check_is_truth(again, truth(content, START + 357))


def test_a_damaged_file_is_set_aside_and_the_rest_goes_on(content: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    memory = TrainingMemory(folder, overlap=30)
    fetch(memory, content, START + 100)
    fetch(memory, content, START + 200)
    data = (folder / "2.parquet").read_bytes()
    (folder / "2.parquet").write_bytes(data[: len(data) // 2])
    again = TrainingMemory(folder, overlap=30)
    assert again.damaged == ["2.parquet"]
    assert (folder / "2.parquet.damaged").exists()
    fetch(again, content, START + 200)  # what it held is fetched again
    check_is_truth(again, truth(content, START + 200))


def test_what_a_damaged_file_held_is_fetched_again(content: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    memory = TrainingMemory(folder, overlap=30)
    for until in (100, 160, 220, 280):
        fetch(memory, content, START + until)
    (folder / "2.parquet").write_bytes(b"no Parquet")
    for _ in range(2):  # it was killed before it could fetch it
        again = TrainingMemory(folder, overlap=30)
        assert again.has_lost
        assert again.cursor(START + 280) == START + 100
        assert again.tidy() == 0
    fetch(again, content, START + 280)
    check_is_truth(again, truth(content, START + 280))
    again.fetched_again()
    assert (folder / "2.parquet.lost").exists()
    for last in (again, TrainingMemory(folder, overlap=30)):
        assert not last.has_lost
        assert last.cursor(START + 280) == START + 280
    # nor is it asked for again for ever where the server does not have it any more
    (folder / "1.parquet").write_bytes(b"no Parquet")
    last = TrainingMemory(folder, overlap=30)
    assert last.cursor(START + 280) is None
    last.fetched_again()
    assert last.cursor(START + 280) == START + 280


def test_samples_that_are_farther_apart_than_the_overlap_are_all_taken(tmp_path: Path) -> None:
    slow = recording(Simulation(containers=2, timestamps=60, sockets=1, step=300, accelerator=False, resets=0))
    memory = TrainingMemory(tmp_path / "m", overlap=120)
    for until in range(1800, 17_700, 430):
        fetch(memory, slow, START + until)
    assert memory.step == 300
    check_is_truth(memory, truth(slow, START + until))


def test_a_disk_that_cannot_be_written_changes_nothing(content: Content, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    memory = TrainingMemory(folder, overlap=30)
    fetch(memory, content, START + 100)
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.write_bytes(b"")  # a file where the folder was
    with pytest.raises(TrainingMemoryError, match="cannot write"):
        fetch(memory, content, START + 200)
    assert memory.cursor(START + 200) == START + 100
    folder.unlink()
    moved.rename(folder)
    fetch(memory, content, START + 200)
    check_is_truth(memory, truth(content, START + 200))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 300))
def test_room_is_shared_evenly(counts: list[int], room: int) -> None:
    given_counts = np.array(counts)
    kept = water_fill(given_counts, room)
    assert kept.sum() == min(room, sum(counts))
    assert ((kept >= 0) & (kept <= given_counts)).all()
    cut = kept < given_counts
    if cut.any():
        assert kept.max() <= kept[cut].min() + 1  # nobody has more than one that had to give


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 200))
def test_what_stays_is_spread_over_what_was_there(seed: int, n: int, room: int) -> None:
    rng = np.random.default_rng(seed)
    node = rng.integers(0, 3, n)
    time = np.sort(rng.uniform(0, 1e6, n))
    cycles = rng.uniform(0, 1e9, n)
    features = {"cpu_instructions": cycles * rng.choice([0.5, 2.0], n), "cpu_cycles": cycles}
    kept = choose(node, time, features, room)
    assert kept.sum() == min(room, n)
    assert (kept == choose(node, time, features, room)).all()
    groups = strata(node, features)
    if room >= 3 * len(np.unique(groups)):
        assert set(groups[kept]) == set(groups)


def test_a_week_of_idle_does_not_push_out_the_load_test_of_last_tuesday() -> None:
    day = 86_400.0
    idle_time = np.arange(0, 7 * day, 60)
    load_time = 1.5 * day + np.arange(0, 1800, 60)
    time = np.concatenate([idle_time, load_time])
    rng = np.random.default_rng(0)
    work = np.concatenate([rng.uniform(0, 1e7, len(idle_time)), rng.uniform(5e9, 1e10, len(load_time))])
    order = np.argsort(time)
    time, work = time[order], work[order]
    kept = choose(np.zeros(len(time), dtype=np.int64), time, {"cpu_instructions": work}, 300)
    assert (kept & (work > 1e9)).sum() == len(load_time)
    idle_kept = np.sort(time[kept & (work < 1e9)])
    assert len(idle_kept) == 300 - len(load_time)
    assert np.diff(idle_kept).max() < day  # and idleness itself is remembered from the whole week


def test_it_is_bounded(content: Content, tmp_path: Path) -> None:
    memory = TrainingMemory(tmp_path / "m", overlap=15, most_instants=60)
    for until in range(60, 360, 30):
        fetch(memory, content, START + until)
        memory.tidy()
        assert memory.instants <= 1.1 * 60
    assert memory.seen == len(keys(truth(content, START + 330)))
    assert set(memory.nodes) == {"node-0", "node-1"}
    small = TrainingMemory(tmp_path / "n", overlap=15, most_bytes=20_000)
    for until in range(60, 360, 30):
        fetch(small, content, START + until)
        small.tidy()
    assert small.size < 60_000
    assert small.instants > 10


def test_what_was_thinned_out_does_not_look_as_if_it_had_been_scraped_seldom(content: Content, tmp_path: Path) -> None:
    memory = TrainingMemory(tmp_path / "m", overlap=6, most_instants=24)
    for until in range(60, 360, 30):
        fetch(memory, content, START + until)
        memory.tidy()
    for same in (memory, TrainingMemory(tmp_path / "m", overlap=6)):
        found = instants.to_observations(same.table(), same.step)
        assert np.median(np.diff(found.sample_time[found.sample_stream == 0])) > 2 * STEP
        assert found.step == STEP
