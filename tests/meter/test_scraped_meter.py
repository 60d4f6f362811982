"""Test that Debian's node_exporter reads the folder of a meter, and that Prometheus scrapes meter and node_exporter."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.meter_process import SensorMachine, running_meter
from support.process import PATIENCE, wait_for
from support.prometheus_process import prometheus
from support.server_process import free_port

EXPORTER = "prometheus-node-exporter"
WINDOW_SECONDS = 30


@contextmanager
def node_exporter(tree: Path, log: Path) -> Iterator[int]:
    """Run node_exporter, and yield its port. It reads the meter's folder `tree` in place of /sys."""
    if shutil.which(EXPORTER) is None:
        pytest.skip(f"{EXPORTER} is not installed (apt-get install {EXPORTER})")
    port = free_port()
    command = [
        EXPORTER, f"--path.sysfs={tree}", f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults",
        "--collector.rapl", "--collector.hwmon",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: scraped(port) is not None, "node_exporter does not answer")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def scraped(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return None


def test_the_rate_of_node_exporters_counter_is_the_watts(tmp_path: Path) -> None:
    machine = SensorMachine(tmp_path / "machine", watts=42.0)
    tree, port = tmp_path / "tree", free_port()
    options = ("-o", "powercap", "-o", "hwmon", "--metrics-port", str(port))
    with (
        running_meter(machine.root, tree, *options),
        node_exporter(tree, tmp_path / "exporter.log") as exporter,
        prometheus(tmp_path / "prometheus", targets=[f"127.0.0.1:{exporter}", f"127.0.0.1:{port}"]) as server,
    ):
        time.sleep(2)
        machine.set(84.0)
        time.sleep(WINDOW_SECONDS + 5)

        def value(query: str) -> float:
            (series,) = server.ask(query)
            return float(series["value"][1])

        window = f"[{WINDOW_SECONDS}s]"
        assert value(f"avg_over_time(kepler_meter_watts{window})") == 84.0
        assert value("node_hwmon_power_watt") == 84.0
        assert value(f"rate(node_rapl_package_joules_total{window})") == pytest.approx(84.0, rel=0.01)
        assert value(f"rate(kepler_meter_joules_total{window})") == pytest.approx(84.0, rel=0.01)
        for counter in ("node_rapl_package_joules_total", "kepler_meter_joules_total"):
            assert value(f"resets({counter}[1h])") == 0
