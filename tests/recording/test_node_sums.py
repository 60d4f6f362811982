"""Test that the rates and watts of a node are sums over its containers, modes and sockets."""

from __future__ import annotations

import numpy as np
import pytest
from support.exporter_documents import (
    CONTAINERS,
    DRAM_IS_DYNAMIC_ONLY,
    FEATURES,
    TIMES,
    counter,
    machine,
    merged,
    observed,
    rates_by_container,
    series_of,
    variation,
)

from kepler_core.recording import observe, read_recording
from kepler_core.vocabulary import in_component_order


def test_features_are_summed_over_containers() -> None:
    observations = observed(machine())
    np.testing.assert_array_equal(observations.sample_time, TIMES)
    total = sum(CONTAINERS.values())
    for feature, unit in FEATURES.items():
        rates = observations.node_features[feature]
        assert np.isnan(rates[0])
        np.testing.assert_allclose(rates[1:], unit * total * variation(TIMES)[1:], rtol=1e-9)
    assert observations.counts.as_dict() == DRAM_IS_DYNAMIC_ONLY


def test_every_container_keeps_its_own_rate() -> None:
    observations = observed(machine())
    assert sorted(observations.containers) == sorted(CONTAINERS)
    expected = {
        ("node-a", time, name): share * factor
        for name, share in CONTAINERS.items()
        for time, factor in zip(TIMES.tolist()[1:], variation(TIMES)[1:], strict=True)
    }
    assert rates_by_container(observations, "bpf_cpu_time_ms") == pytest.approx(expected, rel=1e-9)


def test_power_is_summed_over_modes_and_packages() -> None:
    observations = observed(machine())
    assert observations.sources == {"acpi": ("platform",), "rapl-sysfs": ("package", "dram")}
    for (source, component), watts in {
        ("rapl-sysfs", "package"): 50.0,
        ("rapl-sysfs", "dram"): 7.0,
        ("acpi", "platform"): 120.0,
    }.items():
        power = observations.power[source, component]
        assert np.isnan(power[0])
        np.testing.assert_allclose(power[1:], watts * variation(TIMES)[1:], rtol=1e-9)


def test_power_of_two_meters_is_not_added_up() -> None:
    document = machine()
    document["kepler_node_package_joules_total"] += [
        series_of({**series["metric"], "source": "rapl-msr"}, TIMES, counter(1.0, TIMES))
        for series in document["kepler_node_package_joules_total"]
    ]
    observations = observed(document)
    np.testing.assert_allclose(observations.power["rapl-msr", "package"][1:], 4.0 * variation(TIMES)[1:])
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], 50.0 * variation(TIMES)[1:])


def test_power_is_unknown_where_a_package_is_missing() -> None:
    document = machine()
    for series in document["kepler_node_package_joules_total"]:
        if series["metric"]["package"] == "1":
            series["values"] = series["values"][:10] + series["values"][14:]
    observations = observed(document)
    is_known = np.isfinite(observations.power["rapl-sysfs", "package"])
    assert np.flatnonzero(~is_known).tolist() == [0, 10, 11, 12, 13]
    assert observations.counts.incomplete["rapl-sysfs package"] == 4
    assert np.isfinite(observations.power["rapl-sysfs", "dram"])[1:].all()


def test_a_sum_is_unknown_where_most_containers_have_no_rate() -> None:
    times = TIMES[20:]
    late = machine(times=times, containers={f"late-{at:060d}": 1.0 for at in range(5)})
    # The first values are high, because these counters have counted for a long time when their series begin.
    for metric in late:
        for series in late[metric] if "container" in metric else ():
            series["values"] = [[t, repr(float(v) + 1e15)] for t, v in series["values"]]
    document = merged(machine(), {name: late[name] for name in late if "container" in name})
    observations = observed(document)
    is_known = np.isfinite(observations.node_features["cpu_instructions"])
    assert np.flatnonzero(~is_known).tolist() == [0, 20]  # sample 20 is incomplete: 3 of 8 containers have a rate
    assert observations.counts.incomplete["cpu_instructions"] == 1


def test_a_sum_is_unknown_where_a_busy_container_has_no_rate_yet() -> None:
    """A new container that is busy has no rate at its first sample. The node's features are not known at this time."""
    document = machine(containers={"a" * 64: 0.01})
    begins = 10
    for name, all_series in machine(containers={"b" * 64: 5.0}).items():
        if name.startswith("kepler_container"):
            for series in all_series:
                series["values"] = series["values"][begins:]
            document[name] += all_series
    observations = observe([read_recording(document)])
    for feature in FEATURES:
        is_known = np.isfinite(observations.node_features[feature])
        assert not is_known[begins], feature
        assert is_known[1:begins].all()
        assert is_known[begins + 1 :].all()
    assert observations.counts.incomplete["cpu_instructions"] == 1


def test_the_frequency_is_the_mean_over_cpus() -> None:
    document = machine()
    document["kepler_node_cpu_scaling_frequency_hertz"] = [
        series_of({"instance": "node-a", "cpu": cpu}, TIMES, np.full(len(TIMES), hertz))
        for cpu, hertz in (("0", 1e9), ("1", 3e9))
    ]
    assert (observed(document).node_features["cpu_scaling_frequency_hertz"] == 2e9).all()


def test_components_are_in_the_order_of_the_vocabulary() -> None:
    assert in_component_order(["dram", "package", "platform", "core"]) == ("package", "core", "dram", "platform")
    assert in_component_order(["gpu", "dram", "fan", "package"]) == ("package", "dram", "gpu", "fan")
