"""Run the checks of built-in metric schemas on the output of a simulated Kepler 0.10 and of a real node_exporter."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from support.process import PATIENCE, wait_for
from support.server_process import free_port

from kepler_core.simulate import Simulation, recording
from kepler_core.testing import check_metric_schema
from kepler_core.testing.checks import CheckError


def scrape_of_kepler() -> str:
    """Return the text that a simulated Kepler 0.10 shows at /metrics."""
    content = recording(Simulation(containers=4, timestamps=40, exporter="kepler-0.10", sockets=1, churn=0.5))
    lines = []
    for metric, rows in content.items():
        lines.append(f"# TYPE {metric} {'counter' if metric.endswith('_total') else 'gauge'}")
        for row in rows:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in row["metric"].items() if name[0] != "_")
            lines.append(f"{metric}{{{labels}}} {row['values'][-1][1]}")
    return "\n".join(lines)


@pytest.fixture
def scrape_of_node_exporter() -> Iterator[str]:
    if shutil.which("prometheus-node-exporter") is None:
        pytest.skip("prometheus-node-exporter is not installed (apt-get install prometheus-node-exporter)")
    port = free_port()
    command = ["prometheus-node-exporter", "--web.listen-address", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    texts: list[str] = []

    def is_read() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                texts.append(answer.read().decode())
        except OSError:
            return False
        return True

    try:
        wait_for(is_read, "node_exporter does not answer", PATIENCE)
        yield texts[0]
    finally:
        process.kill()
        process.wait()


def test_every_metric_of_kepler_is_mapped_or_has_a_reason() -> None:
    check_metric_schema("kepler-0.10", scrape=scrape_of_kepler())


def test_a_new_metric_and_a_new_zone_of_kepler_are_found() -> None:
    with pytest.raises(CheckError, match="kepler_node_cpu_gas_joules_total is not mapped"):
        check_metric_schema("kepler-0.10", scrape='kepler_node_cpu_gas_joules_total{zone="package"} 1\n')
    with pytest.raises(CheckError, match="cpu_rail"):
        check_metric_schema("kepler-0.10", scrape='kepler_node_cpu_joules_total{zone="cpu_rail"} 1\n')


def test_every_metric_of_node_exporter_about_cpus_and_power_is_mapped_or_has_a_reason(
    scrape_of_node_exporter: str,
) -> None:
    assert "node_cpu_seconds_total" in scrape_of_node_exporter
    check_metric_schema("node_exporter", scrape=scrape_of_node_exporter)
