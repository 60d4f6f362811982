"""What can be trained from a recording, and why the rest cannot."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kepler_core.errors import RecordingError
from kepler_core.recording import Preflight, check, read_recording
from kepler_core.recording.preflight import utc
from kepler_core.simulate import START, Simulation, recording
from kepler_core.vocabulary import FEATURE_GROUPS, MIN_TIMESTAMPS, RAPL_COMPONENTS

Document = dict[str, list[dict[str, Any]]]


def checked(document: Document, **arguments: Any) -> Preflight:
    return check(read_recording(document, name="test"), **arguments)


def trainable(found: Preflight) -> set[tuple[str, str]]:
    return {(group.source, group.feature_group) for group in found.groups if group.trainable}


def cut(document: Document, timestamps: int) -> Document:
    """The first timestamps only."""
    end = START + 3 * timestamps
    return {
        metric: [{**one, "values": [pair for pair in one["values"] if pair[0] < end]} for one in items]
        for metric, items in document.items()
    }


def test_a_whole_recording(small: Document) -> None:
    found = checked(small)
    assert found.schema == "kepler-0.7"
    assert found.trainable
    assert trainable(found) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in FEATURE_GROUPS}
    assert found.metrics.keys() == small.keys()
    assert found.metrics["kepler_node_package_joules_total"] == 4 * 120
    assert {(p.source, p.component) for p in found.power} == {
        ("acpi", "platform"),
        *(("rapl-sysfs", component) for component in RAPL_COMPONENTS),
    }
    (node,) = found.nodes
    assert (node.node, node.timestamps, node.containers) == ("node-0", 120, 6)
    assert (node.start, node.end, node.step, node.longest_interval) == (START, START + 3 * 119, 3, 3)
    assert found.counts["resets"]["kepler_node_platform_joules_total"] == 2
    assert found.missing_sources.keys() == {"hmc", "rapl-msr", "redfish", "trained_power_model"}
    assert "kepler_node_platform_joules_total" in found.missing_sources["redfish"]
    assert "'redfish'" in found.missing_sources["redfish"]


@pytest.mark.parametrize(
    ("metric", "groups"),
    [
        ("kepler_container_bpf_page_cache_hit_total", {"CounterOnly", "CounterIRQCombined", "AcceleratorOnly"}),
        ("kepler_container_cache_miss_total", {"BPFOnly", "BPFIRQ", "AcceleratorOnly"}),
        ("kepler_container_bpf_net_rx_irq_total", {"CounterOnly", "BPFOnly", "Basic", "AcceleratorOnly"}),
        ("kepler_node_accelerator_intel_qat", {"CounterOnly", "BPFOnly", "BPFIRQ", "CounterIRQCombined", "Basic"}),
        ("kepler_node_node_info", FEATURE_GROUPS.keys() - {"Full"}),
        ("kepler_node_cpu_scaling_frequency_hertz", FEATURE_GROUPS.keys() - {"Full"}),
    ],
)
def test_the_missing_metric_is_named(small: Document, metric: str, groups: set[str]) -> None:
    del small[metric]
    found = checked(small)
    assert trainable(found) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in groups}
    for group in found.groups:
        if not group.trainable:
            assert group.missing == (metric,)
            assert group.reason == f"missing: {metric}"


def test_a_metric_without_any_sample_is_missing(small: Document) -> None:
    metric = "kepler_container_cache_miss_total"
    for one in small[metric]:
        one["values"] = []
    found = checked(small)
    assert ("acpi", "CounterOnly") not in trainable(found)
    assert found.counts["empty_series"] == {metric: 6}
    assert any(metric in group.missing for group in found.groups)


def test_no_power(small: Document) -> None:
    found = checked({metric: items for metric, items in small.items() if "joules" not in metric})
    assert not found.trainable
    assert found.power == []
    assert {"acpi", "rapl-sysfs"} <= found.missing_sources.keys()
    assert found.nodes[0].timestamps == 120


def test_no_features(small: Document) -> None:
    found = checked({metric: items for metric, items in small.items() if "joules" in metric})
    assert not found.trainable
    assert len(found.power) == 5
    assert all(group.missing for group in found.groups)


def test_one_timestamp(small: Document) -> None:
    found = checked(cut(small, 1))
    assert not found.trainable
    assert found.nodes[0].timestamps == 1
    assert found.power == []


@pytest.mark.parametrize(("usable", "enough"), [(MIN_TIMESTAMPS - 1, False), (MIN_TIMESTAMPS, True)])
def test_too_few_timestamps(usable: int, enough: bool) -> None:
    document = recording(Simulation(containers=3, timestamps=usable + 1, churn=0, resets=0))
    found = checked(document)
    assert {group.timestamps for group in found.groups} == {usable}
    assert found.trainable == enough
    if not enough:
        assert {group.reason for group in found.groups} == {f"only {usable} usable timestamps, {MIN_TIMESTAMPS} needed"}


def test_no_samples_at_all() -> None:
    found = checked({"kepler_node_package_joules_total": [{"metric": {"instance": "a"}, "values": []}]})
    assert not found.trainable
    assert found.nodes == []
    assert found.counts["empty_series"] == {"kepler_node_package_joules_total": 1}
    assert not checked({"kepler_node_package_joules_total": []}).trainable


def test_unknown_metrics_only() -> None:
    with pytest.raises(RecordingError, match=r"^test: .*found only node_load1, up$") as caught:
        checked({"up": [], "node_load1": []})
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RecordingError, match="it is empty"):
        checked({})


def test_unknown_metrics_beside_known_ones(small: Document) -> None:
    found = checked({**small, "up": [], "node_load1": []})
    assert found.other_metrics == ("node_load1", "up")
    assert "up" not in found.metrics


def test_several_nodes() -> None:
    found = checked(recording(Simulation(containers=3, timestamps=40, nodes=3, churn=0)))
    assert [(node.node, node.timestamps, node.containers) for node in found.nodes] == [
        (f"node-{at}", 40, 3) for at in range(3)
    ]
    assert {power.timestamps for power in found.power} == {3 * (40 - 2)}  # not the first, nor that of the restart


def test_a_component_that_never_changes_is_said_to_be_constant() -> None:
    document = recording(Simulation(containers=3, timestamps=40, resets=0))
    for one in document["kepler_node_core_joules_total"]:
        one["values"] = [[t, "0"] for t, _ in one["values"]]
    constant = {power.component: power.constant for power in checked(document).power}
    assert constant == {"platform": False, "package": False, "core": True, "uncore": False, "dram": False}


def test_findings_can_be_written_as_json(small: Document) -> None:
    # NaN (the step of one timestamp) is null
    for document in (small, cut(small, 1)):
        found = checked(document)
        again = json.loads(msgspec.json.encode(found.as_dict()))
        assert again["trainable"] == found.trainable
        assert again["digest"] == found.digest
        assert len(again["groups"]) == len(found.groups)
    assert again["nodes"][0]["step"] is None


def test_times_are_readable() -> None:
    assert utc(1_700_000_000) == "2023-11-14 22:13:20"
    assert "1e+20" in utc(1e20)
