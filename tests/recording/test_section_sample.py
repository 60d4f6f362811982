"""Test the choice of sections of a long recording.

The chosen sections must not depend on the parts in which the recording is read, or on the order of the parts. They must
not exceed the maximum number of rows.
"""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.observations import assert_same

from kepler_core.errors import RecordingError
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.observations import Stream
from kepler_core.recording.section_join import SECTION_SECONDS, taken
from kepler_core.recording.section_sample import SectionSample
from kepler_core.simulate import Simulation, recording

N_NODES, N_TIMES = 8, 700


@pytest.fixture(scope="module")
def observations() -> Observations:
    simulation = Simulation(nodes=N_NODES, containers=3, timestamps=N_TIMES, churn=0.3)
    return observe([read_recording(recording(simulation))])


def sampled(parts: list[Observations], max_rows: int, seed: int = 0) -> SectionSample:
    sample = SectionSample(max_rows, seed)
    for part in parts:
        sample.add(part)
    return sample


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_sample_does_not_depend_on_parts_and_order(observations: Observations, data: st.DataObject) -> None:
    max_rows = data.draw(st.sampled_from([1000, 4000, 10_000, 10**6]))
    expected = sampled([observations], max_rows).observations(["d"])
    clock = np.floor(observations.sample_time / SECTION_SECONDS).astype(np.int64)
    section = np.unique(clock * N_NODES + observations.sample_stream, return_inverse=True)[1]
    n_parts = data.draw(st.integers(1, 6))
    drawn = data.draw(st.lists(st.integers(0, n_parts - 1), min_size=int(section.max()) + 1, max_size=200))
    part = np.array(drawn)[section]
    samples = [sampled([taken(observations, part == n)], max_rows) for n in range(n_parts)]
    while len(samples) > 1:
        other = samples.pop(data.draw(st.integers(0, len(samples) - 1)))
        if data.draw(st.booleans()):
            other.reduce(samples[0].rows_per_stratum)
        samples[0].merge(other)
    assert_same(samples[0].observations(["d"]), expected)
    assert samples[0].n_samples == len(observations.sample_time)


@pytest.mark.parametrize("max_rows", [2000, 8000])
def test_the_sample_has_about_max_rows_rows_and_whole_sections(observations: Observations, max_rows: int) -> None:
    sizes = []
    for seed in range(30):
        kept = sampled([observations], max_rows, seed).observations(["d"])
        sizes.append(len(kept.row_sample) + len(kept.sample_time))
    assert max_rows < len(observations.row_sample)
    assert np.mean(sizes) == pytest.approx(max_rows, rel=0.1)
    assert len(set(sizes)) > 1
    for stream in range(len(kept.streams)):
        times = kept.sample_time[kept.sample_stream == stream]
        for number in np.unique(np.floor(times / SECTION_SECONDS)):
            all_times = observations.sample_time[observations.sample_stream == 0]
            expected = all_times[np.floor(all_times / SECTION_SECONDS) == number]
            assert len(times[np.floor(times / SECTION_SECONDS) == number]) == len(expected)


def test_a_rare_load_is_kept() -> None:
    """If only one section of a recording has a very high load (64 times the usual), this section is always chosen."""
    simulation = Simulation(nodes=2, containers=2, timestamps=8000, churn=0.0)
    long = observe([read_recording(recording(simulation))])
    clock = np.floor(long.sample_time / SECTION_SECONDS)
    rare = (long.sample_stream == 1) & (clock == clock[0] + 5)
    assert rare.any()
    features = {name: np.where(rare, 64 * values, values) for name, values in long.node_features.items()}
    changed = attrs.evolve(long, node_features=features)
    for seed in range(10):
        kept = sampled([changed], len(long.row_sample) // 2, seed).observations(["d"])
        of_node = kept.sample_stream == [stream.node for stream in kept.streams].index("node-1")
        assert np.isin(long.sample_time[rare], kept.sample_time[of_node]).all()
        assert len(kept.sample_time) < 0.6 * len(long.sample_time)


def test_a_node_in_two_recordings_at_once_is_refused(observations: Observations) -> None:
    other = attrs.evolve(observations, streams=tuple(Stream("other", s.node) for s in observations.streams))
    sample = sampled([observations], 10_000)
    sample.merge(sampled([other], 10_000))
    with pytest.raises(RecordingError, match="both hold node 'node-0' at the same time"):
        sample.observations(["a", "b"])
