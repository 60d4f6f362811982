"""Test recordings with restarts, gaps, and renamed labels or metrics in the middle."""

from __future__ import annotations

import numpy as np
import pytest
from support.exporter_documents import CONTAINERS, FEATURES, TIMES, machine, observed, variation


def test_power_is_unknown_in_the_interval_of_a_restart() -> None:
    document = machine()
    for all_series in document.values():
        for series in all_series:
            before = float(series["values"][19][1])
            series["values"] = series["values"][:20] + [[t, repr(float(v) - before)] for t, v in series["values"][20:]]
    observations = observed(document)
    assert observations.counts.resets == {
        **{f"kepler_container_{feature}_total": len(CONTAINERS) for feature in FEATURES},
        "kepler_node_package_joules_total": 4,
        "kepler_node_dram_joules_total": 2,
        "kepler_node_platform_joules_total": 2,
    }
    rates = observations.node_features["cpu_instructions"]
    np.testing.assert_allclose(rates[1:], 4.5e6 * variation(TIMES)[1:], rtol=1e-6)
    # After a restart, an energy counter shows only the energy since the restart. The energy between the previous
    # sample and the restart is not known, so the power at index 20 is not known.
    power = observations.power["acpi", "platform"]
    assert np.flatnonzero(np.isnan(power)).tolist() == [0, 20]
    is_known = np.isfinite(power)
    np.testing.assert_allclose(power[is_known], 120 * variation(TIMES)[is_known], rtol=1e-6)


@pytest.mark.parametrize("label", ["pod", "pod_name", "command"])
def test_a_container_whose_labels_change_stays_one_container(label: str) -> None:
    document = machine()
    for metric in [name for name in document if "container" in name]:
        document[metric] = [
            {"metric": {**series["metric"], **new}, "values": values}
            for series in document[metric]
            for new, values in (({}, series["values"][:20]), ({label: "new"}, series["values"][20:]))
        ]
    observations = observed(document)
    assert sorted(observations.containers) == sorted(CONTAINERS)
    assert observations.counts.duplicates == {}
    rates = observations.node_features["bpf_cpu_time_ms"]
    assert np.flatnonzero(np.isnan(rates)).tolist() == [0, 20]  # at index 20, new series begin
    is_known = np.isfinite(rates)
    np.testing.assert_allclose(rates[is_known], 4.5 * variation(TIMES)[is_known], rtol=1e-9)


def test_gaps_are_left_out_and_counted() -> None:
    times = np.delete(TIMES, np.arange(10, 20))
    observations = observed(machine(times=times))
    at = int(np.flatnonzero(times == TIMES[20])[0])
    assert np.flatnonzero(np.isnan(observations.power["acpi", "platform"])).tolist() == [0, at]
    assert observations.counts.gaps["kepler_node_platform_joules_total"] == 2
    assert observations.counts.gaps["kepler_container_cache_miss_total"] == len(CONTAINERS)


def test_old_and_new_feature_names_in_one_recording_are_one_feature() -> None:
    document = machine()
    new = "kepler_container_bpf_cpu_time_ms_total"
    old = "kepler_container_bpf_cpu_time_us_total"
    document[old] = [{"metric": series["metric"], "values": series["values"][:20]} for series in document[new]]
    document[new] = [{"metric": series["metric"], "values": series["values"][20:]} for series in document[new]]
    rates = observed(document).node_features["bpf_cpu_time_ms"]
    is_known = np.isfinite(rates)
    assert np.flatnonzero(~is_known).tolist() == [0, 20]
    np.testing.assert_allclose(rates[is_known], 4.5 * variation(TIMES)[is_known], rtol=1e-9)


def test_old_and_new_energy_names_in_one_recording_are_one_component() -> None:
    document = machine()
    new, old = "kepler_node_platform_joules_total", "kepler_node_platform_joules"
    document[old] = [{"metric": series["metric"], "values": series["values"][:20]} for series in document[new]]
    document[new] = [{"metric": series["metric"], "values": series["values"][20:]} for series in document[new]]
    watts = observed(document).power["acpi", "platform"]
    is_known = np.isfinite(watts)
    assert np.flatnonzero(~is_known).tolist() == [0, 20]
    np.testing.assert_allclose(watts[is_known], 120 * variation(TIMES)[is_known], rtol=1e-9)
