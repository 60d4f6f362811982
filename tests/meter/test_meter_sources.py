"""Tests of the meter's sources of measured power, on synthetic machines."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic_machine import SyntheticMachine

from kepler_core.errors import MeterError
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_plugins.outputs.powercap import PowercapOutput
from kepler_servers.meter.sources.hwmon import HwmonSource
from kepler_servers.meter.sources.msr import MsrSource
from kepler_servers.meter.sources.powercap import PowercapSource, ProvidedTreeSource
from kepler_servers.meter.sources.sensor_check import FROZEN_SECONDS

RANGE = 262_143_328_850


@pytest.fixture
def machine(tmp_path):
    return SyntheticMachine(tmp_path, cpus=4, sockets=2)


def zone(machine, name, label, microjoules, span=RANGE, tree="sys/class/powercap"):
    if label:
        machine.file(f"{tree}/{name}/name", label)
    machine.file(f"{tree}/{name}/max_energy_range_uj", span)
    machine.file(f"{tree}/{name}/energy_uj", microjoules)


def add(machine, name, microjoules, tree="sys/class/powercap"):
    file = machine.root / tree / name / "energy_uj"
    machine.file(f"{tree}/{name}/energy_uj", (int(file.read_text()) + round(microjoules)) % RANGE)


def observation(machine, load=0.5):
    return Observation(1.7e9 + machine.now, 1.0, {"bpf_cpu_time_ms": 1.0}, load)


def powercap(machine, **arguments):
    return PowercapSource(machine.root, clock=machine.monotonic, **arguments)


def watts(reading):
    return {component: power.watts for component, power in reading.power.items()}


def test_sockets_are_added_and_counters_wrap(machine):
    zone(machine, "intel-rapl:0", "package-0", RANGE - 10_000_000)
    zone(machine, "intel-rapl:0:0", "dram", 5)
    zone(machine, "intel-rapl:1", "package-1", 7)
    zone(machine, "intel-rapl:1:0", "dram", 5)
    zone(machine, "intel-rapl-mmio:0", "package-0", 9)
    source = powercap(machine)
    assert source.read(observation(machine)) is None
    machine.now += 2
    for name, joules in (("intel-rapl:0", 60), ("intel-rapl:1", 40), ("intel-rapl:0:0", 8), ("intel-rapl:1:0", 6)):
        add(machine, name, joules * 1e6)
    reading = source.read(observation(machine))
    source.close()
    assert watts(reading) == pytest.approx({"package": 50.0, "dram": 7.0})
    assert reading.main == "package"
    assert (reading.provenance.kind, reading.provenance.name) == ("measured", "powercap")
    assert reading.power["package"].lower == pytest.approx(47.5)


def test_own_trees_are_never_read(machine):
    zone(machine, "kepler-core:formula", "package-0", 1)
    with pytest.raises(MeterError, match="published by Kepler Core"):
        powercap(machine).read(observation(machine))
    zone(machine, "intel-rapl:0", "package-0", 1)
    with pytest.raises(MeterError, match="no zones"):
        powercap(machine, own_trees=[machine.root / "sys/class/powercap"]).read(observation(machine))


def test_counter_that_stands_still_is_no_meter(machine):
    zone(machine, "intel-rapl:0", "package-0", 4711)
    source = powercap(machine)
    assert source.read(observation(machine)) is None
    machine.now += 1
    assert source.read(observation(machine)) is None
    machine.now += 3
    with pytest.raises(MeterError, match="stands still"):
        source.read(observation(machine))


def test_counter_that_changes_every_second(machine):
    """The power is right even if the meter reads a counter more often than it changes, e.g. QEMU's virtual RAPL."""
    zone(machine, "intel-rapl:0", "package-0", 1)
    source = powercap(machine)
    source.read(observation(machine))
    powers = []
    for step in range(1, 31):
        machine.now += 0.1
        if step % 10 == 0:
            add(machine, "intel-rapl:0", 20e6)
        if (reading := source.read(observation(machine))) is not None:
            powers.append(reading.power["package"].watts)
    assert powers
    assert powers == pytest.approx([20.0] * len(powers))


@pytest.mark.parametrize("microjoules", [86, 2e10])
def test_impossible_power_is_no_measurement(machine, microjoules):
    zone(machine, "intel-rapl:0", "package-0", 1)
    source = powercap(machine)
    source.read(observation(machine))
    machine.now += 1
    add(machine, "intel-rapl:0", microjoules)
    with pytest.raises(MeterError, match="no machine draws"):
        source.read(observation(machine))


def test_uncore_that_stands_still_does_not_hide_the_package(machine):
    zone(machine, "intel-rapl:0", "package-0", 1)
    zone(machine, "intel-rapl:0:1", "uncore", 0)
    source = powercap(machine)
    source.read(observation(machine))
    for _ in range(6):
        machine.now += 1
        add(machine, "intel-rapl:0", 30e6)
        reading = source.read(observation(machine))
    assert watts(reading) == pytest.approx({"package": 30.0})


def test_counter_after_a_long_pause_is_not_guessed(machine):
    zone(machine, "intel-rapl:0", "package-0", 1, span=65_000_000)
    source = powercap(machine)
    source.read(observation(machine))
    machine.now += 100
    machine.file("sys/class/powercap/intel-rapl:0/energy_uj", 50_000_000)
    assert source.read(observation(machine)) is None


def test_unreadable_counter_names_what_helps(machine, monkeypatch):
    zone(machine, "intel-rapl:0", "package-0", 1)
    if os.geteuid() == 0:
        # Root can read every file, so the test simulates the kernel's refusal.
        def refuse(path, flags, *rest):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("kepler_core.kernel_files.os.open", refuse)
    else:
        (machine.root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    with pytest.raises(MeterError, match=r"CAP_DAC_READ_SEARCH.*chmod a\+r"):
        powercap(machine).read(observation(machine))


def test_tree_of_scaphandre(machine):
    """The power is right with Scaphandre's files: only `energy_uj` exists for a zone, and changes every 5 s."""
    machine.file("var/scaphandre/intel-rapl:0/energy_uj", 1000)
    file = machine.root / "var/scaphandre/intel-rapl:0/energy_uj"
    source = ProvidedTreeSource(machine.root, clock=machine.monotonic)
    powers = []
    for second in range(1, 41):
        machine.now += 1
        if second % 5 == 2:
            add(machine, "intel-rapl:0", 15e6, tree="var/scaphandre")
        if second == 33:
            content = file.read_bytes()
            file.write_bytes(b"")
            reading = source.read(observation(machine))
            file.write_bytes(content)
        if (reading := source.read(observation(machine))) is not None:
            powers.append(reading.power["package"].watts)
    assert len(powers) > 25
    assert powers == pytest.approx([3.0] * len(powers))
    assert reading.provenance.name == "provided"
    machine.now += 31
    with pytest.raises(MeterError, match="stands still"):
        source.read(observation(machine))


def published(tmp_path, kind, name):
    """Publish a reading of 5 W as powercap files for Scaphandre. Return the `PowercapOutput` that wrote the files."""
    output = PowercapOutput(str(tmp_path / "tree"), scaphandre=True)
    output.open()
    reading = Reading(1.7e9, {"package": Power(5.0, 4.0, 6.0)}, Provenance(kind, name))
    output.write(reading, {"package": 1.0})
    return output


@pytest.mark.parametrize(("kind", "name"), [("formula", "formula"), ("measured", "provided")])
def test_estimates_that_a_meter_publishes_are_not_read(machine, tmp_path, kind, name):
    output = published(tmp_path, kind, name)
    for source in (
        ProvidedTreeSource(machine.root, folder=output.folder),
        PowercapSource(machine.root, folder=output.folder),
    ):
        with pytest.raises(MeterError, match="not a measurement"):
            source.read(observation(machine))
    output.close()


def test_measurement_of_a_host_is_read_by_its_guest(machine, tmp_path):
    output = published(tmp_path, "measured", "powercap")
    source = ProvidedTreeSource(machine.root, folder=output.folder, clock=machine.monotonic)
    for second in range(1, 20):
        machine.now += 1
        output.advance({"package": 1.0 + 5.0 * second})
        reading = source.read(observation(machine))
    output.close()
    assert watts(reading) == pytest.approx({"package": 5.0})


_CONTENT = st.one_of(st.binary(max_size=30), st.integers(0, 2**70).map(lambda value: b"%d\n" % value))


@given(st.lists(_CONTENT, min_size=1, max_size=6), _CONTENT, st.floats(0.01, 1000))
def test_malformed_counters_never_give_impossible_watts(tmp_path_factory, contents, span, seconds):
    machine = SyntheticMachine(tmp_path_factory.mktemp("machine"), cpus=1)
    zone(machine, "intel-rapl:0", "package-0", 1)
    sensor(machine, "hwmon0", "power_meter", power1_average=1)
    (machine.root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").write_bytes(span)
    sources = (powercap(machine), HwmonSource(machine.root, clock=machine.monotonic))
    for content in contents:
        machine.now += seconds
        for name in ("powercap/intel-rapl:0/energy_uj", "hwmon/hwmon0/power1_average"):
            (machine.root / "sys/class" / name).write_bytes(content)
        for source in sources:
            try:
                reading = source.read(observation(machine))
            except MeterError:
                continue
            powers = [] if reading is None else list(reading.power.values())
            assert all(0.05 <= power.watts <= 10_000 and power.lower <= power.upper for power in powers)
    for source in sources:
        source.close()


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_malformed_names_of_zones_and_sensors_are_ignored(tmp_path_factory, name, label):
    machine = SyntheticMachine(tmp_path_factory.mktemp("machine"), cpus=1)
    for folder, file, content in (
        ("powercap/intel-rapl:0", "name", name),
        ("powercap/intel-rapl:0", "energy_uj", b"1"),
        ("hwmon/hwmon0", "name", name),
        ("hwmon/hwmon0", "power1_label", label),
        ("hwmon/hwmon0", "power1_input", b"50000000"),
    ):
        path = machine.root / "sys/class" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for source in (PowercapSource(machine.root), HwmonSource(machine.root), ProvidedTreeSource(machine.root)):
        with contextlib.suppress(MeterError):
            source.read(observation(machine))
        source.close()


def sensor(machine, chip, name, **files):
    machine.file(f"sys/class/hwmon/{chip}/name", name)
    for file, text in files.items():
        machine.file(f"sys/class/hwmon/{chip}/{file}", text)


def test_acpi_power_meter_is_the_platform(machine):
    sensor(machine, "hwmon0", "power_meter", power1_average=182_000_000, power1_input=1)
    sensor(machine, "hwmon1", "amdgpu", power1_average=90_000_000)
    sensor(machine, "hwmon2", "kepler_core", power1_input=7_000_000, power1_label="package")
    reading = HwmonSource(machine.root, clock=machine.monotonic).read(observation(machine))
    assert watts(reading) == {"platform": 182.0}


def test_grace_and_ampere_sensors(tmp_path):
    grace = SyntheticMachine(tmp_path / "grace")
    for number, (label, microwatts) in enumerate(
        [("Module Power Socket 0", 300e6), ("Module Power Socket 1", 310e6), ("CPU Power Socket 0", 120e6)]
    ):
        sensor(grace, f"hwmon{number}", "power_meter", power1_average=int(microwatts), power1_oem_info=label)
    assert watts(HwmonSource(grace.root).read(observation(grace))) == {"platform": 610.0, "core": 120.0}
    ampere = SyntheticMachine(tmp_path / "ampere")
    sensor(ampere, "hwmon0", "apm_xgene", power1_input=61_000_000, power1_label="CPU power")
    assert watts(HwmonSource(ampere.root).read(observation(ampere))) == {"package": 61.0}


def test_energy_sensors_of_amd(machine):
    sensor(machine, "hwmon0", "amd_energy", energy1_input=1, energy1_label="Ecore000", energy2_input=1)
    machine.file("sys/class/hwmon/hwmon0/energy2_label", "Esocket0")
    source = HwmonSource(machine.root, clock=machine.monotonic)
    assert source.read(observation(machine)) is None
    machine.now += 2
    machine.file("sys/class/hwmon/hwmon0/energy1_input", 20_000_001)
    machine.file("sys/class/hwmon/hwmon0/energy2_input", 180_000_001)
    assert watts(source.read(observation(machine))) == pytest.approx({"package": 90.0, "core": 10.0})


def test_sensor_that_does_not_follow_the_load(machine):
    sensor(machine, "hwmon0", "power_meter", power1_average=182_000_000)
    source = HwmonSource(machine.root, clock=machine.monotonic)
    source.read(observation(machine, load=0.1))
    machine.now += FROZEN_SECONDS + 1
    assert source.read(observation(machine, load=0.1)) is not None
    with pytest.raises(MeterError, match="although the load changes"):
        source.read(observation(machine, load=0.9))


def test_disabled_and_zero_sensors_do_not_measure(machine):
    sensor(machine, "hwmon0", "power_meter", power1_average=182_000_000, power1_enable=0)
    with pytest.raises(MeterError, match="no power sensor"):
        HwmonSource(machine.root).read(observation(machine))
    machine.file("sys/class/hwmon/hwmon0/power1_enable", 1)
    machine.file("sys/class/hwmon/hwmon0/power1_average", 0)
    with pytest.raises(MeterError, match="no machine draws"):
        HwmonSource(machine.root).read(observation(machine))


def registers(machine, cpu, values):
    path = machine.root / f"dev/cpu/{cpu}/msr"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for number, value in values.items():
        os.pwrite(descriptor, value.to_bytes(8, "little"), number)
    os.close(descriptor)


def test_registers_of_two_sockets(machine):
    unit = 14 << 8  # 2^-14 J
    for cpu in (0, 2):
        registers(machine, cpu, {0x606: unit, 0x611: 2**32 - 1, 0x619: 0})
    source = MsrSource(machine.root, clock=machine.monotonic)
    assert source.read(observation(machine)) is None
    machine.now += 1
    registers(machine, 0, {0x611: 50 * 2**14 - 1, 0x619: 4 * 2**16})
    registers(machine, 2, {0x611: 30 * 2**14 - 1, 0x619: 3 * 2**16})
    assert watts(source.read(observation(machine))) == pytest.approx({"package": 80.0, "dram": 7.0}, rel=1e-4)
    source.close()


def test_registers_of_amd(tmp_path):
    machine = SyntheticMachine(tmp_path, model="AMD EPYC 7763 64-Core Processor")
    registers(machine, 0, {0xC0010299: 16 << 8, 0xC001029B: 5})
    source = MsrSource(machine.root, clock=machine.monotonic)
    source.read(observation(machine))
    machine.now += 2
    registers(machine, 0, {0xC001029B: 5 + 2**16 * 240})
    assert watts(source.read(observation(machine))) == pytest.approx({"package": 120.0}, rel=1e-4)
    source.close()


def test_missing_registers_name_the_module(machine):
    with pytest.raises(MeterError, match="modprobe msr"):
        MsrSource(machine.root).read(observation(machine))
