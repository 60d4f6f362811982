"""Tests of the machine formula, which estimates the watts of a machine that was never measured.

The tests vary the load, the known facts and the kind of machine, and divide the watts of a host among its guests.
"""

from __future__ import annotations

import math
import subprocess
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import UsageError
from kepler_core.json_files import indented_json
from kepler_profiler.formula import (
    Estimate,
    GuestPower,
    MachineDescription,
    NoEstimate,
    estimate,
    guest_share,
    package_watts,
)
from kepler_profiler.formula_document import FormulaError, decode_formula, published_formula

SERVER = MachineDescription(
    threads=96, cores=48, chips=2, tdp_watts=165, memory_gib=192, year=2019, vendor="intel"
)  # fmt: skip


def result_of(machine: MachineDescription, load: float, idle_watts: float | None = None) -> Estimate:
    result = estimate(machine, load, idle_watts=idle_watts)
    assert isinstance(result, Estimate)
    return result


def width(result: Estimate | GuestPower) -> float:
    return math.log(result.upper / result.lower)


@st.composite
def machines(draw: st.DrawFn) -> MachineDescription:
    threads = draw(st.integers(1, 65_536))
    cores = draw(st.none() | st.integers(1, threads))
    return MachineDescription(
        threads=threads,
        cores=cores,
        chips=draw(st.none() | st.integers(1, min(cores or threads, 256))),
        tdp_watts=draw(st.none() | st.floats(1, 5_000)),
        memory_gib=draw(st.none() | st.floats(0.25, 1_048_576)),
        year=draw(st.none() | st.integers(1990, 2100)),
        vendor=draw(st.sampled_from([None, "intel", "amd", "arm", "", "ibm"])),
        client=draw(st.booleans()),
    )


@given(machines(), st.floats(0, 1), st.floats(0, 1))
def test_every_machine_gets_rising_power_within_its_interval_or_a_reason(
    machine: MachineDescription, one: float, other: float
) -> None:
    lower, higher = (estimate(machine, load) for load in sorted((one, other)))
    if isinstance(lower, NoEstimate) or isinstance(higher, NoEstimate):
        assert isinstance(lower, NoEstimate)
        assert lower.reasons
        return
    assert 0 < lower.idle <= lower.watts <= higher.watts <= higher.full * (1 + 1e-12)
    for result in (lower, higher):
        assert 0 < result.lower < result.watts < result.upper < math.inf


@given(machines(), st.floats(0, 1), st.floats(0.5, 50_000))
def test_a_stated_idle_power_is_kept_or_contradicted(machine: MachineDescription, load: float, idle: float) -> None:
    result = estimate(machine, load, idle_watts=idle)
    if isinstance(result, Estimate):
        assert result.idle == idle
        assert idle * 0.96 < result.lower < result.watts < result.upper


def test_a_known_idle_power_makes_the_interval_narrower() -> None:
    unknown = result_of(SERVER, 0.5)
    known = result_of(SERVER, 0.5, idle_watts=unknown.idle)
    assert width(known) < 0.7 * width(unknown)
    assert width(result_of(SERVER, 0.0, idle_watts=90)) < 0.1


@pytest.mark.parametrize("missing", ["tdp_watts", "memory_gib", "year"])
def test_a_missing_fact_makes_the_interval_wider_and_is_named(missing: str) -> None:
    facts = {name: getattr(SERVER, name) for name in ("threads", "cores", "chips", "tdp_watts", "memory_gib", "year")}
    result = result_of(MachineDescription(**{**facts, missing: None}, vendor="intel"), 0.5)
    assert width(result) > width(result_of(SERVER, 0.5))
    assert any("is not known" in reason for reason in result.reasons)


@pytest.mark.parametrize(
    ("machine", "error_class"),
    [
        (MachineDescription(threads=80, cores=80, chips=1, tdp_watts=210, memory_gib=512, vendor="ampere"), "other"),
        (MachineDescription(threads=600, cores=300, chips=1, tdp_watts=500, memory_gib=768, vendor="amd"), "newer"),
        (
            MachineDescription(threads=8, cores=4, chips=1, tdp_watts=15, memory_gib=16, vendor="intel", client=True),
            "laptop",
        ),
        (
            MachineDescription(threads=512, cores=256, chips=16, tdp_watts=150, memory_gib=4096, vendor="intel"),
            "unusual",
        ),
        (MachineDescription(threads=64), "other"),
    ],
)
def test_machines_unlike_the_measured_ones_get_wide_intervals(machine: MachineDescription, error_class: str) -> None:
    result = result_of(machine, 0.3)
    assert result.error_class == error_class
    assert width(result) > 1.1 * width(result_of(SERVER, 0.3))
    assert any("measured" in reason for reason in result.reasons)


@pytest.mark.parametrize("vendor", ["arm", None])
def test_a_small_machine_that_may_be_a_board_gets_no_estimate(vendor: str | None) -> None:
    board = MachineDescription(threads=4, memory_gib=4, vendor=vendor)
    assert isinstance(estimate(board, 0.5), NoEstimate)
    assert isinstance(estimate(attrs.evolve(board, tdp_watts=6), 0.5), Estimate)
    assert isinstance(estimate(attrs.evolve(board, vendor="intel"), 0.5), Estimate)


def test_a_machine_that_cannot_exist_gets_no_estimate() -> None:
    giant = estimate(MachineDescription(threads=65_536, chips=256, tdp_watts=5_000, memory_gib=64, vendor="intel"), 0.5)
    assert isinstance(giant, NoEstimate)
    contradiction = estimate(SERVER, 0.5, idle_watts=4_000)
    assert isinstance(contradiction, NoEstimate)
    assert "4000 W" in contradiction.reasons[0]


@pytest.mark.parametrize(
    ("facts", "key"),
    [
        ({"threads": 0}, "threads"),
        ({"threads": 4, "cores": 8}, "cores"),
        ({"threads": 4, "cores": 4, "chips": 8}, "chips"),
        ({"threads": 4, "tdp_watts": math.nan}, "tdp_watts"),
        ({"threads": 4, "memory_gib": math.inf}, "memory_gib"),
        ({"threads": 4, "year": 12}, "year"),
    ],
)
def test_impossible_facts_are_rejected(facts: dict[str, float], key: str) -> None:
    with pytest.raises(UsageError) as error:
        MachineDescription(**facts)  # type: ignore[arg-type]
    assert error.value.path == (key,)


@pytest.mark.parametrize("load", [-0.01, 1.01, math.nan, math.inf])
def test_an_impossible_load_is_rejected(load: float) -> None:
    with pytest.raises(UsageError, match="is not a load"):
        estimate(SERVER, load)


def test_the_package_is_a_part_of_the_machine() -> None:
    whole = result_of(SERVER, 0.6)
    package = package_watts(whole)
    assert 0 < package.lower < package.watts < package.upper <= whole.upper
    assert package.watts < whole.watts
    assert width(package) > width(whole)


def test_guests_that_fill_a_host_sum_up_to_the_host() -> None:
    host = result_of(SERVER, 0.5)
    guests = [guest_share(SERVER, 24, 0.5, host_load=0.5) for _ in range(4)]
    assert all(isinstance(guest, GuestPower) for guest in guests)
    assert sum(guest.watts for guest in guests if isinstance(guest, GuestPower)) == pytest.approx(host.watts)


def test_an_unknown_load_of_the_host_widens_the_interval_of_a_guest() -> None:
    unknown, known = guest_share(SERVER, 4, 0.8), guest_share(SERVER, 4, 0.8, host_load=0.5)
    assert isinstance(unknown, GuestPower)
    assert isinstance(known, GuestPower)
    assert width(unknown) > 1.1 * width(known)
    for load in (0.1, 0.3, 0.9):
        possible = guest_share(SERVER, 4, 0.8, host_load=load)
        assert isinstance(possible, GuestPower)
        assert unknown.lower <= possible.watts <= unknown.upper
    assert any("0.72" in reason for reason in unknown.reasons)


def test_the_convention_decides_about_idle_power() -> None:
    reserved = guest_share(SERVER, 48, 0.0, host_load=0.2)
    none = guest_share(SERVER, 48, 0.0, host_load=0.2, idle_share="none")
    assert isinstance(reserved, GuestPower)
    assert isinstance(none, GuestPower)
    assert reserved.watts == reserved.idle == pytest.approx(result_of(SERVER, 0).idle / 2)
    assert (none.watts, none.idle, none.idle_share) == (0.0, 0.0, "none")


def test_a_guest_cannot_be_larger_than_its_host() -> None:
    result = guest_share(SERVER, 97, 0.5)
    assert isinstance(result, NoEstimate)
    assert "97 virtual CPUs" in result.reasons[0]
    with pytest.raises(UsageError, match="0 virtual CPUs"):
        guest_share(SERVER, 0, 0.5)


def test_a_damaged_file_of_coefficients_is_rejected() -> None:
    content = indented_json(published_formula())
    assert decode_formula(content, "f.json") == published_formula()
    for damaged in (
        content[:-9],
        content.replace(b'"layout": 1', b'"layout": 2'),
        content.replace(b"0.", b"1e300"),
        b"[]",
    ):
        with pytest.raises(FormulaError, match=r"f\.json"):
            decode_formula(damaged, "f.json")


def test_the_formula_needs_no_library_of_the_training() -> None:
    program = (
        "import sys; from kepler_profiler.formula import *; from kepler_profiler.processors import lookup; lookup('x');"
        "estimate(MachineDescription(threads=4), 0.5);"
        "print([m for m in ('pandas', 'sklearn', 'matplotlib', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
