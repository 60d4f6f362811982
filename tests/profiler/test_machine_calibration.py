"""Tests of factors that make the intervals of machine models narrower (known processors) or wider (new hardware)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from kepler_core.errors import ModelError
from kepler_core.honesty.document import IntervalTerms
from kepler_profiler.machine_calibration import (
    IntervalFactors,
    MachineRows,
    interval_factors,
    processor_of,
    read_factors,
)
from kepler_profiler.machine_description import MachineDescription
from kepler_profiler.machine_pipeline import ARGUMENTS, TRAINER
from kepler_profiler.machine_tables import MeasuredMachine

LOADS = np.linspace(0, 1, 5)
TERMS = IntervalTerms(
    lowest=0.0, highest=2000.0, edges=[], quantiles=[0.1], session=0.0, machine_idle=0.3, machine_loaded=0.3, noise=0.0,
    machine_measured=True,
)  # fmt: skip
SMALL: dict[str, Any] = {**ARGUMENTS, "extra_trees": 10, "boosted_trees": 60, "min_samples_leaf": 1}


def machines(drift: float = 0.0) -> list[MeasuredMachine]:
    """Return three configurations of each of 60 processors.

    Each processor's power has a random factor of 1 to 1.5. After 2011, it is higher by the fraction `drift`.
    """
    random = np.random.default_rng(5)
    result = []
    for number in range(60):
        own, year = random.uniform(1, 1.5), 2008 + number // 10
        for configuration in range(3):
            description = MachineDescription(
                threads=16, cores=8, chips=1, tdp_watts=60.0 + number, memory_gib=32.0 * (configuration + 1), year=year,
                vendor="intel",
            )  # fmt: skip
            watts = 100 * own * (0.4 + LOADS) * (1 + drift * (year > 2011))
            result.append(MeasuredMachine(f"{number}-{configuration}", description, LOADS, watts, {}, {}))
    return result


def measured(table: list[MeasuredMachine]) -> IntervalFactors:
    rows = MachineRows.of(table, (), with_idle=False, basic=True)
    nodes = [machine.name.split("-")[0] for machine in table]
    return interval_factors(table, nodes, rows, TERMS, TRAINER, SMALL)


def test_known_processors_have_a_narrower_interval() -> None:
    table = machines()
    factors = measured(table)
    assert factors.known < 0.6
    assert len(factors.processors) == 60
    assert all(factors.has(machine.description) for machine in table)
    assert not factors.has(MachineDescription(threads=16, cores=8, chips=1, tdp_watts=59.0))
    assert not factors.has(MachineDescription(threads=16))
    two_chips = MachineDescription(threads=32, cores=16, chips=2, tdp_watts=60.0, vendor="intel")
    assert factors.has(two_chips), "the number of chips is not part of the processor"


def test_newer_hardware_has_a_wider_interval_if_power_changes_with_the_years() -> None:
    steady, drifting = (measured(machines(drift)).newer for drift in (0.0, 1.5))
    assert steady is not None
    assert drifting is not None
    assert drifting > 1.3 * steady
    assert measured(machines(1.5)[:30]).newer is None, "too few machines"


def test_a_processor_is_known_only_with_its_thermal_design_power() -> None:
    assert processor_of(MachineDescription(threads=64, cores=32, chips=2, tdp_watts=150.0, vendor="amd")) == (
        150.0, 16.0, 2.0, "amd",
    )  # fmt: skip
    assert processor_of(MachineDescription(threads=64)) is None


@given(st.one_of(st.binary(max_size=100), st.recursive(
    st.one_of(st.none(), st.floats(), st.text(max_size=5), st.integers()),
    lambda inner: st.dictionaries(st.sampled_from(["layout", "processors", "known", "newer"]), inner),
).map(msgspec.json.encode)))  # fmt: skip
def test_any_file_is_factors_or_an_error(content: bytes) -> None:
    try:
        factors = read_factors(content)
    except ModelError:
        return
    assert factors.layout == 1
    assert 0 < factors.known <= 10


def test_an_error_names_the_file() -> None:
    with pytest.raises(ModelError, match=r"machine_intervals\.json: .*known"):
        read_factors(b'{"layout": 1, "processors": [], "known": 0, "newer": null}')
