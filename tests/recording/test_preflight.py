"""Test the report on a recording. It states which models can be trained, and what is missing for other models."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kepler_core.errors import RecordingError
from kepler_core.recording import Preflight, check, read_recording
from kepler_core.recording.times import utc
from kepler_core.simulate import START, Simulation, recording
from kepler_core.vocabulary import FEATURE_GROUPS, MIN_TIMESTAMPS, RAPL_COMPONENTS, REDUCED_GROUPS

Document = dict[str, list[dict[str, Any]]]


def report_on(document: Document, **arguments: Any) -> Preflight:
    return check(read_recording(document, name="test"), **arguments)


def trainable(report: Preflight) -> set[tuple[str, str]]:
    """Return the (energy source, feature group) pairs that can be trained according to a report."""
    return {(group.source, group.feature_group) for group in report.groups if group.trainable}


def cut(document: Document, timestamps: int) -> Document:
    """Return a document with only its first `timestamps` timestamps."""
    end = START + 3 * timestamps
    return {
        metric: [{**series, "values": [pair for pair in series["values"] if pair[0] < end]} for series in all_series]
        for metric, all_series in document.items()
    }


def count(report: Preflight, kind: str, where: str) -> int:
    """Return how often a report counts the finding of this kind at this place. There must be exactly one."""
    (finding,) = [finding for finding in report.findings if (finding.kind, finding.where) == (kind, where)]
    return finding.count


def test_a_complete_recording_trains_every_feature_group(small: Document) -> None:
    report = report_on(small)
    assert report.schema == "kepler-0.7"
    assert report.trainable
    assert trainable(report) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in FEATURE_GROUPS}
    assert report.metrics.keys() == small.keys()
    assert report.metrics["kepler_node_package_joules_total"] == 4 * 120
    assert {(p.source, p.component) for p in report.power} == {
        ("acpi", "platform"),
        *(("rapl-sysfs", component) for component in RAPL_COMPONENTS),
    }
    (node,) = report.nodes
    assert (node.node, node.timestamps, node.containers) == ("node-0", 120, 6)
    assert (node.start, node.end, node.step, node.longest_interval) == (START, START + 3 * 119, 3, 3)
    assert count(report, "resets", "kepler_node_platform_joules_total") == 2
    assert report.missing_sources.keys() == {
        *("ampere-xgene-hwmon", "grace-acpi", "hmc", "rapl-msr", "redfish", "trained_power_model")
    }
    assert "kepler_node_platform_joules_total" in report.missing_sources["redfish"]
    assert "'redfish'" in report.missing_sources["redfish"]


@pytest.mark.parametrize(
    ("metric", "groups"),
    [
        (
            "kepler_container_bpf_page_cache_hit_total",
            {"CounterOnly", "CPUTime", "CounterIRQCombined", "AcceleratorOnly", *REDUCED_GROUPS.values()},
        ),
        ("kepler_container_cache_miss_total", {"CPUTime", "BPFOnly", "BPFIRQ", "AcceleratorOnly"}),
        ("kepler_container_bpf_net_rx_irq_total", {"CounterOnly", "CPUTime", "BPFOnly", "Basic", "AcceleratorOnly"}),
        ("kepler_node_accelerator_intel_qat", FEATURE_GROUPS.keys() - {"WorkloadOnly", "Full", "AcceleratorOnly"}),
        ("kepler_node_node_info", FEATURE_GROUPS.keys() - {"Full"}),
        ("kepler_node_cpu_scaling_frequency_hertz", FEATURE_GROUPS.keys() - {"Full"}),
    ],
)
def test_groups_without_a_feature_name_the_missing_metric(small: Document, metric: str, groups: set[str]) -> None:
    del small[metric]
    report = report_on(small)
    assert trainable(report) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in groups}
    for group in report.groups:
        if not group.trainable:
            # the report has the current name of a missing metric, not the old name
            name = metric.replace("node_node_info", "node_info")
            assert group.missing == (name,)
            assert group.reason == f"missing: {name}"


def test_a_metric_without_any_sample_is_missing(small: Document) -> None:
    metric = "kepler_container_cache_miss_total"
    for series in small[metric]:
        series["values"] = []
    report = report_on(small)
    assert ("acpi", "CounterOnly") not in trainable(report)
    assert count(report, "empty_series", metric) == 6
    assert any(metric in group.missing for group in report.groups)


def test_a_recording_without_power_trains_nothing(small: Document) -> None:
    report = report_on({metric: all_series for metric, all_series in small.items() if "joules" not in metric})
    assert not report.trainable
    assert report.power == []
    assert {"acpi", "rapl-sysfs"} <= report.missing_sources.keys()
    assert report.nodes[0].timestamps == 120


def test_a_recording_without_features_trains_nothing(small: Document) -> None:
    report = report_on({metric: all_series for metric, all_series in small.items() if "joules" in metric})
    assert not report.trainable
    assert len(report.power) == 5
    assert all(group.missing for group in report.groups)


def test_one_timestamp_trains_nothing(small: Document) -> None:
    report = report_on(cut(small, 1))
    assert not report.trainable
    assert report.nodes[0].timestamps == 1
    assert report.power == []


@pytest.mark.parametrize(("usable", "enough"), [(MIN_TIMESTAMPS - 1, False), (MIN_TIMESTAMPS, True)])
def test_the_fewest_timestamps_to_train_on(usable: int, enough: bool) -> None:
    document = recording(Simulation(containers=3, timestamps=usable + 1, churn=0, resets=0))
    report = report_on(document)
    assert {group.timestamps for group in report.groups} == {usable}
    assert report.trainable == enough
    if not enough:
        assert {group.reason for group in report.groups} == {
            f"only {usable} usable timestamps, {MIN_TIMESTAMPS} needed"
        }


def test_a_recording_without_samples_trains_nothing() -> None:
    report = report_on({"kepler_node_package_joules_total": [{"metric": {"instance": "a"}, "values": []}]})
    assert not report.trainable
    assert report.nodes == []
    assert count(report, "empty_series", "kepler_node_package_joules_total") == 1
    assert not report_on({"kepler_node_package_joules_total": []}).trainable


def test_a_recording_of_unknown_metrics_is_rejected() -> None:
    with pytest.raises(RecordingError, match=r"^test: .*found only node_load1, up$") as caught:
        report_on({"up": [], "node_load1": []})
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RecordingError, match="it is empty"):
        report_on({})


def test_unknown_metrics_are_listed(small: Document) -> None:
    report = report_on({**small, "up": [], "node_load1": []})
    assert report.other_metrics == ("node_load1", "up")
    assert "up" not in report.metrics


def test_every_node_is_summarized() -> None:
    report = report_on(recording(Simulation(containers=3, timestamps=40, nodes=3, churn=0)))
    assert [(node.node, node.timestamps, node.containers) for node in report.nodes] == [
        (f"node-{at}", 40, 3) for at in range(3)
    ]
    # on each of the 3 nodes, power is unknown at two timestamps: at the first, and when the exporter restarts
    assert {power.timestamps for power in report.power} == {3 * (40 - 2)}


def test_a_component_that_never_changes_is_constant() -> None:
    document = recording(Simulation(containers=3, timestamps=40, resets=0))
    for series in document["kepler_node_core_joules_total"]:
        series["values"] = [[t, "0"] for t, _ in series["values"]]
    constant = {power.component: power.constant for power in report_on(document).power}
    assert constant == {"platform": False, "package": False, "core": True, "uncore": False, "dram": False}


def test_the_report_can_be_written_as_json(small: Document) -> None:
    # a recording with one timestamp has the step NaN, which is null in JSON
    for document in (small, cut(small, 1)):
        report = report_on(document)
        decoded = json.loads(msgspec.json.encode(report.as_dict()))
        assert decoded["trainable"] == report.trainable
        assert decoded["digest"] == report.digest
        assert len(decoded["groups"]) == len(report.groups)
    assert decoded["nodes"][0]["step"] is None


def test_utc_times() -> None:
    assert utc(1_700_000_000) == "2023-11-14 22:13:20"
    assert "1e+20" in utc(1e20)
