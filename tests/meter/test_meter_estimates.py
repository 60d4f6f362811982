"""Tests of power sources that estimate watts: a model from a store, and a formula for machines without a model."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise

import attrs
import pytest
from support.linear_models import LinearModel, publish
from support.paths import SHARED
from support.synthetic_machine import SyntheticMachine

from kepler_core.errors import MeterError, UsageError
from kepler_core.machine import MachineSpec
from kepler_core.metering import Observation
from kepler_servers.estimator.configured_providers import model_request_url, store_provider
from kepler_servers.meter.settings import MeterSettings, build_chain, build_collectors
from kepler_servers.meter.sources.following import FollowingSource
from kepler_servers.meter.sources.formula import FormulaSource
from kepler_servers.meter.sources.model import UNSTATED_ERROR, ModelSource
from kepler_servers.meter.this_machine import MachineWatch, ThisMachine, this_machine

XEON = "intel_xeon_platinum_8259cl"
HOST = {"processor": XEON, "cores": 96, "chips": 2, "memory": 384}
GENOA = "AMD EPYC"


def observation(load=0.5, steal=0.0, features=None):
    return Observation(1.7e9, 1.0, features or {"bpf_cpu_time_ms": 1000.0}, load, steal)


def formula(machine, load=0.5, **arguments):
    return FormulaSource(machine, **arguments).read(observation(load))


def platform(reading):
    return reading.power["platform"]


# --- the machine ----------------------------------------------------------------------------------


def test_server_is_its_own_host(tmp_path):
    SyntheticMachine(tmp_path, cpus=96, sockets=2)
    machine = this_machine(tmp_path)
    assert machine.virtual is None
    assert machine.hosts[0].chips == 2
    assert machine.hosts[0].year == 2019
    assert machine.shares == (1.0, 1.0)
    assert "Platinum 8259CL" in machine.description


def test_guest_of_amazon_knows_its_host(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=8, virtual=True)
    machine.file("sys/class/dmi/id/sys_vendor", "Amazon EC2")
    machine.file("sys/class/dmi/id/product_name", "m5.2xlarge")
    guest = this_machine(tmp_path)
    assert guest.instance == "m5.2xlarge"
    assert guest.hosts[0].threads == 96
    assert guest.shares == (8 / 96, 8 / 96)


def test_guest_that_sees_its_processor(tmp_path):
    SyntheticMachine(tmp_path, cpus=4, virtual=True)
    guest = this_machine(tmp_path)
    assert len(guest.hosts) == 1
    assert guest.hosts[0].threads == 96
    assert "sockets are assumed" in guest.description


def test_guest_on_a_laptop_has_one_socket(tmp_path):
    SyntheticMachine(tmp_path, cpus=2, virtual=True, model="Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz")
    guest = this_machine(tmp_path)
    assert guest.hosts[0].chips == 1
    assert guest.shares == (2 / 8, 2 / 8)


def test_guest_that_sees_only_numbers(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=2, virtual=True, model=GENOA)
    machine.file("proc/cpuinfo", (tmp_path / "proc/cpuinfo").read_text().replace("85", "17").replace(": 6", ": 25"))
    guest = this_machine(tmp_path)
    assert "zen4" in guest.description
    assert len(guest.hosts) > 5


def test_guest_that_sees_nothing(tmp_path):
    SyntheticMachine(tmp_path, cpus=2, virtual=True, model="QEMU Virtual CPU version 2.5+")
    guest = this_machine(tmp_path)
    assert "unknown server processor" in guest.description
    assert len(guest.hosts) > 20


def test_unknown_instance_has_close_matches(tmp_path):
    SyntheticMachine(tmp_path, virtual=True)
    with pytest.raises(UsageError, match="not in the table"):
        this_machine(tmp_path, instance="mm55.large")


def test_instance_with_another_processor_is_refused(tmp_path):
    SyntheticMachine(tmp_path, virtual=True, model=GENOA)
    with pytest.raises(UsageError, match="its hosts have Intel Xeon"):
        this_machine(tmp_path, instance="m5.large")


def test_watch_notices_another_processor(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=4, virtual=True)
    watch = MachineWatch(tmp_path, lambda: this_machine(tmp_path), clock=machine.monotonic)
    source = FollowingSource(FormulaSource, watch)
    before = platform(source.read(observation(1.0)))
    machine.now += 100
    machine.file("proc/cpuinfo", (tmp_path / "proc/cpuinfo").read_text().replace("Platinum 8259CL", "E5-2676 v3"))
    machine.now += 1
    assert watch.has_changed()
    after = platform(source.read(observation(1.0)))
    assert "E5-2676 v3" in watch.machine.description
    assert after.watts != before.watts
    machine.now += 100
    assert not watch.has_changed()


def test_watch_follows_the_number_of_cpus(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=4, virtual=True)
    watch = MachineWatch(tmp_path, lambda: this_machine(tmp_path), clock=machine.monotonic)
    machine.now += 100
    machine.file("sys/devices/system/cpu/online", "0-7")
    assert watch.has_changed()
    assert watch.machine.spec.cores == 8


# --- the formula ----------------------------------------------------------------------------------


def test_formula_of_a_server_rises_with_the_load(tmp_path):
    SyntheticMachine(tmp_path, cpus=96, sockets=2)
    machine = this_machine(tmp_path)
    source = FormulaSource(machine)
    watts = [platform(source.read(observation(load))).watts for load in (0, 0.1, 0.33, 0.5, 0.9, 1)]
    assert watts == sorted(watts)
    assert 20 < watts[0] < watts[-1] < 900
    reading = source.read(observation(0.33))
    assert reading.idle.watts == pytest.approx(watts[0])
    assert reading.full.watts == pytest.approx(watts[-1])
    assert (reading.provenance.kind, reading.idle_share) == ("formula", "all")
    assert reading.power["platform"].lower < watts[2] < reading.power["platform"].upper


def test_known_idle_power_narrows_the_interval(tmp_path):
    SyntheticMachine(tmp_path, cpus=96, sockets=2)
    machine = this_machine(tmp_path)
    plain = platform(formula(machine, 0.1))
    known = platform(formula(machine, 0.1, idle_watts=120.0))
    assert (known.upper - known.lower) / known.watts < 0.6 * (plain.upper - plain.lower) / plain.watts


def test_guest_gets_its_share_of_the_idle_power(tmp_path):
    SyntheticMachine(tmp_path, cpus=4, virtual=True)
    guest = this_machine(tmp_path)
    reserved, none = formula(guest, 0.0), formula(guest, 0.0, idle_share="none")
    assert reserved.idle_share == "reservation"
    assert 1 < platform(reserved).watts < 20
    assert platform(none).watts == 0


def test_guest_that_knows_less_has_a_wider_interval(tmp_path):
    SyntheticMachine(tmp_path / "known", cpus=2, virtual=True)
    SyntheticMachine(tmp_path / "hidden", cpus=2, virtual=True, model="QEMU Virtual CPU version 2.5+")
    known, hidden = (platform(formula(this_machine(tmp_path / name))) for name in ("known", "hidden"))
    assert hidden.upper / hidden.lower > known.upper / known.lower


def intervals_of_a_guest(folder, steals, pause_before=()):
    """Return the readings of a guest with full load, one for each second. Before some readings, there is a pause."""
    SyntheticMachine(folder, cpus=4, virtual=True)
    source, readings, now = FormulaSource(this_machine(folder)), [], 1.7e9
    for number, steal in enumerate(steals):
        now += 301.0 if number in pause_before else 1.0
        readings.append(source.read(attrs.evolve(observation(1.0, steal), time=now)))
    return readings


def test_busy_host_narrows_the_interval_of_a_guest_slowly(tmp_path):
    readings = intervals_of_a_guest(tmp_path, [0.0] + [0.2] * 70)
    uppers = [platform(reading).upper for reading in readings]
    assert uppers == sorted(uppers, reverse=True)
    steps = [before - after for before, after in pairwise(uppers)]
    assert max(steps) < 0.03 * (uppers[0] - uppers[-1])
    assert uppers[-1] < 0.8 * uppers[0]
    assert len(set(uppers[60:])) == 1
    assert "the host is busy" in readings[-1].provenance.description
    assert len({reading.provenance for reading in readings}) == 2, "the description does not change each second"
    assert len({round(platform(reading).watts, 6) for reading in readings}) == 1


def test_interval_of_a_guest_widens_at_once(tmp_path):
    readings = intervals_of_a_guest(tmp_path, [0.0] + [0.2] * 70 + [0.0, 0.2])
    widest, narrow, after, next_one = (platform(readings[at]).upper for at in (0, -3, -2, -1))
    assert after == pytest.approx(widest)
    assert narrow < next_one <= widest


def test_steal_time_that_comes_and_goes_does_not_move_the_interval(tmp_path):
    readings = intervals_of_a_guest(tmp_path, [0.0, 0.2, 0.0, 0.05, 0.1, 0.0] * 5)
    uppers = [platform(reading).upper for reading in readings]
    assert max(uppers) < 1.03 * min(uppers)


def test_the_time_before_a_pause_does_not_count_as_busy(tmp_path):
    readings = intervals_of_a_guest(tmp_path, [0.2] * 80, pause_before={70})
    assert platform(readings[69]).upper < platform(readings[70]).upper
    assert platform(readings[70]).upper == pytest.approx(platform(readings[0]).upper)


def test_hidden_load_gives_the_range_from_idle_to_full(tmp_path):
    SyntheticMachine(tmp_path, cpus=96, sockets=2)
    source = FormulaSource(this_machine(tmp_path))
    reading = source.read(observation(load=None))
    assert platform(reading).lower == pytest.approx(reading.idle.lower)
    assert platform(reading).upper == pytest.approx(reading.full.upper)


def test_period_without_features_has_no_power(tmp_path):
    SyntheticMachine(tmp_path)
    source = FormulaSource(this_machine(tmp_path))
    assert source.read(Observation(1.7e9, 0.0, {})) is None
    with pytest.raises(MeterError, match="was suspended"):
        source.read(Observation(1.7e9, 5.0, {}, problems=("the machine was suspended for 9 s",)))


@pytest.mark.parametrize("case", ["rpi4_32bit", "rpi4_64bit_sys"])
def test_board_that_was_never_measured_has_no_estimate(case):
    root = SHARED / "cases" / "machines" / case
    if not root.exists():
        pytest.skip(f"{root} does not exist")
    with pytest.raises(MeterError, match=r"no measured machine is like this one.*cortex_a72"):
        FormulaSource(this_machine(root)).read(observation())


def test_unknown_small_processor_may_be_a_mini_computer(tmp_path):
    SyntheticMachine(tmp_path / "n100", cpus=4, model="Intel(R) N100000")
    SyntheticMachine(tmp_path / "xeon", cpus=4, model="Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz")
    unknown, known = (platform(formula(this_machine(tmp_path / name), 0.0)) for name in ("n100", "xeon"))
    assert unknown.lower < 10
    assert unknown.upper / unknown.lower > 3 * known.upper / known.lower


def test_machine_without_a_number_of_cpus(tmp_path):
    source = FormulaSource(this_machine(tmp_path))
    with pytest.raises(MeterError, match="--machine-spec"):
        source.read(observation())


# --- models ---------------------------------------------------------------------------------------

MODEL = LinearModel(
    group="CPUTime", features=("bpf_cpu_time_ms",), watts={"package": (40.0, {"bpf_cpu_time_ms": 0.002})}
)


def model_source(store, machine, **arguments):
    return ModelSource([store_provider(str(store))], machine, host_name="node7", **arguments)


def wait_for_reading(source, observation):
    for _ in range(400):
        if (reading := source.read(observation)) is not None:
            return reading
        time.sleep(0.02)
    raise AssertionError("no model was loaded")


def host(cores=96, virtual=None):
    return ThisMachine(MachineSpec(**{**HOST, "cores": cores}), virtual, (), "")


def test_model_of_the_store(tmp_path):
    publish(tmp_path, MODEL, machine=HOST)
    source = model_source(tmp_path, host())
    reading = wait_for_reading(source, observation(features={"bpf_cpu_time_ms": 5000.0, "page_faults": 1.0}))
    source.close()
    package = reading.power["package"]
    assert package.watts == pytest.approx(50.0)
    assert package.upper - package.watts == pytest.approx(UNSTATED_ERROR * 50)
    assert reading.idle.watts == pytest.approx(40.0)
    assert (reading.provenance.kind, reading.provenance.version) == ("model", "1")
    assert "made/rapl-sysfs/AbsPower/CPUTime" in reading.provenance.name


def test_model_of_the_host_on_a_guest(tmp_path):
    publish(tmp_path, MODEL, machine=HOST)
    for idle_share, idle in (("reservation", 40 * 24 / 96), ("none", 0.0)):
        source = model_source(tmp_path, host(24, "KVM"), idle_share=idle_share)
        reading = wait_for_reading(source, observation(features={"bpf_cpu_time_ms": 5000.0}))
        source.close()
        assert reading.power["package"].watts == pytest.approx(idle + 10.0)
        assert reading.idle.watts == pytest.approx(idle)
        assert reading.power["package"].upper > idle + 17
        assert reading.idle_share == idle_share


def test_guest_prefers_a_model_of_virtual_machines(tmp_path):
    publish(tmp_path, MODEL, machine=HOST)
    own = attrs.evolve(MODEL, source="vm-kepler", watts={"package": (1.0, {"bpf_cpu_time_ms": 0.001})})
    publish(tmp_path, own, name="guests", machine={**HOST, "cores": 4})
    source = model_source(tmp_path, host(4, "KVM"), idle_share="none")
    reading = wait_for_reading(source, observation(features={"bpf_cpu_time_ms": 2000.0}))
    source.close()
    assert reading.power["package"].watts == pytest.approx(3.0)
    assert "guests/vm-kepler" in reading.provenance.name
    assert reading.idle_share == "reservation"
    # a physical machine never gets the model of a virtual machine
    source = model_source(tmp_path, host())
    reading = wait_for_reading(source, observation(features={"bpf_cpu_time_ms": 2000.0}))
    source.close()
    assert reading.power["package"].watts == pytest.approx(44.0)


def test_known_idle_power_shifts_a_model(tmp_path):
    publish(tmp_path, MODEL, machine=HOST)
    source = model_source(tmp_path, host(), idle_watts={"package": 30.0})
    assert wait_for_reading(source, observation(features={"bpf_cpu_time_ms": 5000.0})).power[
        "package"
    ].watts == pytest.approx(40.0)
    source.close()


def test_store_that_goes_away_keeps_the_loaded_model(tmp_path):
    publish(tmp_path / "store", MODEL, machine=HOST)
    source = model_source(tmp_path / "store", host())
    now = observation(features={"bpf_cpu_time_ms": 5000.0})
    wait_for_reading(source, now)
    shutil.rmtree(tmp_path / "store")
    # With other features, the source searches the store for another model. This search fails.
    more = observation(features={"bpf_cpu_time_ms": 5000.0, "page_faults": 1.0})
    assert wait_for_reading(source, more).power["package"].watts == pytest.approx(50.0)
    source.close()


def test_store_without_a_fitting_model(tmp_path):
    publish(tmp_path, LinearModel(), machine=HOST)
    source = model_source(tmp_path, host())
    with pytest.raises(MeterError):
        wait_for_reading(source, observation())
    source.close()


def test_model_of_another_machine_is_not_used(tmp_path):
    publish(tmp_path, MODEL, machine={"processor": "arm_neoverse_n1", "cores": 4, "chips": 1, "memory": 8})
    source = model_source(tmp_path, host())
    with pytest.raises(MeterError, match="another machine"):
        wait_for_reading(source, observation())
    source.close()


@pytest.mark.parametrize("virtual", [None, "KVM"])
def test_model_of_an_unknown_machine_is_not_used(tmp_path, virtual):
    publish(tmp_path, MODEL, machine={})
    source = model_source(tmp_path, host(2, virtual))
    with pytest.raises(MeterError, match="train with --machine-spec"):
        wait_for_reading(source, observation())
    source.close()


# --- settings -------------------------------------------------------------------------------------


def test_chain_prefers_a_meter_to_a_model_to_the_formula(tmp_path):
    machine = SyntheticMachine(tmp_path / "root", cpus=96, sockets=2)
    publish(tmp_path / "store", MODEL, machine=HOST)
    settings = MeterSettings(root=str(machine.root), store=str(tmp_path / "store"))
    chain = build_chain(settings)
    collectors = build_collectors(settings)
    collectors.open()
    for _ in range(40):
        collectors.collect()
        time.sleep(0.06)
        machine.run(0.06, load=0.5)
        try:
            reading = chain.reading(collectors.collect())
        except MeterError:
            continue
        if reading.provenance.kind == "model":
            break
    assert reading.provenance.kind == "model"
    assert any(problem.startswith("powercap: ") for problem in chain.problems)
    chain.close()
    collectors.close()


def test_wrong_settings_name_the_right_ones(tmp_path):
    SyntheticMachine(tmp_path)
    with pytest.raises(UsageError, match="did you mean powercap"):
        build_chain(MeterSettings(root=str(tmp_path), sources=["powercp"]))
    with pytest.raises(UsageError, match="no power source is left"):
        build_chain(MeterSettings(root=str(tmp_path), sources=["model"]))
    with pytest.raises(UsageError, match="http://host:port"):
        model_request_url("ftp://x", None, "--model-server")
