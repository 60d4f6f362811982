"""Test that trainings leave out, and report, features that are always 0 and idle energy without dynamic energy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import power_law
from support.command import kepler
from support.power_law import CPU_TIME, Document, change

from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.observing import observe_for
from kepler_core.recording import Observations, check, read_recording
from kepler_core.recording.findings import findings
from kepler_core.simulate import Simulation, recording

CACHE_MISSES = "kepler_container_cache_miss_total"
PAGE_CACHE = "kepler_container_bpf_page_cache_hit_total"
COUNTERS = ("kepler_container_cpu_cycles_total", "kepler_container_cpu_instructions_total", CACHE_MISSES)
PIPELINE = {
    "name": "mine",
    "feature_groups": "auto",
    "abs_trainers": ["LinearRegressionTrainer"],
    "validation": {"folds": 3},
}
DYNAMIC = {**PIPELINE, "dyn_trainers": ["LinearRegressionTrainer"]}


def document(*dead: str, **settings: Any) -> Document:
    """Return a recording with the features of two feature groups. The values of the metrics `dead` are always 0."""
    content = power_law.document(samples=120, **settings)
    for metric, factor in ((CACHE_MISSES, 900.0), (PAGE_CACHE, 5.0)):
        content[metric] = json.loads(json.dumps(content[CPU_TIME]))
        for series in content[metric]:
            series["metric"]["__name__"] = metric
            change(series, lambda values, factor=factor: factor * values)
    for metric in dead:
        for series in content[metric]:
            change(series, np.zeros_like)
    return content


def on_node(content: Document, node: str) -> Document:
    """Change the node label and the container ids of a recording, as if it was from another node."""
    for labels in (series["metric"] for metric in content.values() for series in metric):
        labels["instance"] = node
        if "container_id" in labels:
            labels["container_id"] = labels["container_id"][::-1]
    return content


def both(one: Document, two: Document) -> Document:
    return {metric: [*one.get(metric, []), *two.get(metric, [])] for metric in {**one, **two}}


def only_idle(content: Document, word: str = "joules") -> Document:
    return {
        metric: [s for s in series if word not in metric or s["metric"].get("mode") != "dynamic"]
        for metric, series in content.items()
    }


def observed(content: Document) -> Observations:
    return observe_for(pipeline_from(PIPELINE, "mine"), [read_recording(content, name="recording")])


def kinds(observations: Observations) -> set[str]:
    return {finding.kind for finding in findings(observations.counts)}


def train(folder: Path, content: Document, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.yaml").write_text(json.dumps(DYNAMIC))
    (folder / "recording.json").write_text(json.dumps(content))
    return kepler(
        "train", "mine.yaml", "-i", "recording.json", "-s", "models", "-j", "1", "--json", *options, cwd=folder
    )


@pytest.mark.parametrize(
    ("dead", "trained", "left_out", "named"),
    [
        ((CPU_TIME, PAGE_CACHE), {"CounterOnly"}, "BPFOnly", "bpf_cpu_time_ms, bpf_page_cache_hit"),
        (COUNTERS, {"CPUTime", "BPFOnly"}, "CounterOnly", "cache_miss, cpu_cycles, cpu_instructions"),
        (COUNTERS[1:2], {"CPUTime", "BPFOnly"}, "CounterOnly", "cpu_instructions"),
    ],
    ids=["no eBPF", "no hardware counters", "no instructions"],
)
def test_groups_of_dead_features_are_not_trained(
    tmp_path: Path, dead: tuple[str, ...], trained: set[str], left_out: str, named: str
) -> None:
    done = train(tmp_path, document(*dead))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {model["feature_group"] for model in report["models"]} == trained
    reasons = {skipped["reason"] for skipped in report["skipped"] if skipped["feature_group"] == left_out}
    assert reasons == {f"{named}: 0 at all times although the CPUs run"}
    assert {finding["where"] for finding in report["findings"] if finding["kind"] == "dead_features"} == set(
        named.split(", ")
    )
    metadata = json.loads((tmp_path / "models" / "mine" / "metadata.json").read_text())
    assert "dead_features" in {finding["kind"] for finding in metadata["findings"]}


def test_validate_reports_dead_features_as_dead_and_not_as_missing() -> None:
    content = document(CPU_TIME, PAGE_CACHE)
    del content[CACHE_MISSES]
    report = check(read_recording(content, name="recording"))
    groups = {group.feature_group: group for group in report.groups if group.source == "acpi"}
    dead = f"{CPU_TIME}, {PAGE_CACHE}: 0 at all times although the CPUs run"
    assert (groups["BPFOnly"].missing, groups["BPFOnly"].reason) == ((), dead)
    assert groups["CounterOnly"].missing == (CACHE_MISSES,)
    assert groups["CounterOnly"].reason == f"missing: {CACHE_MISSES}"
    assert groups["Basic"].missing == (CACHE_MISSES,)
    assert groups["Basic"].reason == f"missing: {CACHE_MISSES}; {dead}"


def test_strict_rejects_dead_features(tmp_path: Path) -> None:
    done = train(tmp_path, document(CPU_TIME, PAGE_CACHE), "--strict")
    assert done.returncode == 1
    assert "bpf_cpu_time_ms" in done.stderr


def test_dead_features_of_one_node_are_left_out_on_this_node_only() -> None:
    content = both(document(CPU_TIME, PAGE_CACHE), on_node(document(seed=1), "node-2"))
    observations = observed(content)
    known = np.isfinite(observations.node_features["bpf_cpu_time_ms"])
    nodes = np.array([stream.node for stream in observations.streams])[observations.sample_stream]
    assert set(nodes[known]) == {"node-2"}
    rows = np.isfinite(observations.container_features["bpf_cpu_time_ms"])
    assert set(nodes[observations.row_sample[rows]]) == {"node-2"}
    assert np.isfinite(observations.node_features["cpu_cycles"][nodes == "node-1"]).any()


def test_estimates_use_a_model_of_live_features(tmp_path: Path) -> None:
    assert train(tmp_path, document()).returncode == 0
    (tmp_path / "later.json").write_text(json.dumps(document(CPU_TIME, PAGE_CACHE, seed=3)))
    done = kepler("estimate", "-s", "models", "-i", "later.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["feature_group"] == "CounterOnly"
    package = summary["components"]["package"]
    assert package["predicted_mean"] == pytest.approx(package["measured_mean"], rel=0.02)
    assert done.stderr.count("bpf_cpu_time_ms") == 1


def test_idle_energy_alone_is_not_trained(tmp_path: Path) -> None:
    done = train(tmp_path, only_idle(document()))
    assert done.returncode == 1
    assert "only idle energy of acpi platform, rapl-sysfs dram, rapl-sysfs package" in done.stderr
    assert not (tmp_path / "models" / "mine").exists()


def test_components_with_idle_energy_alone_are_left_out(tmp_path: Path) -> None:
    done = train(tmp_path, only_idle(document(), "dram"))
    report = json.loads(done.stdout)
    assert {component for model in report["models"] for component in model["components"]} == {"package", "platform"}
    assert [finding["where"] for finding in report["findings"] if finding["kind"] == "idle_only"] == ["rapl-sysfs dram"]


def test_a_socket_with_idle_energy_alone_makes_the_power_of_its_node_unknown() -> None:
    content = both(document(packages=2), on_node(document(seed=1), "node-2"))
    metric = "kepler_node_package_joules_total"
    content[metric] = [
        series
        for series in content[metric]
        if (series["metric"]["instance"], series["metric"]["package"], series["metric"]["mode"])
        != ("node-1", "1", "dynamic")
    ]
    observations = observed(content)
    known = np.isfinite(observations.power["rapl-sysfs", "package"])
    assert {observations.streams[code].node for code in observations.sample_stream[known]} == {"node-2"}
    assert observations.counts.idle_only == {"rapl-sysfs package": 1}


@pytest.mark.parametrize("seed", range(3))
def test_recordings_without_a_fault_have_no_such_finding(seed: int) -> None:
    simulated = recording(Simulation(seed=seed, containers=2 + seed, timestamps=60, nodes=1 + seed % 2))
    for content in (document(seed=seed), simulated):
        assert not {"dead_features", "idle_only"} & kinds(observed(content))


def test_real_recordings_have_no_such_finding(recordings: Path) -> None:
    for path in sorted(recordings.glob("kepler_*.json*")):
        observations = observe_for(pipeline_from(PIPELINE, "mine"), [read_recording(path)])
        assert not {"dead_features", "idle_only"} & kinds(observations), path
