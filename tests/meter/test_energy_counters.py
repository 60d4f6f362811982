"""Tests of the energy counters of the meter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_servers.meter.energy import EnergyCounters


def test_counters_rise_with_the_watts_that_were_set() -> None:
    energy = EnergyCounters()
    energy.set_power({"package": 40.0, "dram": 5.0}, 100.0)
    assert energy.at(100.0) == {"package": 0.0, "dram": 0.0}
    assert energy.at(101.5) == {"package": 60.0, "dram": 7.5}
    energy.set_power({"package": 10.0}, 102.0)
    assert energy.at(103.0) == {"package": 90.0, "dram": 10.0}


def test_counters_stop_without_an_estimate() -> None:
    energy = EnergyCounters({"package": 7.0})
    energy.set_power({"package": 10.0}, 0.0)
    energy.stop(1.0)
    assert energy.at(50.0) == {"package": 17.0}
    energy.set_power({"package": 10.0}, 60.0)
    assert energy.at(61.0) == {"package": 27.0}


def test_a_power_is_not_integrated_for_hours() -> None:
    """A power is integrated for at most `valid_seconds`, because the power during a long pause is not known."""
    energy = EnergyCounters(valid_seconds=5.0)
    energy.set_power({"package": 10.0}, 0.0)
    assert energy.at(3600.0) == {"package": 50.0}


steps = st.lists(
    st.tuples(st.floats(0, 20), st.dictionaries(st.sampled_from(["package", "dram", "platform"]), st.floats(-5, 1e5))),
    max_size=30,
)


@given(steps)
def test_no_counter_ever_falls(script: list[tuple[float, dict[str, float]]]) -> None:
    energy = EnergyCounters({"package": 3.0})
    now, before = 0.0, energy.at(0.0)
    for seconds, watts in script:
        for moment in (now + seconds / 2, now + seconds):
            after = energy.at(moment)
            assert all(after[component] >= joules for component, joules in before.items())
            before = after
        now += seconds
        energy.set_power(watts, now)
        assert energy.at(now) == pytest.approx(before | {name: before.get(name, 0.0) for name in watts})
