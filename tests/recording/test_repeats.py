"""Test that nodes, containers, sockets and scrapes are not counted twice if a recording contains them twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from support.exporter_documents import (
    CONTAINERS,
    DRAM_IS_DYNAMIC_ONLY,
    FEATURES,
    NODE_A,
    NODE_B,
    START,
    TIMES,
    WATTS,
    Document,
    assert_same,
    machine,
    merged,
    observed,
    variation,
)


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


def test_the_exporter_with_most_samples_is_kept_in_any_order() -> None:
    full, half = machine(), machine(times=TIMES[20:], start=5.0, pod="kepler-2")
    alone = observed(full)
    assert_same(observed(merged(full, half)), alone)
    assert_same(observed(merged(half, full)), alone)


def test_a_second_exporter_continues_where_the_first_ends() -> None:
    first, second = machine(times=TIMES[:30]), machine(times=TIMES[20:], start=5.0, pod="kepler-2")
    observations = observed(merged(first, second))
    is_known = np.isfinite(observations.power["acpi", "platform"])
    assert np.flatnonzero(~is_known).tolist() == [0, 30]
    np.testing.assert_allclose(
        observations.power["acpi", "platform"][is_known], 120 * variation(TIMES)[is_known], rtol=1e-9
    )
    np.testing.assert_allclose(
        observations.node_features["cpu_instructions"][is_known], 4.5e6 * variation(TIMES)[is_known], rtol=1e-9
    )


def test_containers_that_only_a_second_exporter_reports_are_added() -> None:
    # a container that is reported by two exporters is counted once
    more = {"c" * 64: 2.0}
    observations = observed(merged(machine(), machine(containers={**CONTAINERS, **more}, pod="kepler-2", start=7.0)))
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"][1:], 6.5 * variation(TIMES)[1:], rtol=1e-9)
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120 * variation(TIMES)[1:], rtol=1e-9)


def test_two_labels_with_one_machine_name_are_one_node() -> None:
    # Two exporters report one machine. Only their label `exported_instance` shows this, because the container id
    # "system" occurs on many machines.
    containers = {"system": 1.5}
    first = machine("10.0.0.1:9102", containers=containers, exported_instance="node-a")
    second = machine("10.0.0.1:9103", containers=containers, exported_instance="node-a", start=7.0)
    # The series with the second instance label have fewer samples, so Kepler Core leaves out these series.
    for series in second["kepler_container_bpf_cpu_time_ms_total"]:
        series["values"] = series["values"][5:]
    alone = observed(first)
    for document in (merged(first, second), merged(second, first)):
        observations = observed(document)
        assert_same(observations, alone)
        assert len(observations.counts.duplicate_nodes) == 1
        assert "10.0.0.1:9103" in observations.counts.duplicate_nodes


def test_two_labels_with_the_same_containers_are_one_node() -> None:
    first = machine("node-a", containers=NODE_A)
    second = machine("10.0.0.1:9102", containers=NODE_A, job="other", times=TIMES[3:], start=7.0)
    alone = observed(first)
    for document in (merged(first, second), merged(second, first)):
        observations = observed(document)
        assert_same(observations, alone)
        assert len(observations.counts.duplicate_nodes) == 1
        assert "10.0.0.1:9102" in observations.counts.duplicate_nodes


@pytest.mark.parametrize("lengths", [(20, 30, 40), (40, 30, 20), (20, 40, 30), (30, 30, 30)])
@pytest.mark.parametrize("known_by", ["name", "containers"])
def test_three_labels_of_one_machine_are_one_node(known_by: str, lengths: Sequence[int]) -> None:
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


def test_a_label_that_follows_another_in_time_is_no_duplicate() -> None:
    # The exporter is restarted in a new pod with another address. So its second series have another label.
    first = machine("10.0.0.1:9102", times=TIMES[:20], containers=NODE_A, exported_instance="node-a")
    second = machine("10.0.0.2:9102", times=TIMES[20:], containers=NODE_A, exported_instance="node-a", start=0.0)
    observations = observed(merged(first, second))
    is_known = np.isfinite(observations.power["acpi", "platform"])
    assert observations.sample_time[is_known].tolist() == [*TIMES[1:20], *TIMES[21:]]


def test_a_series_given_twice_is_counted_once() -> None:
    document = machine()
    doubled = {metric: all_series + all_series for metric, all_series in document.items()}
    observations = observed(doubled)
    assert_same(observations, observed(document))
    assert sum(observations.counts.duplicates.values()) == len(TIMES) * (3 * len(CONTAINERS) + len(WATTS))


def queried(document: Document, step: float) -> Document:
    """Return the recording that Prometheus returns for a query with a step shorter than the scrape interval.

    Prometheus then repeats the value of each scrape.
    """
    result: Document = {}
    for metric, all_series in document.items():
        result[metric] = []
        for series in all_series:
            times = np.array([t for t, _ in series["values"]])
            grid = np.arange(times[0], times[-1] + 1, step)
            last = np.searchsorted(times, grid, side="right") - 1
            values = [[t, series["values"][at][1]] for t, at in zip(grid.tolist(), last, strict=True)]
            result[metric].append({"metric": series["metric"], "values": values})
    return result


def test_repeated_scrapes_are_left_out() -> None:
    times = START + 15.0 * np.arange(30)
    document = machine(times=times)
    observations = observed(queried(document, 3.0))
    assert observations.counts.as_dict() == {"repeated_scrapes": {"node-a": 4 * 29}, **DRAM_IS_DYNAMIC_ONLY}
    assert_same(observations, observed(document))
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120.0 * variation(times)[1:], rtol=1e-9)


def test_the_step_is_the_scrape_interval() -> None:
    assert observed(machine()).step == 3
    assert observed(queried(machine(times=START + 15.0 * np.arange(30)), 3.0)).step == 15


def test_repeated_scrapes_are_left_out_per_node() -> None:
    slow = machine("node-b", times=START + 12.0 * np.arange(10), containers=NODE_B)
    observations = observed(merged(machine("node-a", containers=NODE_A), queried(slow, 3.0)))
    nodes = [observations.streams[code].node for code in observations.sample_stream]
    assert nodes.count("node-a") == 40
    assert nodes.count("node-b") == 10
    assert sum(observations.counts.repeated_scrapes.values()) == 27


def test_features_are_kept_if_energy_counters_never_move() -> None:
    document = machine()
    for metric, all_series in document.items():
        if "joules" in metric:
            for series in all_series:
                series["values"] = [[t, "5"] for t, _ in series["values"]]
    observations = observed(document)
    assert not observations.counts.of("repeated_scrapes")
    assert np.isnan(observations.power["acpi", "platform"]).all()  # a running machine never draws 0 W
    assert observations.counts.of("frozen_meters")
    assert np.isfinite(observations.node_features["cpu_instructions"][1:]).all()
