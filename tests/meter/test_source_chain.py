"""Tests of how the meter chooses the best of several power sources, and of the meter's collectors."""

from __future__ import annotations

import itertools

import pytest

from kepler_core.errors import CollectorError, MeterError
from kepler_core.metering import Collector, Observation, Power, Provenance, Reading
from kepler_servers.meter.collecting import CollectorSet, merged
from kepler_servers.meter.source_chain import GOOD_READINGS, MISSES, START_PERIODS, SourceChain


class Scripted:
    """A source whose outcomes a test sets: watts, None, or an exception."""

    kind = "measured"

    def __init__(self, name, outcome):
        self.name, self.outcome, self.reads = name, outcome, 0

    def read(self, observation):
        self.reads += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            return None
        watts = self.outcome
        return Reading(observation.time, {"package": Power(watts, watts, watts)}, Provenance("measured", self.name))

    def close(self):
        pass


def run(chain, periods, start=0):
    """Take a reading in each period, and return the names of the sources, with "-" where there was no reading."""
    names = []
    for period in range(start, start + periods):
        try:
            names.append(chain.reading(Observation(period, 1.0, {"bpf_cpu_time_ms": 1.0})).provenance.name)
        except MeterError:
            names.append("-")
    return names


def test_better_source_must_be_good_for_some_periods():
    meter, formula = Scripted("meter", MeterError("no RAPL")), Scripted("formula", 5.0)
    chain = SourceChain([meter, formula])
    assert run(chain, 3) == ["formula"] * 3
    assert chain.problems == ["meter: no RAPL"]
    meter.outcome = 7.0
    assert run(chain, 5) == ["formula"] * (GOOD_READINGS - 1) + ["meter"] * (6 - GOOD_READINGS)
    assert chain.problems == []


def test_failing_source_is_left_after_some_misses():
    meter, formula = Scripted("meter", 7.0), Scripted("formula", 5.0)
    chain = SourceChain([meter, formula])
    run(chain, 5)
    meter.outcome = MeterError("gone")
    assert run(chain, 4) == ["meter"] * (MISSES - 1) + ["formula"] * (5 - MISSES)


def test_held_reading_has_the_time_of_the_period():
    meter = Scripted("meter", 7.0)
    chain = SourceChain([meter, Scripted("formula", 5.0)])
    run(chain, 1)
    meter.outcome = MeterError("gone")
    reading = chain.reading(Observation(99.0, 1.0, {}))
    assert (reading.time, reading.power["package"].watts) == (99.0, 7.0)


def test_source_that_comes_and_goes_is_taken_less_and_less_often():
    meter, formula = Scripted("meter", 7.0), Scripted("formula", 5.0)
    chain = SourceChain([meter, formula])
    names = []
    for period in range(400):
        meter.outcome = 7.0 if period % 12 < 6 else MeterError("flaps")
        names += run(chain, 1, period)
    switches = sum(one != other for one, other in itertools.pairwise(names))
    assert switches <= 5
    assert names[-100:] == ["formula"] * 100


def test_start_waits_for_the_second_value_of_a_meter():
    meter, formula = Scripted("meter", None), Scripted("formula", 5.0)
    chain = SourceChain([meter, formula])
    assert run(chain, 1) == ["-"]
    meter.outcome = 7.0
    assert run(chain, 1) == ["meter"]


def test_start_does_not_wait_for_ever():
    chain = SourceChain([Scripted("meter", None), Scripted("formula", 5.0)])
    assert run(chain, START_PERIODS + 2) == ["-"] * START_PERIODS + ["formula"] * 2


def test_the_wait_at_the_start_can_be_longer_and_can_be_ended():
    chain = SourceChain([Scripted("server", None), Scripted("formula", 5.0)])
    chain.start_periods = 100
    assert run(chain, 50) == ["-"] * 50
    chain.start_periods = 0
    assert run(chain, 1) == ["formula"]


def test_defect_of_one_source_does_not_end_the_others():
    chain = SourceChain([Scripted("broken", ZeroDivisionError("oops")), Scripted("formula", 5.0)])
    assert run(chain, 2) == ["formula"] * 2
    assert chain.problems[0].startswith("broken: a defect")


def test_no_source_at_all():
    chain = SourceChain([Scripted("meter", MeterError("no RAPL")), Scripted("formula", MeterError("no CPUs"))])
    with pytest.raises(MeterError, match="meter: no RAPL; formula: no CPUs"):
        chain.reading(Observation(1.0, 1.0, {}))
    chain.close()


class Measures(Collector):
    provides = ("bpf_cpu_time_ms", "cache_miss")

    def __init__(self, features, problem=None):
        self.features, self.problem, self.opened = features, problem, 0

    def open(self):
        self.opened += 1
        if isinstance(self.problem, CollectorError):
            raise self.problem

    def collect(self):
        if self.problem is not None:
            raise self.problem
        return Observation(1.0, 2.0, self.features, load=0.5 if "bpf_cpu_time_ms" in self.features else None)


def test_first_collector_wins_for_each_feature():
    one, two = Measures({"bpf_cpu_time_ms": 1.0}), Measures({"bpf_cpu_time_ms": 9.0, "cache_miss": 2.0})
    collectors = CollectorSet({"one": one, "two": two})
    collectors.open()
    observation = collectors.collect()
    assert observation.features == {"bpf_cpu_time_ms": 1.0, "cache_miss": 2.0}
    assert (observation.load, observation.seconds) == (0.5, 2.0)


def test_failing_collector_is_named_and_tried_again():
    now = [0.0]
    broken = Measures({"cache_miss": 1.0}, ValueError("oops"))
    collectors = CollectorSet({"one": Measures({"bpf_cpu_time_ms": 1.0}), "two": broken}, clock=lambda: now[0])
    collectors.open()
    for _ in range(2):
        observation = collectors.collect()
        assert set(observation.features) == {"bpf_cpu_time_ms"}
        assert any(problem.startswith("two: a defect") for problem in observation.problems)
    assert broken.opened == 1
    now[0], broken.problem = 61.0, None
    assert set(collectors.collect().features) == {"bpf_cpu_time_ms", "cache_miss"}
    collectors.close()


def test_machine_that_no_collector_can_observe_has_no_features():
    now = [0.0]
    collectors = CollectorSet({"perf": Measures({}, CollectorError("no PMU"))}, clock=lambda: now[0])
    collectors.open()
    assert collectors.problems == {"perf": "no PMU"}
    collectors.collect()
    now[0] = 2.0
    observation = collectors.collect()
    assert (observation.features, observation.seconds) == ({}, 2.0)
    assert observation.problems == ("perf: no PMU",)


def test_observation_without_a_period_does_not_set_the_length_of_the_period():
    observation = merged([Observation(1.0, 0.0, {}), Observation(1.0, 3.0, {"cache_miss": 1.0})])
    assert observation.seconds == 3.0
