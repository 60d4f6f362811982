"""Tests of the folders of energy counters that the meter writes for QEMU guests, on simulated hosts."""

from __future__ import annotations

import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.qemu_host import QemuHost, qemu
from support.readings import reading, zones_of

from kepler_core.metering import Observation, Power
from kepler_servers.meter.energy import EnergyCounters
from kepler_servers.meter.per_vm import PerVmOutput, guest_shares, idle_part
from kepler_servers.meter.qemu_guests import Guest, GuestScanner


@pytest.fixture
def host(tmp_path: Path) -> QemuHost:
    return QemuHost(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "name", "cpus"),
    [
        (("/usr/bin/qemu-system-x86_64", "-name", "guest=vm-a,debug-threads=on", "-smp", "4,sockets=1"), "vm-a", 4),
        (("/usr/libexec/qemu-kvm", "-name", "vm-b", "-smp", "cpus=8,maxcpus=16"), "vm-b", 8),
        (("/usr/bin/kvm", "-id", "100", "--uuid", "1111-22"), "1111-22", 1),
        (("qemu-system-aarch64", "-smp", "no number"), "pid-7", 1),
        (("/usr/bin/kvm", "-name", "../../etc/a b", "-smp", "2"), "etc-a-b", 2),
    ],
)
def test_guests_are_found_by_their_command_lines(
    host: QemuHost, arguments: tuple[str, ...], name: str, cpus: int
) -> None:
    host.start(7, *arguments)
    host.use(7, 12.5)
    host.start(8, "/usr/bin/python3", "/usr/bin/qemu-system-x86_64")
    host.start(9)
    assert GuestScanner(str(host.root)).guests() == [Guest(7, 1000, name, cpus, 12.5)]


@given(arguments=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_every_guest_has_a_safe_folder_name(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> None:
    host = QemuHost(tmp_path_factory.mktemp("host"))
    host.start(7, "/usr/bin/kvm", "-name", *arguments, "-smp", *arguments)
    (guest,) = GuestScanner(str(host.root)).guests()
    assert Path(guest.name).name == guest.name
    assert 0 < len(guest.name) <= 100
    assert not guest.name.startswith(".")
    assert 1 <= guest.cpus <= 4096


def test_a_process_that_becomes_a_guest_is_found(host: QemuHost) -> None:
    """The scanner finds a process that becomes QEMU only after its start, like the processes of libvirt.

    If another process gets the same process id, the scanner drops the guest.
    """
    scanner = GuestScanner(str(host.root))
    host.start(7, "/usr/sbin/libvirtd")
    assert scanner.guests() == []
    host.start(7, *qemu("vm-a", 2))
    assert any(scanner.guests() for _ in range(10))
    host.start(7, "/usr/bin/python3", started=2000)
    assert scanner.guests() == [], "another process has the number now"


def test_shares_add_up_to_one_with_every_idle_part() -> None:
    guests = [Guest(pid, 1, f"vm-{pid}", cpus, seconds) for pid, cpus, seconds in ((1, 2, 5.0), (2, 6, 20.0))]
    before = {1: attrs.evolve(guests[0], cpu_seconds=4.0), 2: attrs.evolve(guests[1], cpu_seconds=17.0)}
    assert guest_shares(guests, before, 0.0) == pytest.approx([0.25, 0.75])
    assert guest_shares(guests, before, 1.0) == pytest.approx([0.25, 0.75])
    before[2] = attrs.evolve(guests[1], cpu_seconds=19.0)
    assert guest_shares(guests, before, 0.5) == pytest.approx([0.375, 0.625])
    assert guest_shares(guests, {}, 0.5) == pytest.approx([0.25, 0.75]), "no guest has used CPU time yet"
    before[2] = Guest(2, 0, "vm-2", 6, 0.0)
    assert guest_shares(guests, before, 0.0) == pytest.approx([1.0, 0.0]), "process 2 was another one before"
    assert guest_shares([], {}, 0.5) == []


def test_the_idle_part_is_that_of_the_reading_or_of_the_cpus() -> None:
    host = reading(package=100.0)
    assert idle_part(attrs.evolve(host, idle=Power(40.0, 30.0, 50.0))) == pytest.approx(0.4)
    observation = Observation(time=0.0, seconds=1.0, features={}, load=0.3, steal=0.1)
    assert idle_part(attrs.evolve(host, observation=observation)) == pytest.approx(0.6)
    assert idle_part(host) == 1.0


def test_the_trees_of_six_guests_add_up_to_the_host(host: QemuHost, tmp_path: Path) -> None:
    """Guests do random work, and one guest is restarted. In the end, the sum of their counters is the host's energy."""
    rng = random.Random(1)
    output = PerVmOutput(str(tmp_path / "guests"), str(host.root))
    output.open()
    for pid in range(1, 7):
        host.start(pid, *qemu(f"vm-{pid}", pid))
    energy = EnergyCounters()
    for second in range(60):
        watts = {"package": rng.uniform(50, 150), "dram": rng.uniform(5, 20)}
        energy.set_power(watts, second)
        idle = Power(45.0, 40.0, 50.0)
        output.write(attrs.evolve(reading(**watts), idle=idle), energy.at(second))
        for tenth in range(1, 10):
            output.advance(energy.at(second + tenth / 10))
        for pid in range(1, 7):
            if second != 30 or pid != 3:
                host.use(pid, rng.choice([0.0, 0.25, pid * 0.5]))
        if second == 30:
            host.end(3)
            host.start(3, *qemu("vm-3", 3), started=9000)
    output.advance(energy.at(60))
    trees = {path.name: zones_of(path) for path in (tmp_path / "guests").iterdir()}
    assert sorted(trees) == [f"vm-{pid}" for pid in range(1, 7)]
    for zone, component in (("package-0", "package"), ("dram", "dram")):
        total = sum(zones[zone] for zones in trees.values()) / 1e6
        assert total == pytest.approx(energy.at(60)[component], rel=0.01)
        assert all(zones[zone] > 1_000_000 for zones in trees.values())
    output.close()


def test_the_tree_of_a_guest_that_has_ended_is_withdrawn(host: QemuHost, tmp_path: Path) -> None:
    output = PerVmOutput(str(tmp_path / "guests"), str(host.root))
    output.open()
    host.start(1, *qemu("vm-1", 2))
    host.start(2, *qemu("vm-2", 2))
    output.write(reading(package=100.0), {"package": 0.0})
    output.write(reading(package=100.0), {"package": 100.0})
    host.end(2)
    output.write(reading(package=100.0), {"package": 200.0})
    counters = {path.parents[3].name for path in (tmp_path / "guests").rglob("energy_uj")}
    assert counters == {"vm-1"}
    host.start(2, *qemu("vm-2", 2), started=5000)
    output.write(reading(package=100.0), {"package": 300.0})
    assert zones_of(tmp_path / "guests" / "vm-2") == {"package-0": 100_000_000}, "the counter continues"
    assert zones_of(tmp_path / "guests" / "vm-1") == {"package-0": 200_000_000}
    output.withdraw("the meter is broken")
    assert list((tmp_path / "guests").rglob("energy_uj")) == []
    output.close()


def test_values_of_a_killed_process_are_withdrawn(host: QemuHost, tmp_path: Path) -> None:
    killed = PerVmOutput(str(tmp_path / "guests"), str(host.root))
    killed.open()
    host.start(1, *qemu("vm-1", 2))
    killed.write(reading(package=100.0), {"package": 0.0})
    for tree in killed._trees.values():
        tree.output._lock.release()  # type: ignore[attr-defined]  # the kernel releases the locks of a killed process
    host.end(1)
    output = PerVmOutput(str(tmp_path / "guests"), str(host.root))
    output.open()
    assert list((tmp_path / "guests").rglob("energy_uj")) == []
    output.close()


def test_one_guest_without_a_tree_does_not_stop_the_other_ones(
    host: QemuHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = PerVmOutput(str(tmp_path / "guests"), str(host.root))
    output.open()
    (tmp_path / "guests" / "vm-1").write_text("not a folder")
    host.start(1, *qemu("vm-1", 2))
    host.start(2, *qemu("vm-2", 2))
    output.write(reading(package=100.0), {"package": 0.0})
    output.advance({"package": 100.0})
    assert zones_of(tmp_path / "guests" / "vm-2") == {"package-0": 100_000_000}
    assert "guest vm-1 gets no power: cannot write" in caplog.text
    output.close()
