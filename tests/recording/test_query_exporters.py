"""Tests of `kepler-model query` with a real Prometheus server that scrapes Kepler 0.10 and node_exporter.

Kepler 0.10 is a replayed simulation. node_exporter is the program of Debian's package prometheus-node-exporter.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.command import kepler
from support.process import PATIENCE, wait_for
from support.prometheus_process import PrometheusProcess, need_prometheus, prometheus
from support.server_process import free_port
from support.training import train

from kepler_core.prometheus import select_metrics
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording

SPEED = 25.0
"""Simulated seconds per second of real time. Prometheus scrapes every 5 simulated seconds."""
SCRAPES = 100
PIPELINE = """
abs_trainers: [LinearRegressionTrainer]
feature_groups: [CPUTime]
energy_sources: [rapl-sysfs]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """Run Prometheus until it has scraped each of the two exporters `SCRAPES` times."""
    need_prometheus()
    if shutil.which("prometheus-node-exporter") is None:
        pytest.skip("prometheus-node-exporter is not installed (apt-get install prometheus-node-exporter)")
    folder = tmp_path_factory.mktemp("exporters")
    simulation = Simulation(containers=4, timestamps=1500, step=1, sockets=1, exporter="kepler-0.10", seed=6)
    content = recording(simulation)
    for series in (one for rows in content.values() for one in rows):
        del series["metric"]["instance"], series["metric"]["job"]  # Prometheus adds these labels
    (folder / "simulated.json").write_text(json.dumps(content))
    replay_port, exporter_port = free_port(), free_port()
    options = ["--web.listen-address", f"127.0.0.1:{exporter_port}", "--collector.disable-defaults"]
    options += [f"--collector.{name}" for name in ("cpu", "meminfo", "stat", "netdev", "diskstats", "vmstat")]
    commands = [
        [
            sys.executable,
            "-m",
            "kepler_core",
            "replay",
            str(folder / "simulated.json"),
            "--port",
            str(replay_port),
            "--speed",
            str(SPEED),
        ],
        ["prometheus-node-exporter", *options],
    ]
    processes = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    try:
        for port in (replay_port, exporter_port):
            wait_for(lambda port=port: answers(port), f"port {port} does not answer", PATIENCE)
        targets = [f"127.0.0.1:{replay_port}", f"127.0.0.1:{exporter_port}"]
        with prometheus(folder / "prometheus", targets=targets, scrape="200ms") as process:
            counted = "min(count_over_time(up[5m]))"
            wait_for(lambda: count(process, counted) >= SCRAPES, "too few scrapes", 4 * PATIENCE)
            yield process
    finally:
        for running in processes:
            running.kill()
            running.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5):
            return True
    except OSError:
        return False


def count(process: PrometheusProcess, query: str) -> float:
    result = process.ask(query)
    return float(result[0]["value"][1]) if result else 0.0


def test_kepler_and_node_exporter_are_queried_validated_trained_and_applied(
    server: PrometheusProcess, tmp_path: Path
) -> None:
    recorded = tmp_path / "recording.json.gz"
    done = kepler("query", "--server", server.url, "--last", "5m", "-o", recorded)
    assert done.returncode == 0, done.stderr
    report = json.loads(kepler("validate", recorded, "--json").stdout)
    assert report["schema"] == "kepler-0.10, node_exporter"
    assert len(report["nodes"]) == 1
    assert {"node_context_switches_total", "kepler_process_cpu_seconds_total"} <= set(report["metrics"])
    observations = observe([read_recording(recorded)])
    watts, switches = observations.power["rapl-sysfs", "package"], observations.node_features["context_switches"]
    assert np.count_nonzero(np.isfinite(watts) & np.isfinite(switches)) > SCRAPES / 2
    (tmp_path / "cpu.yaml").write_text(PIPELINE)
    trained = train(tmp_path / "cpu.yaml", "-i", recorded, "-s", tmp_path / "models")
    assert {model["feature_group"] for model in trained["models"]} == {"CPUTime"}
    applied = kepler("estimate", "-s", tmp_path / "models", "-i", recorded, "-o", tmp_path / "e.csv")
    assert applied.returncode == 0, applied.stderr
    with (tmp_path / "e.csv").open() as file:
        estimated = [float(row["package_predicted"]) for row in csv.DictReader(file)]
    assert np.mean(estimated) == pytest.approx(float(np.nanmean(watts)), rel=0.05)


def test_a_pipeline_gets_only_the_metrics_that_it_needs(server: PrometheusProcess, tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text(PIPELINE)
    recorded = tmp_path / "recording.json"
    done = kepler(
        "query", "--server", server.url, "--last", "1m", "--pipeline", tmp_path / "cpu.yaml", "-o", recorded, "--json"
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(recorded.read_text())
    assert set(content) == {
        "kepler_process_cpu_seconds_total",
        "kepler_node_cpu_active_joules_total",
        "kepler_node_cpu_idle_joules_total",
        "kepler_node_cpu_joules_total",
    }
    zones = {series["metric"]["zone"] for series in content["kepler_node_cpu_joules_total"]}
    assert zones == {"package", "core", "uncore", "dram"}


def test_a_cluster_without_kepler_is_queried_for_node_exporter() -> None:
    names = ["node_cpu_seconds_total", "node_rapl_package_joules_total", "node_load1"]
    selections = {one.metric: one.matchers for one in select_metrics(names, instance="a:9100")}
    assert set(selections) == {"node_cpu_seconds_total", "node_rapl_package_joules_total"}
    assert selections["node_rapl_package_joules_total"] == ('instance=~"a:9100"',)
