"""What a recording says in our vocabulary: sums, nodes, duplicates, restarts; and data sets of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kepler_core.arrays import FloatArray
from kepler_core.errors import PluginError, RecordingError
from kepler_core.plugins import registry
from kepler_core.recording import Observations, check, observe, read_recording
from kepler_core.vocabulary import BASIC_FEATURES, FEATURE_GROUPS, RAPL_COMPONENTS

Document = dict[str, list[dict[str, Any]]]

START = 1_700_000_000
TIMES = START + 3.0 * np.arange(40)
FEATURES = {"bpf_cpu_time_ms": 1.0, "cpu_instructions": 1e6, "cache_miss": 1e3}
"""Feature -> its rate where a container's load is 1."""
WATTS = {
    ("package", "0", "idle"): 20.0,
    ("package", "0", "dynamic"): 7.0,
    ("package", "1", "idle"): 18.0,
    ("package", "1", "dynamic"): 5.0,
    ("dram", "0", "idle"): 4.0,
    ("dram", "1", "dynamic"): 3.0,
    ("platform", "", "idle"): 90.0,
    ("platform", "", "dynamic"): 30.0,
}
CONTAINERS = {"a" * 64: 1.0, "b" * 64: 3.0, "system_processes": 0.5}
DRAM_IS_DYNAMIC_ONLY = {"dynamic_only": {"rapl-sysfs dram": 1}}


def shape(times: FloatArray) -> FloatArray:
    """How load and power vary, so that a value at the wrong time is a wrong value."""
    return 1.0 + 0.1 * (np.round((times - START) / 3) % 7)


def counter(rate: float, times: FloatArray, start: float = 1000.0) -> FloatArray:
    """A counter of `rate` times `shape`: the rate at a sample is that over the interval before it."""
    return start + np.concatenate([[0.0], np.cumsum(rate * shape(times)[1:] * np.diff(times))])


def series(labels: Mapping[str, str], times: FloatArray, values: FloatArray) -> dict[str, Any]:
    return {
        "metric": dict(labels),
        "values": [[t, repr(v)] for t, v in zip(times.tolist(), values.tolist(), strict=True)],
    }


def machine(
    instance: str = "node-a",
    *,
    times: FloatArray = TIMES,
    containers: Mapping[str, float] = CONTAINERS,
    load: float = 1.0,
    start: float = 1000.0,
    **labels: str,
) -> Document:
    """What one exporter reports of one machine; `labels` are further labels of all its series."""
    exporter = {"instance": instance, "job": "kepler", "pod": "kepler-1", **labels}
    document: Document = {}
    for feature, unit in FEATURES.items():
        document[f"kepler_container_{feature}_total"] = [
            series(
                {**exporter, "container_id": name, "pod_name": f"pod-{name[:3]}"},
                times,
                counter(unit * load * share, times, start),
            )
            for name, share in containers.items()
        ]
    for (component, package, mode), watts in WATTS.items():
        source = {"source": "acpi" if component == "platform" else "rapl-sysfs", "mode": mode}
        document.setdefault(f"kepler_node_{component}_joules_total", []).append(
            series(
                {**exporter, **source, **({"package": package} if package else {})},
                times,
                counter(watts * load, times, start),
            )
        )
    return document


def merged(*documents: Document) -> Document:
    """What Prometheus returns where several exporters are scraped."""
    metrics = dict.fromkeys(metric for document in documents for metric in document)
    return {metric: [one for document in documents for one in document.get(metric, [])] for metric in metrics}


def observed(document: Document, **arguments: Any) -> Observations:
    return observe([read_recording(document, name="test")], **arguments)


def by_container(observations: Observations, feature: str) -> dict[tuple[str, float, str], float]:
    """(node, time, container) -> rate, where it is known."""
    instant = observations.row_sample
    nodes = [observations.streams[code].node for code in observations.sample_stream[instant]]
    times = observations.sample_time[instant].tolist()
    names = [observations.containers[code] for code in observations.row_container]
    rates = observations.container_features[feature].tolist()
    keys = list(zip(nodes, times, names, strict=True))
    assert len(set(keys)) == len(keys)
    return {key: rate for key, rate in zip(keys, rates, strict=True) if np.isfinite(rate)}


def assert_same(observations: Observations, expected: Observations) -> None:
    """The same rates and watts, exactly."""
    assert observations.streams == expected.streams
    assert observations.containers == expected.containers
    for name in ("sample_stream", "sample_time", "row_sample", "row_container"):
        np.testing.assert_array_equal(getattr(observations, name), getattr(expected, name))
    for name in ("container_features", "node_features", "power"):
        mine, theirs = getattr(observations, name), getattr(expected, name)
        assert mine.keys() == theirs.keys()
        for key in theirs:
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=str(key))


# --- sums -----------------------------------------------------------------------------------------


def test_features_are_summed_over_containers() -> None:
    observations = observed(machine())
    np.testing.assert_array_equal(observations.sample_time, TIMES)
    total = sum(CONTAINERS.values())
    for feature, unit in FEATURES.items():
        rates = observations.node_features[feature]
        assert np.isnan(rates[0])
        np.testing.assert_allclose(rates[1:], unit * total * shape(TIMES)[1:], rtol=1e-9)
    assert observations.counts.as_dict() == DRAM_IS_DYNAMIC_ONLY


def test_every_container_keeps_its_own_rate() -> None:
    observations = observed(machine())
    assert sorted(observations.containers) == sorted(CONTAINERS)
    expected = {
        ("node-a", time, name): share * factor
        for name, share in CONTAINERS.items()
        for time, factor in zip(TIMES.tolist()[1:], shape(TIMES)[1:], strict=True)
    }
    assert by_container(observations, "bpf_cpu_time_ms") == pytest.approx(expected, rel=1e-9)


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
        np.testing.assert_allclose(power[1:], watts * shape(TIMES)[1:], rtol=1e-9)


def test_two_meters_of_one_component_stay_apart() -> None:
    document = machine()
    document["kepler_node_package_joules_total"] += [
        series({**one["metric"], "source": "rapl-msr"}, TIMES, counter(1.0, TIMES))
        for one in document["kepler_node_package_joules_total"]
    ]
    observations = observed(document)
    np.testing.assert_allclose(observations.power["rapl-msr", "package"][1:], 4.0 * shape(TIMES)[1:])
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], 50.0 * shape(TIMES)[1:])


def test_power_is_not_known_where_a_package_is_missing() -> None:
    document = machine()
    for one in document["kepler_node_package_joules_total"]:
        if one["metric"]["package"] == "1":
            one["values"] = one["values"][:10] + one["values"][14:]
    observations = observed(document)
    known = np.isfinite(observations.power["rapl-sysfs", "package"])
    assert np.flatnonzero(~known).tolist() == [0, 10, 11, 12, 13]
    assert observations.counts.incomplete["rapl-sysfs package"] == 4
    assert np.isfinite(observations.power["rapl-sysfs", "dram"])[1:].all()


def test_a_sum_is_not_known_where_most_containers_have_no_rate() -> None:
    times = TIMES[20:]
    late = machine(times=times, containers={f"late-{at:060d}": 1.0 for at in range(5)})
    document = merged(machine(), {name: late[name] for name in late if "container" in name})
    observations = observed(document)
    known = np.isfinite(observations.node_features["cpu_instructions"])
    assert np.flatnonzero(~known).tolist() == [0, 20]  # at 20, only 3 of 8 containers have a rate
    assert observations.counts.incomplete["cpu_instructions"] == 1


def test_the_frequency_is_a_mean_and_no_rate() -> None:
    document = machine()
    document["kepler_node_cpu_scaling_frequency_hertz"] = [
        series({"instance": "node-a", "cpu": cpu}, TIMES, np.full(len(TIMES), hertz))
        for cpu, hertz in (("0", 1e9), ("1", 3e9))
    ]
    assert (observed(document).node_features["cpu_scaling_frequency_hertz"] == 2e9).all()


# --- several nodes --------------------------------------------------------------------------------


NODE_A = {"a" * 64: 1.0, "system": 0.5}
NODE_B = {"b" * 64: 2.0, "system": 0.7}


def test_nodes_stay_apart() -> None:
    first, second = machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=10.0)
    observations = observed(merged(first, second))
    assert [stream.node for stream in observations.streams] == ["node-a", "node-b"]
    alone, other = observed(first), observed(second)
    for code, expected in enumerate((alone, other)):
        mine = observations.sample_stream == code
        np.testing.assert_array_equal(observations.sample_time[mine], TIMES)
        for key, watts in expected.power.items():
            np.testing.assert_array_equal(observations.power[key][mine], watts)
        for feature, rates in expected.node_features.items():
            np.testing.assert_array_equal(observations.node_features[feature][mine], rates)
    rates = by_container(observations, "cpu_instructions")
    assert rates == by_container(alone, "cpu_instructions") | by_container(other, "cpu_instructions")


@pytest.mark.parametrize("name", ["system", "system_processes", "kernel_processes"])
def test_what_is_on_every_node_does_not_make_two_nodes_one(name: str) -> None:
    # Kepler counts what runs outside containers as "system_processes": only ids of containers are unique
    first = machine("node-a", containers={"a" * 64: 1.0, name: 0.5})
    second = machine("node-b", containers={"b" * 64: 2.0, name: 0.7})
    observations = observed(merged(first, second))
    assert len(observations.streams) == 2
    assert observations.counts.as_dict() == {"dynamic_only": {"rapl-sysfs dram": 2}}
    np.testing.assert_allclose(
        observations.node_features["bpf_cpu_time_ms"][observations.sample_stream == 1][1:], 2.7 * shape(TIMES)[1:]
    )


def later(document: dict[str, Any], seconds: int = 86400) -> dict[str, Any]:
    """The same a day later."""
    for series in document.values():
        for one in series:
            one["values"] = [[time + seconds, value] for time, value in one["values"]]
    return document


def test_one_node_at_one_time_in_two_recordings_is_refused() -> None:
    first, second = read_recording(machine(), name="Monday"), read_recording(later(machine(), 3), name="copy")
    with pytest.raises(RecordingError, match="Monday and copy both hold node 'node-a' at the same time"):
        observe([first, second])


def test_a_busy_container_without_a_rate_makes_the_sum_unknown() -> None:
    """A job that has just begun already draws power, but has no rate yet: no row may pair the two."""
    document = machine(containers={"a" * 64: 0.01})
    begins = 10
    for name, series in machine(containers={"b" * 64: 5.0}).items():
        if name.startswith("kepler_container"):
            for one in series:
                one["values"] = one["values"][begins:]
            document[name] += series
    observations = observe([read_recording(document)])
    for feature in FEATURES:
        known = np.isfinite(observations.node_features[feature])
        assert not known[begins], feature
        assert known[1:begins].all()
        assert known[begins + 1 :].all()
    assert observations.counts.incomplete["cpu_instructions"] == 1


def test_milliseconds_are_refused() -> None:
    document = machine()
    for series in document.values():
        for one in series:
            one["values"] = [[time * 1000, value] for time, value in one["values"]]
    with pytest.raises(RecordingError, match="not in Unix seconds \\(milliseconds"):
        read_recording(document)


def test_nodes_scraped_at_different_steps_both_count() -> None:
    document = machine("node-a", containers=NODE_A)
    slow = machine("node-b", containers=NODE_B)
    for series in slow.values():
        for one in series:
            one["values"] = [[time + 60 * at, value] for at, (time, value) in enumerate(one["values"])]
    observations = observe([read_recording(merged(document, slow))])
    assert not +observations.counts.gaps
    for code in (0, 1):
        assert np.isfinite(observations.power["acpi", "platform"][observations.sample_stream == code])[1:].all()


def test_recordings_stay_apart() -> None:
    first = read_recording(machine(), name="Monday")
    second = read_recording(later(machine(load=2.0)), name="Tuesday")
    observations = observe([first, second])
    assert [(stream.recording, stream.node) for stream in observations.streams] == [
        ("Monday", "node-a"),
        ("Tuesday", "node-a"),
    ]
    factor = shape(TIMES)[1:]
    for code, load in enumerate((1.0, 2.0)):
        watts = observations.power["acpi", "platform"][observations.sample_stream == code]
        np.testing.assert_allclose(watts[1:], 120.0 * load * factor, rtol=1e-9)
    assert np.all(np.diff(observations.row_sample) >= 0)


def test_recordings_with_different_metrics() -> None:
    first, second = machine(), machine(load=2.0)
    del first["kepler_node_dram_joules_total"]
    del second["kepler_container_cache_miss_total"]
    observations = observe([read_recording(first, name="Monday"), read_recording(later(second), name="Tuesday")])
    assert np.isnan(observations.power["rapl-sysfs", "dram"][observations.sample_stream == 0]).all()
    assert np.isfinite(observations.power["rapl-sysfs", "dram"][observations.sample_stream == 1])[1:].all()
    assert np.isnan(observations.node_features["cache_miss"][observations.sample_stream == 1]).all()


def test_the_same_recording_twice_is_refused() -> None:
    with pytest.raises(RecordingError, match="Monday: given twice"):
        observe([read_recording(machine(), name="Monday"), read_recording(machine(load=2), name="Monday")])
    with pytest.raises(RecordingError, match="Monday and Tuesday hold the same data"):
        observe([read_recording(machine(), name="Monday"), read_recording(machine(), name="Tuesday")])
    with pytest.raises(RecordingError):
        observe([])


def test_recordings_of_one_timestamp_each() -> None:
    once = [read_recording(machine(times=TIMES[at : at + 1]), name=str(at)) for at in range(2)]
    observations = observe(once)
    assert len(observations.sample_time) == 2
    assert np.isnan(observations.step)
    assert observations.sources == {}


# --- what is reported twice -----------------------------------------------------------------------


@pytest.mark.parametrize("label", ["job", "pod", "namespace", "service", "endpoint"])
def test_a_second_exporter_of_the_same_node_and_containers_is_never_added_up(label: str) -> None:
    first, second = machine(), machine(start=55.5, **{label: "another"})
    alone = observed(first)
    observations = observed(merged(first, second))
    assert_same(observations, alone)
    samples = len(TIMES) * len(CONTAINERS)
    assert {name: observations.counts.duplicates[name] for name in observations.counts.duplicates} == {
        **{f"kepler_container_{feature}_total": samples for feature in FEATURES},
        "kepler_node_package_joules_total": 4 * len(TIMES),
        "kepler_node_dram_joules_total": 2 * len(TIMES),
        "kepler_node_platform_joules_total": 2 * len(TIMES),
    }


def test_the_exporter_with_most_samples_stays_whichever_comes_first() -> None:
    full, half = machine(), machine(times=TIMES[20:], start=5.0, pod="kepler-2")
    alone = observed(full)
    assert_same(observed(merged(full, half)), alone)
    assert_same(observed(merged(half, full)), alone)


def test_the_second_exporter_goes_on_where_the_first_has_ended() -> None:
    first, second = machine(times=TIMES[:30]), machine(times=TIMES[20:], start=5.0, pod="kepler-2")
    observations = observed(merged(first, second))
    known = np.isfinite(observations.power["acpi", "platform"])
    assert np.flatnonzero(~known).tolist() == [0, 30]
    np.testing.assert_allclose(observations.power["acpi", "platform"][known], 120 * shape(TIMES)[known], rtol=1e-9)
    np.testing.assert_allclose(
        observations.node_features["cpu_instructions"][known], 4.5e6 * shape(TIMES)[known], rtol=1e-9
    )


def test_a_second_exporter_with_a_few_more_containers() -> None:
    # what only the second one reports is taken from it, the rest is not added up
    more = {"c" * 64: 2.0}
    observations = observed(merged(machine(), machine(containers={**CONTAINERS, **more}, pod="kepler-2", start=7.0)))
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"][1:], 6.5 * shape(TIMES)[1:], rtol=1e-9)
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120 * shape(TIMES)[1:], rtol=1e-9)


def test_one_machine_under_two_labels_known_by_its_name() -> None:
    containers = {"system": 1.5}  # nothing else tells that it is the same machine
    first = machine("10.0.0.1:9102", containers=containers, exported_instance="node-a")
    second = machine("10.0.0.1:9103", containers=containers, exported_instance="node-a", start=7.0)
    for one in second["kepler_container_bpf_cpu_time_ms_total"]:
        one["values"] = one["values"][5:]  # fewer samples: the first one stays
    alone = observed(first)
    for document in (merged(first, second), merged(second, first)):
        observations = observed(document)
        assert_same(observations, alone)
        assert len(observations.counts.duplicate_nodes) == 1
        assert "10.0.0.1:9103" in observations.counts.duplicate_nodes[0]


def test_one_machine_under_two_labels_known_by_its_containers() -> None:
    first = machine("node-a", containers=NODE_A)
    second = machine("10.0.0.1:9102", containers=NODE_A, job="other", times=TIMES[3:], start=7.0)
    alone = observed(first)
    for document in (merged(first, second), merged(second, first)):
        observations = observed(document)
        assert_same(observations, alone)
        assert len(observations.counts.duplicate_nodes) == 1
        assert "10.0.0.1:9102" in observations.counts.duplicate_nodes[0]


@pytest.mark.parametrize("lengths", [(20, 30, 40), (40, 30, 20), (20, 40, 30), (30, 30, 30)])
@pytest.mark.parametrize("known_by", ["name", "containers"])
def test_one_machine_under_three_labels(known_by: str, lengths: Sequence[int]) -> None:
    documents = [
        machine(
            f"10.0.0.1:{port}",
            times=TIMES[:length],
            containers=NODE_A if known_by == "containers" else {"system": 1.5},
            **({"exported_instance": "node-a"} if known_by == "name" else {}),
        )
        for port, length in enumerate(lengths)
    ]
    observations = observed(merged(*documents))
    assert_same(observations, observed(documents[int(np.argmax(lengths))]))
    assert len(observations.counts.duplicate_nodes) == 2


def test_an_exporter_that_comes_back_under_another_label_is_no_duplicate() -> None:
    # a new pod has a new address: the machine is reported under one, then under the other
    first = machine("10.0.0.1:9102", times=TIMES[:20], containers=NODE_A, exported_instance="node-a")
    second = machine("10.0.0.2:9102", times=TIMES[20:], containers=NODE_A, exported_instance="node-a", start=0.0)
    observations = observed(merged(first, second))
    known = np.isfinite(observations.power["acpi", "platform"])
    assert observations.sample_time[known].tolist() == [*TIMES[1:20], *TIMES[21:]]


def test_the_same_series_twice_is_counted_once() -> None:
    document = machine()
    doubled = {metric: items + items for metric, items in document.items()}
    observations = observed(doubled)
    assert_same(observations, observed(document))
    assert sum(observations.counts.duplicates.values()) == len(TIMES) * (3 * len(CONTAINERS) + len(WATTS))


# --- scrapes that did not happen, restarts, changing labels ---------------------------------------


def queried(document: Document, step: float) -> Document:
    """The document as a range query with another step returns it: the last scrape, repeated."""
    result: Document = {}
    for metric, items in document.items():
        result[metric] = []
        for one in items:
            times = np.array([t for t, _ in one["values"]])
            grid = np.arange(times[0], times[-1] + 1, step)
            last = np.searchsorted(times, grid, side="right") - 1
            values = [[t, one["values"][at][1]] for t, at in zip(grid.tolist(), last, strict=True)]
            result[metric].append({"metric": one["metric"], "values": values})
    return result


def test_repeated_scrapes_are_left_out() -> None:
    times = START + 15.0 * np.arange(30)
    document = machine(times=times)
    observations = observed(queried(document, 3.0))
    assert observations.counts.as_dict() == {"repeated_scrapes": 4 * 29, **DRAM_IS_DYNAMIC_ONLY}
    assert_same(observations, observed(document))
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120.0 * shape(times)[1:], rtol=1e-9)


def test_the_step_is_that_of_the_scrapes() -> None:
    assert observed(machine()).step == 3
    assert observed(queried(machine(times=START + 15.0 * np.arange(30)), 3.0)).step == 15


def test_repeated_scrapes_of_one_node_only() -> None:
    slow = machine("node-b", times=START + 12.0 * np.arange(10), containers=NODE_B)
    observations = observed(merged(machine("node-a", containers=NODE_A), queried(slow, 3.0)))
    nodes = [observations.streams[code].node for code in observations.sample_stream]
    assert nodes.count("node-a") == 40
    assert nodes.count("node-b") == 10
    assert observations.counts.repeated_scrapes == 27


def test_energy_counters_that_never_move_leave_the_features() -> None:
    document = machine()
    for metric, items in document.items():
        if "joules" in metric:
            for one in items:
                one["values"] = [[t, "5"] for t, _ in one["values"]]
    observations = observed(document)
    assert observations.counts.repeated_scrapes == 0
    assert (observations.power["acpi", "platform"][1:] == 0).all()
    assert np.isfinite(observations.node_features["cpu_instructions"][1:]).all()


def test_an_exporter_restart() -> None:
    document = machine()
    for items in document.values():
        for one in items:
            before = float(one["values"][19][1])
            one["values"] = one["values"][:20] + [[t, repr(float(v) - before)] for t, v in one["values"][20:]]
    observations = observed(document)
    assert observations.counts.resets == {
        **{f"kepler_container_{feature}_total": len(CONTAINERS) for feature in FEATURES},
        "kepler_node_package_joules_total": 4,
        "kepler_node_dram_joules_total": 2,
        "kepler_node_platform_joules_total": 2,
    }
    rates = observations.node_features["cpu_instructions"]
    np.testing.assert_allclose(rates[1:], 4.5e6 * shape(TIMES)[1:], rtol=1e-6)
    # the energy since the restart is less than the energy since the last sample: not a power
    power = observations.power["acpi", "platform"]
    assert np.flatnonzero(np.isnan(power)).tolist() == [0, 20]
    known = np.isfinite(power)
    np.testing.assert_allclose(power[known], 120 * shape(TIMES)[known], rtol=1e-6)


@pytest.mark.parametrize("label", ["pod", "pod_name", "command"])
def test_a_container_whose_labels_change_half_way_is_one_container(label: str) -> None:
    document = machine()
    for metric in [name for name in document if "container" in name]:
        document[metric] = [
            {"metric": {**one["metric"], **new}, "values": values}
            for one in document[metric]
            for new, values in (({}, one["values"][:20]), ({label: "new"}, one["values"][20:]))
        ]
    observations = observed(document)
    assert sorted(observations.containers) == sorted(CONTAINERS)
    assert observations.counts.duplicates == {}
    rates = observations.node_features["bpf_cpu_time_ms"]
    assert np.flatnonzero(np.isnan(rates)).tolist() == [0, 20]  # a new series has no rate at first
    known = np.isfinite(rates)
    np.testing.assert_allclose(rates[known], 4.5 * shape(TIMES)[known], rtol=1e-9)


def test_gaps_are_left_out_and_counted() -> None:
    times = np.delete(TIMES, np.arange(10, 20))
    observations = observed(machine(times=times))
    at = int(np.flatnonzero(times == TIMES[20])[0])
    assert np.flatnonzero(np.isnan(observations.power["acpi", "platform"])).tolist() == [0, at]
    assert observations.counts.gaps["kepler_node_platform_joules_total"] == 2
    assert observations.counts.gaps["kepler_container_cache_miss_total"] == len(CONTAINERS)


# --- labels, names, levels ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric",
    [
        "kepler_container_cpu_cpu_time_us_total",
        "kepler_container_cpu_cpu_time_us",
        "kepler_container_bpf_cpu_time_us_total",
    ],
)
def test_the_old_name_of_cpu_time_counts_milliseconds(metric: str) -> None:
    document = machine()
    document[metric] = document.pop("kepler_container_bpf_cpu_time_ms_total")
    observations = observed(document)
    assert_same(observations, observed(machine()))
    assert "milliseconds" in check(read_recording(document)).notes[metric]


def test_an_exporter_that_was_updated_half_way() -> None:
    # the old and the new name in one recording are one feature
    document = machine()
    new = "kepler_container_bpf_cpu_time_ms_total"
    old = "kepler_container_bpf_cpu_time_us_total"
    document[old] = [{"metric": one["metric"], "values": one["values"][:20]} for one in document[new]]
    document[new] = [{"metric": one["metric"], "values": one["values"][20:]} for one in document[new]]
    rates = observed(document).node_features["bpf_cpu_time_ms"]
    known = np.isfinite(rates)
    assert np.flatnonzero(~known).tolist() == [0, 20]
    np.testing.assert_allclose(rates[known], 4.5 * shape(TIMES)[known], rtol=1e-9)


def test_an_exporter_whose_energy_counters_were_renamed_half_way() -> None:
    document = machine()
    new, old = "kepler_node_platform_joules_total", "kepler_node_platform_joules"
    document[old] = [{"metric": one["metric"], "values": one["values"][:20]} for one in document[new]]
    document[new] = [{"metric": one["metric"], "values": one["values"][20:]} for one in document[new]]
    watts = observed(document).power["acpi", "platform"]
    known = np.isfinite(watts)
    assert np.flatnonzero(~known).tolist() == [0, 20]
    np.testing.assert_allclose(watts[known], 120 * shape(TIMES)[known], rtol=1e-9)


def test_the_old_source_rapl_is_rapl_sysfs() -> None:
    document = machine()
    for items in document.values():
        for one in items:
            if one["metric"].get("source") == "rapl-sysfs":
                one["metric"]["source"] = "rapl"
    assert_same(observed(document), observed(machine()))


def test_power_without_a_source_label() -> None:
    document = machine()
    for items in document.values():
        for one in items:
            one["metric"].pop("source", None)
    assert_same(observed(document), observed(machine()))


def test_power_of_an_unknown_source_is_left_out() -> None:
    document = machine()
    for one in document["kepler_node_platform_joules_total"]:
        one["metric"]["source"] = "crystal-ball"
    assert observed(document).sources == {"rapl-sysfs": ("package", "dram")}


def test_missing_labels_are_counted_and_the_other_labels_used() -> None:
    document = machine()
    for metric in [name for name in document if "container" in name]:
        for one in document[metric]:
            del one["metric"]["container_id"]
    observations = observed(document)
    assert len(observations.containers) == len(CONTAINERS)
    assert observations.counts.missing_labels["kepler_container_cache_miss_total container_id"] == len(CONTAINERS)
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"][1:], 4.5 * shape(TIMES)[1:], rtol=1e-9)


def test_a_recording_without_instance_labels_is_one_node() -> None:
    document = machine()
    for items in document.values():
        for one in items:
            del one["metric"]["instance"]
    observations = observed(document)
    assert [stream.node for stream in observations.streams] == [""]
    assert observations.counts.missing_labels["kepler_node_platform_joules_total instance"] == 2
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120 * shape(TIMES)[1:], rtol=1e-9)


def test_odd_samples_and_series_are_counted() -> None:
    document = machine()
    metric = "kepler_container_cache_miss_total"
    first, second, third = document[metric]
    first["values"][5][1] = "NaN"
    second["values"].append(second["values"][-1])
    third["values"] = third["values"][:1]
    document[metric].append({"metric": {"instance": "node-a", "container_id": "empty"}, "values": []})
    counts = observed(document).counts.as_dict()
    assert counts == {
        "incomplete": {"cache_miss": 1},  # where the first has no sample and the third is long gone
        "not_finite": {metric: 1},
        "repeated_timestamps": {metric: 1},
        "one_sample_series": {metric: 1},
        "empty_series": {metric: 1},
        **DRAM_IS_DYNAMIC_ONLY,
    }


def test_container_and_process_counters_are_not_added_up() -> None:
    document = machine()
    for feature in FEATURES:
        document[f"kepler_process_{feature}_total"] = [
            {"metric": {**one["metric"], "pid": str(pid)}, "values": one["values"]}
            for pid, one in enumerate(document[f"kepler_container_{feature}_total"])
        ]
    assert_same(observed(document), observed(machine()))


def test_vm_metrics() -> None:
    document = machine()
    for feature in FEATURES:
        document[f"kepler_process_{feature}_total"] = [
            series({"instance": "node-a", "job": job, "pid": str(pid)}, TIMES, counter(pid, TIMES))
            for job, pid in (("vm", 1), ("vm", 2), ("kepler", 5))
        ]
    document["kepler_vm_package_joules_total"] = [
        series({"instance": "node-a", "job": "vm", "vm_id": "vm-1", "mode": mode}, TIMES, counter(watts, TIMES))
        for mode, watts in (("idle", 4.0), ("dynamic", 9.0))
    ]
    observations = observed(document, use_vm_metrics=True)
    factor = shape(TIMES)[1:]
    np.testing.assert_allclose(observations.node_features["cache_miss"][1:], 3.0 * factor, rtol=1e-9)
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], 13.0 * factor, rtol=1e-9)
    assert ("acpi", "platform") not in observations.power


@pytest.mark.parametrize("document", [{}, {"up": []}, {"up": [{"metric": {}, "values": [[1, "1"]]}]}])
def test_a_recording_without_any_known_metric_is_refused(document: Document) -> None:
    with pytest.raises(RecordingError, match=r"^test: no metric that an installed metric schema knows"):
        observed(document)


# --- any recording --------------------------------------------------------------------------------

METRICS = [
    "kepler_container_cpu_instructions_total",
    "kepler_container_bpf_cpu_time_ms_total",
    "kepler_container_cpu_cpu_time_us_total",
    "kepler_process_cache_miss_total",
    "kepler_node_package_joules_total",
    "kepler_node_dram_joules_total",
    "kepler_vm_package_joules_total",
    "kepler_node_accelerator_intel_qat",
    "kepler_node_cpu_scaling_frequency_hertz",
    "up",
]
any_labels = st.fixed_dictionaries(
    {},
    optional={
        "instance": st.sampled_from(["node-a", "node-b"]),
        "exported_instance": st.sampled_from(["node-a", "other"]),
        "job": st.sampled_from(["kepler", "vm"]),
        "container_id": st.sampled_from(["a" * 64, "b" * 64, "system_processes", ""]),
        "pid": st.sampled_from(["1", "2"]),
        "source": st.sampled_from(["rapl-sysfs", "rapl", "acpi", "unknown"]),
        "package": st.sampled_from(["0", "1"]),
        "mode": st.sampled_from(["idle", "dynamic"]),
    },
)
any_values = st.lists(
    st.tuples(st.sampled_from([0, 3, 6, 9, 12, 40]), st.integers(0, 9).map(str) | st.sampled_from(["NaN", "+Inf"])),
    max_size=6,
)
any_series = st.lists(st.fixed_dictionaries({"metric": any_labels, "values": any_values}), max_size=5)


@settings(max_examples=250)
@given(st.dictionaries(st.sampled_from(METRICS), any_series, min_size=1, max_size=5), st.booleans())
def test_any_recording_is_observed_or_refused(document: Document, use_vm_metrics: bool) -> None:
    try:
        observations = observed(document, use_vm_metrics=use_vm_metrics)
    except RecordingError:
        assert set(document) == {"up"}
        return
    assert np.all(np.diff(observations.row_sample) >= 0)
    assert np.all(np.diff(observations.sample_stream) >= 0)
    for watts in observations.power.values():
        assert watts.shape == observations.sample_time.shape
        assert np.all(np.isnan(watts) | ((watts >= 0) & (watts < np.inf)))
    for rates in observations.container_features.values():
        assert np.all(np.isnan(rates) | ((rates >= 0) & (rates < np.inf)))
    findings = check(read_recording(document), use_vm_metrics=use_vm_metrics)
    assert not findings.trainable  # six timestamps at most


def test_the_order_of_series_and_metrics_does_not_matter(small: Document) -> None:
    rng = np.random.default_rng(5)
    shuffled = {
        metric: [small[metric][at] for at in rng.permutation(len(small[metric]))]
        for metric in [list(small)[at] for at in rng.permutation(len(small))]
    }
    one, other = observed(small), observed(shuffled)
    np.testing.assert_array_equal(one.sample_time, other.sample_time)
    for name in ("node_features", "power"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-12, err_msg=str(key))
    for feature in one.container_features:
        assert by_container(one, feature) == by_container(other, feature)


# --- data sets ------------------------------------------------------------------------------------


def dataset(
    observations: Observations, features: Sequence[str], source: str, *, by_container: bool, window: int | None = None
) -> Any:
    extractor = registry.extractors.create(
        "default" if window is None else "smooth", {"window": window} if window else {}
    )
    components = observations.sources[source]
    return extractor.extract(observations, features, source, components, by_container=by_container)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("source", ["rapl-sysfs", "acpi"])
@pytest.mark.parametrize("group", ["CounterOnly", "BPFOnly", "WorkloadOnly", "Full"])
def test_container_power_adds_up_to_node_power(small: Document, group: str, source: str, window: int | None) -> None:
    observations = observed(small)
    features = FEATURE_GROUPS[group]
    containers = dataset(observations, features, source, by_container=True, window=window)
    node = dataset(observations, features, source, by_container=False, window=window)
    assert len(node.frame) > 100
    shared = containers.node_power()
    expected = node.frame[node.power_columns]
    pd.testing.assert_frame_equal(shared, expected, check_exact=False, rtol=1e-9, check_index_type=False)
    if window is None:
        at = np.searchsorted(observations.sample_time, node.timestamps)
        for component in node.components:
            np.testing.assert_array_equal(node.y(component), observations.power[source, component][at])


def test_energy_is_conserved_with_several_nodes_and_recordings() -> None:
    documents = [
        merged(machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=load))
        for load in (2.0, 3.0)
    ]
    documents[1] = later(documents[1])
    observations = observe([read_recording(document, name=str(at)) for at, document in enumerate(documents)])
    containers = dataset(observations, tuple(FEATURES), "rapl-sysfs", by_container=True)
    node = dataset(observations, tuple(FEATURES), "rapl-sysfs", by_container=False)
    assert len(node.frame) == 4 * (len(TIMES) - 1)
    power = containers.frame.groupby(["recording", "node", "timestamp"])[containers.power_columns].sum()
    pd.testing.assert_frame_equal(
        power, node.frame[node.power_columns], check_exact=False, rtol=1e-9, check_index_type=False
    )


def test_a_container_gets_its_share_of_the_main_feature() -> None:
    document = machine(containers={"a" * 64: 1.0, "b" * 64: 3.0})
    document["kepler_container_cache_miss_total"] = machine(containers={"a" * 64: 1.0, "b" * 64: 1.0})[
        "kepler_container_cache_miss_total"
    ]
    frame = dataset(observed(document), tuple(FEATURES), "rapl-sysfs", by_container=True).frame
    first = frame.xs("a" * 64, level="container")
    factor = shape(TIMES)[1:]
    np.testing.assert_allclose(first["package_power"], 50.0 * factor / 4, rtol=1e-9)  # by cpu_instructions
    np.testing.assert_allclose(first["dram_power"], 7.0 * factor / 2, rtol=1e-9)  # by cache_miss
    np.testing.assert_allclose(first["cpu_instructions"], 1e6 * factor, rtol=1e-9)


def test_equal_shares_where_nothing_is_used() -> None:
    document = machine(containers={"a" * 64: 0.0, "b" * 64: 0.0})
    frame = dataset(observed(document), tuple(FEATURES), "acpi", by_container=True).frame
    assert len(frame) == 2 * (len(TIMES) - 1)
    np.testing.assert_allclose(frame["platform_power"].xs("a" * 64, level="container"), 60.0 * shape(TIMES)[1:])


def test_rows_with_anything_unknown_are_left_out(small: Document) -> None:
    observations = observed(small)
    data = dataset(observations, BASIC_FEATURES, "rapl-sysfs", by_container=False)
    columns = [observations.node_features[feature] for feature in BASIC_FEATURES]
    columns += [observations.power["rapl-sysfs", component] for component in RAPL_COMPONENTS]
    known = np.isfinite(np.array(columns)).all(axis=0)
    assert not known.all()
    np.testing.assert_array_equal(data.timestamps, observations.sample_time[known])
    assert list(data.frame.columns) == [*BASIC_FEATURES, *data.power_columns]
    assert not dataset(observations, BASIC_FEATURES, "rapl-sysfs", by_container=True).frame.isna().any(axis=None)


# --- smoothing ------------------------------------------------------------------------------------


def pandas_rolling(values: pd.Series, keys: Sequence[Any], window: int) -> pd.Series:
    """The rolling mean of what is known among the last `window` values, the pandas way."""
    means = values.groupby(list(keys), sort=False).transform(lambda one: one.rolling(window, min_periods=1).mean())
    return means.where(values.notna())


@pytest.fixture
def two_nodes() -> Observations:
    """Two nodes with holes in their data, restarts, and containers that come and go."""
    document = merged(machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=3.0))
    rng = np.random.default_rng(3)
    for items in document.values():
        for one in items:
            one["values"] = [pair for pair in one["values"] if rng.random() < 0.97]
    return observed(document)


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_smoothing_by_node_is_a_rolling_mean(two_nodes: Observations, window: int) -> None:
    data = dataset(two_nodes, tuple(FEATURES), "rapl-sysfs", by_container=False, window=window)
    plain = pd.DataFrame(
        {
            **{feature: two_nodes.node_features[feature] for feature in FEATURES},
            **{f"{c}_power": two_nodes.power["rapl-sysfs", c] for c in ("package", "dram")},
        }
    )
    assert plain.isna().any(axis=None)
    smoothed = plain.apply(pandas_rolling, keys=[two_nodes.sample_stream], window=window).dropna()
    np.testing.assert_allclose(data.frame.to_numpy(), smoothed.to_numpy(), rtol=1e-9)
    np.testing.assert_array_equal(data.timestamps, two_nodes.sample_time[smoothed.index])


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_smoothing_by_container_is_a_rolling_mean(two_nodes: Observations, window: int) -> None:
    data = dataset(two_nodes, tuple(FEATURES), "rapl-sysfs", by_container=True, window=window)
    instant = two_nodes.row_sample
    keys = pd.DataFrame(
        {
            "node": [two_nodes.streams[code].node for code in two_nodes.sample_stream[instant]],
            "timestamp": two_nodes.sample_time[instant],
            "container": [two_nodes.containers[code] for code in two_nodes.row_container],
        }
    )
    plain = pd.DataFrame({feature: two_nodes.container_features[feature] for feature in FEATURES})
    smoothed = plain.apply(pandas_rolling, keys=[keys["node"], keys["container"]], window=window)
    expected = smoothed.set_index(pd.MultiIndex.from_frame(keys))
    found = data.frame.droplevel("recording")
    assert len(found) > 100
    np.testing.assert_allclose(
        found[list(FEATURES)].to_numpy(), expected.loc[found.index, list(FEATURES)].to_numpy(), rtol=1e-9
    )


def test_a_window_of_one_is_the_default_extractor(small: Document) -> None:
    observations = observed(small)
    for by_container in (False, True):
        one = dataset(observations, BASIC_FEATURES, "rapl-sysfs", by_container=by_container, window=1)
        plain = dataset(observations, BASIC_FEATURES, "rapl-sysfs", by_container=by_container)
        pd.testing.assert_frame_equal(one.frame, plain.frame, rtol=1e-9)


def test_smoothed_values_are_not_negative() -> None:
    # a mean over an idle stretch after a large burst is 0, not what rounding has left of the burst
    document = machine(containers={"a" * 64: 1.0})
    for items in document.values():
        for one in items:
            values = np.concatenate([[0.0], np.cumsum([1e13 / 3] * 9 + [0.0] * 30)])
            one["values"] = [[t, repr(v)] for (t, _), v in zip(one["values"], values.tolist(), strict=True)]
    for metric in list(document):
        if "joules" in metric:
            document[metric] = machine()[metric]
    data = dataset(observed(document), tuple(FEATURES), "acpi", by_container=False, window=5)
    assert (data.X >= 0).all()
    assert (data.X[-5:] == 0).all()


@pytest.mark.parametrize("window", [0, -1, "five", 2.5])
def test_a_wrong_window_is_refused(window: Any) -> None:
    with pytest.raises(PluginError, match="window"):
        registry.extractors.create("smooth", {"window": window})
