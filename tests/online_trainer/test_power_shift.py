"""Test that power shifts are found, and that they change the watts of older samples."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from support.online_trainer import observe_part

from kepler_core.simulate import START, Simulation, recording
from kepler_servers.online_trainer.power_shift import Line, PowerShift, shift_watts
from kepler_servers.online_trainer.shift_detection import find_shifts

PACKAGE = ("rapl-sysfs", "package")


@pytest.mark.parametrize(
    "simulation",
    [
        Simulation(containers=6, timestamps=600, sockets=1, resets=0, workloads=3, accelerator=False),
        Simulation(containers=6, timestamps=600, sockets=1, accelerator=False, seed=2),
    ],
    ids=["workloads one after another", "mixed workloads"],
)
def test_a_new_workload_is_no_power_shift(simulation: Simulation) -> None:
    assert find_shifts(observe_part(recording(simulation), 0, 1800)) == []


def test_a_power_shift_is_found_and_older_samples_follow() -> None:
    content = recording(Simulation(containers=6, timestamps=800, sockets=1, shift_at=0.8, accelerator=False, seed=1))
    observations = observe_part(content, 0, 2400)
    (shift,) = find_shifts(observations)
    assert abs(shift.since - START - 0.8 * 2400) <= 30
    shifted = shift_watts(observations, [shift])
    before = observations.sample_time < shift.since
    ratio = shifted.power[PACKAGE][before] / observations.power[PACKAGE][before]
    np.testing.assert_allclose(np.nanmean(ratio), 1.15, rtol=0.03)
    np.testing.assert_array_equal(shifted.power[PACKAGE][~before], observations.power[PACKAGE][~before])
    assert find_shifts(shifted) == []


def test_a_shift_of_another_node_changes_nothing() -> None:
    observations = observe_part(recording(Simulation(containers=1, timestamps=20, sockets=1)), 0, 60)
    shift = PowerShift("another node", 0.0, {"rapl-sysfs.package": Line(2.0, 0.0)}, 30)
    np.testing.assert_array_equal(shift_watts(observations, [shift]).power[PACKAGE], observations.power[PACKAGE])
