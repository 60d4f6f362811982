"""Tests of the collector `procfs` on synthetic machines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic_machine import SyntheticMachine

from kepler_core.errors import CollectorError
from kepler_core.testing import check_collector
from kepler_plugins.collectors.cpu_times import CpuTimes, parse_stat, usage_between
from kepler_plugins.collectors.procfs import ProcfsCollector


@pytest.fixture
def machine(tmp_path):
    return SyntheticMachine(tmp_path)


def test_cpu_time_does_not_count_guests_twice(machine):
    collector = machine.collector()
    collector.collect()
    machine.run(2.0, load=0.5, guest=0.2, steal=0.1)
    observation = collector.collect()
    features = observation.features
    assert observation.seconds == pytest.approx(2.0)
    assert observation.load == pytest.approx(0.5)
    assert observation.steal == pytest.approx(0.1)
    assert features["bpf_cpu_time_ms"] == pytest.approx(2000)
    assert features["cpu_user_ms"] == pytest.approx(1200)
    assert features["cpu_guest_ms"] == pytest.approx(800)
    assert features["cpu_steal_ms"] == pytest.approx(400)
    assert features["cpu_idle_ms"] == pytest.approx(1600)
    assert features["context_switches"] == pytest.approx(100)


def test_disks_networks_memory_and_interrupts(machine):
    for name in ("loop0", "dm-0"):
        (machine.root / "sys/block" / name).mkdir()
    zero = "1 0 0 0 1 0 0 0 0 0 0\n"
    machine.file("proc/diskstats", f" 8 0 sda {zero} 8 1 sda1 {zero} 7 0 loop0 {zero} 253 0 dm-0 {zero}")
    collector = machine.collector()
    collector.collect()
    machine.run(2.0)
    machine.file(
        "proc/diskstats",
        " 8 0 sda 1 0 400 0 1 0 40 0 0 0 0\n 8 1 sda1 1 0 400 0 1 0 40 0 0 0 0\n"
        " 7 0 loop0 1 0 400 0 1 0 40 0 0 0 0\n 253 0 dm-0 1 0 400 0 1 0 40 0 0 0 0\n",
    )
    machine.file("proc/net/dev", "h\n lo: 99 0 0 0 0 0 0 0 99 0\neth0: 3000 0 0 0 0 0 0 0 1000 0\n")
    machine.file("proc/vmstat", "pgfault 500\n")
    machine.file("proc/softirqs", "   CPU0 CPU1\n NET_TX: 2 0\n NET_RX: 4 6\n  BLOCK: 0 0\n")
    machine.file("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2500000")
    features = collector.collect().features
    assert features["disk_read_bytes"] == 400 * 512 / 2
    assert features["disk_written_bytes"] == 40 * 512 / 2
    assert (features["network_received_bytes"], features["network_sent_bytes"]) == (1500, 500)
    assert features["page_faults"] == 250
    assert features["bpf_net_rx_irq"] == 5
    assert features["bpf_block_irq"] == 0
    assert features["memory_used_bytes"] == 8 * 2**30


def test_clock_of_the_cpus(machine):
    for number, khz in enumerate((1_000_000, 3_000_000)):
        machine.file(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", khz)
    collector = machine.collector()
    collector.collect()
    machine.run(1.0)
    assert collector.collect().features["cpu_scaling_frequency_hertz"] == 2e9


def test_cpus_come_and_go(machine):
    collector = machine.collector()
    collector.collect()
    del machine.ticks[3]
    machine.run(1.0, load=0.5)
    observation = collector.collect()
    assert observation.load == pytest.approx(0.5)
    assert observation.features["bpf_cpu_time_ms"] == pytest.approx(1500)
    machine.ticks[3] = dict.fromkeys(machine.ticks[0], 0)
    machine.run(1.0, load=0.5)
    assert collector.collect().features["bpf_cpu_time_ms"] == pytest.approx(1500)
    machine.run(1.0, load=0.5)
    assert collector.collect().features["bpf_cpu_time_ms"] == pytest.approx(2000)


def test_counters_that_fall(machine):
    collector = machine.collector()
    collector.collect()
    machine.ticks[0]["iowait"] -= 50  # the Linux kernel sometimes decreases the counter `iowait`
    machine.ticks[1] = dict.fromkeys(machine.ticks[1], 0)  # all counters of CPU 1 are reset to 0
    machine.switches = -100
    machine.run(1.0, load=1.0)
    observation = collector.collect()
    assert observation.load == pytest.approx(1.0)
    assert observation.features["bpf_cpu_time_ms"] == pytest.approx(3000)
    assert any("1 CPUs" in problem for problem in observation.problems)


def test_fallen_counter_of_a_disk_is_missing(machine):
    machine.file("proc/diskstats", " 8 0 sda 1 0 400 0 1 0 40 0 0 0 0\n")
    collector = machine.collector()
    collector.collect()
    machine.run(1.0)
    machine.file("proc/diskstats", " 8 0 sda 1 0 3 0 1 0 80 0 0 0 0\n")
    observation = collector.collect()
    assert "disk_read_bytes" not in observation.features
    assert observation.features["disk_written_bytes"] == 40 * 512
    assert any("disk_read_bytes" in problem for problem in observation.problems)


@pytest.mark.parametrize(
    ("suspended", "still", "reason"),
    [(30.0, 0.0, "suspended for 30.0 s"), (0.0, 20.0, "stood still for about 20.0 s"), (0.0, 4000.0, "longer than")],
)
def test_period_with_a_pause_has_no_features(machine, suspended, still, reason):
    collector = machine.collector()
    collector.collect()
    machine.run(1.0, load=0.5)
    machine.suspended += suspended
    machine.now += still
    observation = collector.collect()
    assert not observation.features
    assert observation.load is None
    assert any(reason in problem for problem in observation.problems)
    machine.run(1.0, load=0.5)
    assert collector.collect().load == pytest.approx(0.5)


def test_short_period_is_added_to_the_next_one(machine):
    collector = machine.collector()
    collector.collect()
    machine.run(0.02, load=1.0)
    assert not collector.collect().features
    machine.run(0.98, load=1.0)
    observation = collector.collect()
    assert observation.seconds == pytest.approx(1.0)
    assert observation.load == pytest.approx(1.0)


def test_file_that_lxcfs_mounts_is_not_the_machine(machine):
    machine.file(
        "proc/self/mountinfo",
        "25 1 0:22 / /proc rw - proc proc rw\n90 25 0:50 /proc/stat /proc/stat rw,nosuid - fuse.lxcfs lxcfs rw\n",
    )
    collector = machine.collector()
    collector.collect()
    machine.run(1.0, load=1.0)
    observation = collector.collect()
    assert "bpf_cpu_time_ms" not in observation.features
    assert observation.load is None
    assert "memory_used_bytes" in observation.features
    assert any("fuse.lxcfs" in problem for problem in observation.problems)


def test_network_of_a_container_is_missing(machine):
    (machine.root / "sys/class/net/eth0/device").rmdir()
    collector = machine.collector()
    collector.collect()
    machine.run(1.0)
    observation = collector.collect()
    assert "network_sent_bytes" not in observation.features
    assert any("interfaces of this container" in problem for problem in observation.problems)


def test_network_of_the_machine_below_a_folder(machine):
    machine.file("proc/1/net/dev", "h\n h\neth9: 0 0 0 0 0 0 0 0 0 0\n")
    collector = machine.collector()
    collector.collect()
    machine.run(1.0)
    machine.file("proc/1/net/dev", "h\n h\neth9: 7 0 0 0 0 0 0 0 9 0\n")
    assert collector.collect().features["network_sent_bytes"] == 9


def test_hidden_files_are_named(machine):
    machine.file("proc/stat", "")
    (machine.root / "proc/stat").write_bytes(b"")
    (machine.root / "proc/vmstat").unlink()
    collector = machine.collector()
    observation = collector.collect()
    assert any("/proc/stat is empty" in problem for problem in observation.problems)
    assert any("/proc/vmstat: No such file" in problem for problem in observation.problems)


def test_machine_without_proc(tmp_path):
    with pytest.raises(CollectorError, match="not mounted"):
        ProcfsCollector(str(tmp_path)).open()


def test_sandbox_that_measures_nothing():
    with pytest.raises(CollectorError, match="does not measure CPU time"):
        parse_stat(b"cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")


def test_old_kernel_has_fewer_modes():
    times = parse_stat(b"cpu  1 2 3 4\ncpu0 1 2 3 4\nintr 9 1 2\nctxt 5\n")
    assert times.cpus == {0: (1, 2, 3, 4, 0, 0, 0, 0, 0, 0)}
    assert (times.interrupts, times.context_switches) == (9, 5)


_LINE = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda name, numbers: name + b" " + b" ".join(b"%d" % number for number in numbers),
        st.sampled_from([b"cpu", b"cpu0", b"cpu1", b"cpu99999999999", b"ctxt", b"intr"]),
        st.lists(st.integers(-(2**70), 2**70), max_size=12),
    ),
)


@given(st.lists(st.lists(_LINE, max_size=8), min_size=2, max_size=2), st.floats(0.05, 1e4))
def test_malformed_lines_never_give_impossible_values(contents, seconds):
    samples = []
    for lines in contents:
        try:
            samples.append(parse_stat(b"\n".join(lines)))
        except CollectorError:
            samples.append(CpuTimes({0: (0,) * 10}))
    usage = usage_between(samples[0], samples[1], seconds, 100.0)
    assert all(math.isfinite(value) and value >= 0 for value in usage.seconds.values())
    assert usage.user >= 0
    assert usage.busy <= usage.total
    if usage.cpus and -1 not in samples[1].cpus:
        assert usage.total <= usage.cpus * (1.5 * seconds + 0.5) + 1e-6


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_malformed_files_never_break_the_collector(tmp_path_factory, first, second):
    machine = SyntheticMachine(tmp_path_factory.mktemp("machine"))
    collector = machine.collector()
    collector.collect()
    machine.run(1.0, load=0.5)
    for name in ("proc/vmstat", "proc/softirqs", "proc/net/dev", "proc/diskstats", "proc/meminfo"):
        (machine.root / name).write_bytes(first)
    collector.collect()
    machine.run(1.0, load=0.5)
    for name in ("proc/vmstat", "proc/softirqs", "proc/net/dev", "proc/diskstats", "proc/meminfo"):
        (machine.root / name).write_bytes(second)
    observation = collector.collect()
    collector.close()
    assert all(math.isfinite(value) and value >= 0 for value in observation.features.values())
    assert set(observation.features) <= set(ProcfsCollector.provides)


def test_contract_on_this_machine():
    check_collector("procfs")
