"""Test that the online trainer leaves out fetched values that the sample store cannot represent."""

from __future__ import annotations

import numpy as np

from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_servers.online_trainer.fetching import without_long_windows


def test_power_of_seldom_renewed_meters_is_left_out() -> None:
    """The platform's power is left out, because its meter has a new reading only at every third scrape."""
    simulation = Simulation(containers=3, timestamps=120, resets=0, faults=("meter-renewed-seldom",), severity=1)
    observations = observe([read_recording(recording(simulation), name="x")])
    assert set(observations.windows) == {"acpi"}
    assert np.isfinite(observations.power["acpi", "platform"]).any()
    fetched = without_long_windows(observations)
    assert not fetched.windows
    assert not np.isfinite(fetched.power["acpi", "platform"]).any()
    np.testing.assert_array_equal(fetched.power["rapl-sysfs", "package"], observations.power["rapl-sysfs", "package"])
