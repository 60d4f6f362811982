"""Tests of recordings with the metrics of several exporters on each machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.command import kepler

from kepler_core.arrays import FloatArray
from kepler_core.errors import RecordingError
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.prometheus import select_metrics
from kepler_core.recording import Observations, check, observe, read_recording
from kepler_core.recording.alignment import interpolated

START = 1_700_000_000.0
N = 200
STEP = 5.0
CPUS = 4
Content = dict[str, list[dict[str, Any]]]


def load(number: int = 0) -> FloatArray:
    """Return the CPU seconds of a machine in each second, shape (seconds,)."""
    random = np.random.default_rng(number)
    # the load changes every 23 s; this is no multiple of the scrape interval
    return np.repeat(random.uniform(0.1, 0.9 * CPUS, 60), 23)[: int(N * STEP)]


def power(cpu_seconds: FloatArray) -> FloatArray:
    return 30.0 + 20.0 * cpu_seconds


def series(values: FloatArray, times: FloatArray, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": [[t, repr(v)] for t, v in zip(times.tolist(), values.tolist(), strict=True)]}


def counter(rates: FloatArray, times: FloatArray) -> FloatArray:
    """Return the values of a counter at `times`. `rates` has the counter's rate in each second since `START`."""
    return np.interp(times, START + np.arange(len(rates) + 1), np.concatenate([[0.0], np.cumsum(rates)]))


def scrapes(phase: float, step: float = STEP) -> FloatArray:
    return START + phase + step * np.arange(int((N - 2) * STEP / step))


def kepler_010(instance: str = "10.0.0.5:28282", number: int = 0, *, usage: bool = True, **labels: str) -> Content:
    """Return a recording of Kepler 0.10: the energy of a machine, and the CPU time of the machine's only process."""
    times, used = scrapes(0.0), load(number)
    zone = {"zone": "package", "path": "/sys/class/powercap/intel-rapl:0"}
    content: Content = {
        "kepler_node_cpu_joules_total": [
            series(counter(power(used), times), times, instance=instance, job="kepler", **zone, **labels)
        ]
    }
    if usage:
        process = {"pid": "1", "comm": "app", "type": "regular"}
        content["kepler_process_cpu_seconds_total"] = [
            series(counter(used, times), times, instance=instance, job="kepler", **process, **labels)
        ]
    return content


def node_exporter(
    instance: str = "10.0.0.5:9100", number: int = 0, *, phase: float = 2.0, step: float = STEP, **labels: str
) -> Content:
    """Return a recording of node_exporter: the CPU time of a machine, with equal user time and system time."""
    times = scrapes(phase, step)
    rows: list[dict[str, Any]] = []
    for cpu in range(CPUS):
        for mode, part in (("user", 0.5), ("system", 0.5), ("idle", 3.0), ("iowait", 1.0)):
            values = counter(load(number) * part / CPUS, times)
            rows.append(series(values, times, instance=instance, job="node", cpu=str(cpu), mode=mode, **labels))
    return {"node_cpu_seconds_total": rows}


def joined(contents: Sequence[Content]) -> Content:
    result: Content = {}
    for content in contents:
        for metric, rows in content.items():
            result.setdefault(metric, []).extend(rows)
    return result


def observed(*contents: Content) -> Observations:
    return observe([read_recording(joined(contents), name="recording")])


def slope(observations: Observations, stream: int = 0) -> float:
    """Return the watts that a node draws for each busy CPU, from a line fitted to watts over CPU time."""
    own = observations.sample_stream == stream
    usage = observations.node_features["bpf_cpu_time_ms"][own] / 1000
    watts = observations.power["rapl-sysfs", "package"][own]
    known = np.isfinite(usage) & np.isfinite(watts)
    assert np.count_nonzero(known) > 0.9 * N
    return float(np.polyfit(usage[known], watts[known], 1)[0])


def test_usage_and_energy_of_two_exporters_are_brought_to_the_same_times() -> None:
    observations = observed(kepler_010(usage=False), node_exporter())
    assert observations.schemas == ("kepler-0.10", "node_exporter")
    assert len(observations.streams) == 1
    assert slope(observations) == pytest.approx(20.0, rel=0.02)


def test_user_and_system_time_add_up_and_idle_time_is_no_work() -> None:
    observations = observed(kepler_010(usage=False), node_exporter(phase=0.0))
    usage = observations.node_features["bpf_cpu_time_ms"] / 1000
    known = np.isfinite(usage)
    watts = observations.power["rapl-sysfs", "package"]
    np.testing.assert_allclose(power(usage[known]), watts[known], rtol=1e-6)


def test_a_feature_of_two_exporters_counts_once() -> None:
    observations = observed(kepler_010(), node_exporter())
    usage = observations.node_features["bpf_cpu_time_ms"] / 1000
    assert float(np.nanmean(usage)) == pytest.approx(float(np.mean(load()[: int((N - 2) * STEP)])), rel=0.02)
    assert observations.containers == ("system_processes",)
    assert observations.counts.of("other_exporters")["node_cpu_seconds_total"] > 0
    assert slope(observations) == pytest.approx(20.0, rel=0.005)


def test_exporters_are_joined_by_the_name_of_the_machine() -> None:
    observations = observed(
        kepler_010("10.244.0.7:28282", usage=False, node_name="worker-1"),
        kepler_010("10.244.0.9:28282", 1, usage=False, node_name="worker-2"),
        node_exporter("192.168.0.1:9100", node="worker-1"),
        node_exporter("192.168.0.2:9100", 1, node="worker-2"),
    )
    assert len(observations.streams) == 2
    for stream in range(2):
        assert slope(observations, stream) == pytest.approx(20.0, rel=0.02)


def test_an_exporter_that_fits_two_machines_is_joined_with_none() -> None:
    first, second = kepler_010("10.0.0.5:28282", usage=False), kepler_010("10.0.0.5:28283", 1, usage=False)
    recording = read_recording(joined([first, second, node_exporter("10.0.0.5:9100")]), name="recording")
    observations = observe([recording])
    assert len(observations.streams) == 3
    watts, usage = observations.power["rapl-sysfs", "package"], observations.node_features["bpf_cpu_time_ms"]
    assert not (np.isfinite(watts) & np.isfinite(usage)).any()
    report = check(recording)
    assert not report.trainable
    assert any(finding.kind == "ambiguous_hosts" for finding in report.findings)


def test_an_exporter_that_is_scraped_seldom_sets_the_times() -> None:
    observations = observed(kepler_010(usage=False), node_exporter(step=20.0))
    assert observations.step == 20.0
    usage = observations.node_features["bpf_cpu_time_ms"] / 1000
    watts = observations.power["rapl-sysfs", "package"]
    known = np.isfinite(usage) & np.isfinite(watts)
    assert np.count_nonzero(known) > 40
    assert float(np.polyfit(usage[known], watts[known], 1)[0]) == pytest.approx(20.0, rel=0.02)


def test_a_node_without_kepler_has_features_and_power_from_node_exporter() -> None:
    times = scrapes(2.0)
    energy = counter(power(load()) / 2, times)
    rapl = [
        series(energy, times, instance="10.0.0.5:9100", index=str(at), path=f"/sys/class/powercap/intel-rapl:{at}")
        for at in range(2)
    ]
    observations = observed(node_exporter(), {"node_rapl_package_joules_total": rapl})
    assert observations.schemas == ("node_exporter",)
    assert slope(observations) == pytest.approx(20.0, rel=1e-6)


def test_the_same_meter_of_two_exporters_is_not_added() -> None:
    times = scrapes(2.0)
    rapl = [series(counter(power(load()), times), times, instance="10.0.0.5:9100", index="0")]
    observations = observed(kepler_010(), node_exporter(), {"node_rapl_package_joules_total": rapl})
    assert slope(observations) == pytest.approx(20.0, rel=0.02)


def test_containers_of_the_kubelet_are_not_added_to_their_pods_and_slices() -> None:
    times = scrapes(1.0)
    one = f"/kubepods/pod1/{'a' * 64}"
    names = {"namespace": "default", "pod": "web-0"}
    rows = [
        series(counter(load(), times), times, instance="node-1:10250", id=one, container="web", image="i", **names),
        series(counter(load(), times), times, instance="node-1:10250", id="/kubepods/pod1", **names),
        series(counter(load(), times), times, instance="node-1:10250", id="/kubepods"),
        series(counter(load(), times), times, instance="node-1:10250", id="/"),
    ]
    observations = observed({"container_cpu_usage_seconds_total": rows}, kepler_010("node-1:28282", usage=False))
    assert observations.containers == (one,)
    assert observations.container_names == ("default/web-0/web",)
    assert slope(observations) == pytest.approx(20.0, rel=0.02)


def test_user_and_system_time_of_a_job_are_one_unit() -> None:
    times = scrapes(0.0)
    job = {"instance": "node-1:9010", "hostname": "node-1", "uuid": "7", "manager": "slurm"}
    content: Content = {
        f"ceems_compute_unit_cpu_{part}_seconds_total": [series(counter(load() / 2, times), times, **job)]
        for part in ("user", "system")
    }
    content["ceems_rapl_package_joules_total"] = [
        series(counter(power(load()), times), times, instance="node-1:9010", hostname="node-1", index="0")
    ]
    observations = observed(content)
    assert observations.containers == ("7",)
    assert slope(observations) == pytest.approx(20.0, rel=1e-6)
    del content["ceems_compute_unit_cpu_user_seconds_total"]
    # Without user time, the system time counts as the whole CPU time. It is half, so the watts per CPU double.
    half = observed(content)
    assert slope(half) == pytest.approx(40.0, rel=1e-6)


def test_series_with_unknown_label_values_are_reported() -> None:
    content = kepler_010()
    content["kepler_node_cpu_joules_total"].append(
        series(np.arange(5.0), scrapes(0.0)[:5], instance="10.0.0.5:28282", zone="cpu_rail_1")
    )
    report = check(read_recording(content, name="recording"))
    (finding,) = [finding for finding in report.findings if finding.kind == "unmapped_series"]
    assert "zone=cpu_rail_1" in finding.example


def test_validate_shows_why_a_metric_is_not_used(tmp_path: Any) -> None:
    content = kepler_010()
    content["kepler_node_cpu_watts"] = [series(np.full(5, 7.0), scrapes(0.0)[:5], instance="a", zone="package")]
    path = tmp_path / "recording.json"
    path.write_text(json.dumps(content))
    done = kepler("validate", path)
    assert "kepler_node_cpu_watts: not used: covers only the exporter's last window" in done.stdout
    report = json.loads(kepler("validate", path, "--json").stdout)
    assert set(report["unused_metrics"]) == {"kepler_node_cpu_watts"}
    assert report["other_metrics"] == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.0, 5.0, 12.5], [0.0, 10.0, 25.0]),
        ([-1.0, 31.0], []),
        ([22.0, 28.0], [6.0]),  # the counter falls between 20 and 25
    ],
)
def test_counters_are_interpolated_between_values_without_a_fall(wanted: list[float], expected: list[float]) -> None:
    times = np.array([0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0])
    values = np.array([0.0, 10.0, 20.0, 30.0, 40.0, 0.0, 10.0])
    _, result = interpolated(times, values, np.array(wanted), True)
    np.testing.assert_allclose(result, expected)


def test_nothing_is_interpolated_in_a_gap() -> None:
    times = np.array([0.0, 5.0, 10.0, 100.0, 105.0])
    at, _ = interpolated(times, times, np.array([2.0, 50.0, 102.0]), True)
    np.testing.assert_allclose(at, [2.0, 102.0])


def test_a_host_metric_can_be_a_third_party_feature_and_cpu_time_cannot() -> None:
    times = scrapes(2.0)
    switches = [series(counter(10.0 * load(), times), times, instance="10.0.0.5:9100")]
    content = joined([kepler_010(), {"node_context_switches_total": switches}])
    read = read_recording(content, name="recording")
    named = observe([read], third_party=["node_context_switches_total"])
    values = named.node_features["node_context_switches_total"]
    assert float(np.nanmean(values)) == pytest.approx(10 * float(np.mean(load()[: int((N - 2) * STEP)])), rel=0.02)
    with pytest.raises(RecordingError, match="maps it to bpf_cpu_time_ms, which is in the feature groups already"):
        observe([read], third_party=["kepler_process_cpu_seconds_total"])
    pipeline = PipelineSpec(name="p", third_party=["node_context_switches_total"])
    assert "node_context_switches_total" in {one.metric for one in select_metrics(list(content), spec=pipeline)}
