"""Tests of the collector `perf`. Software counters replace hardware counters, which virtual machines lack."""

from __future__ import annotations

import os
import resource
import time

import pytest
from support.synthetic_machine import SyntheticMachine

from kepler_core.errors import CollectorError
from kepler_core.testing import check_collector
from kepler_plugins.collectors.perf import PerfCollector, _check_descriptors, _units_of_cpus, increases
from kepler_plugins.collectors.perf_events import CpuCounters, CpuCounts, hardware_events

_SOFTWARE = 1
_CPU_CLOCK, _PAGE_FAULTS = 0, 2


def test_kernel_counts_the_events_of_a_cpu():
    cpu = min(os.sched_getaffinity(0))
    try:
        counters = CpuCounters(cpu, {"clock": (_SOFTWARE, _CPU_CLOCK), "faults": (_SOFTWARE, _PAGE_FAULTS)})
    except OSError as error:
        pytest.skip(f"this kernel does not allow perf_event_open: {error.strerror}")
    before = counters.read()
    time.sleep(0.05)
    after = counters.read()
    counters.close()
    counters.close()
    assert after.enabled - before.enabled >= 50_000_000
    assert after.values["clock"] > before.values["clock"]
    assert set(after.values) == {"clock", "faults"}


def test_counter_that_a_cpu_does_not_have_is_left_out():
    cpu = min(os.sched_getaffinity(0))
    try:
        counters = CpuCounters(cpu, {"none": (_SOFTWARE, 9999), "clock": (_SOFTWARE, _CPU_CLOCK)})
    except OSError as error:
        pytest.skip(f"this kernel does not allow perf_event_open: {error.strerror}")
    assert set(counters.read().values) == {"clock"}
    counters.close()


def test_shared_counters_are_extrapolated():
    earlier = {0: CpuCounts(0, 0, {"cpu_cycles": 100}), 1: CpuCounts(0, 0, {"cpu_cycles": 0})}
    later = {0: CpuCounts(1000, 500, {"cpu_cycles": 600}), 1: CpuCounts(1000, 1000, {"cpu_cycles": 1000})}
    rates, problems = increases(earlier, later, 2.0)
    assert rates == {"cpu_cycles": 1000.0}
    assert not problems


def test_counter_that_stays_zero_is_missing():
    earlier = {0: CpuCounts(0, 0, {"cpu_cycles": 1, "cache_miss": 0})}
    later = {0: CpuCounts(1000, 1000, {"cpu_cycles": 2, "cache_miss": 0})}
    rates, problems = increases(earlier, later, 1.0)
    assert set(rates) == {"cpu_cycles"}
    assert problems == ["the counter of cache_miss stays 0 on this machine"]


def test_counters_that_other_programs_use_are_missing():
    earlier = {0: CpuCounts(0, 0, {"cpu_cycles": 1})}
    rates, problems = increases(earlier, {0: CpuCounts(10_000, 1, {"cpu_cycles": 2})}, 1.0)
    assert not rates
    assert "other programs" in problems[0]


def test_hybrid_cpus_have_their_own_units(tmp_path):
    machine = SyntheticMachine(tmp_path)
    for name, kind, cpus in (("cpu_core", 4, "0-1"), ("cpu_atom", 10, "2-3")):
        machine.file(f"sys/bus/event_source/devices/{name}/type", kind)
        machine.file(f"sys/bus/event_source/devices/{name}/cpus", cpus)
    machine.file("sys/bus/event_source/devices/uncore_imc/type", 20)
    units = _units_of_cpus(tmp_path)
    assert units == {0: 4, 1: 4, 2: 10, 3: 10}
    assert hardware_events(["cpu_instructions"], 10) == {"cpu_instructions": (0, 10 << 32 | 1)}


def test_files_of_another_machine_are_refused(tmp_path):
    SyntheticMachine(tmp_path).file("proc/sys/kernel/random/boot_id", "b7c1")
    with pytest.raises(CollectorError, match="another machine"):
        PerfCollector(str(tmp_path)).open()


def test_too_few_descriptors_are_named():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with pytest.raises(CollectorError, match=r"ulimit -n|at most 1024"):
        _check_descriptors(min(limit, 10_000))


def test_contract_on_this_machine():
    check_collector("perf")
