"""Tests of the output `prometheus`: the metrics of the meter, and the metrics with Kepler's names."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.readings import MEASURED, reading

from kepler_core.errors import OutputError
from kepler_core.metering import Observation, Power, Reading
from kepler_servers.meter.kepler_names import NodeEnergy
from kepler_servers.meter.prometheus_output import PrometheusOutput
from kepler_servers.meter.status import MeterStatus

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
physical id\t: 0
core id\t\t: 3
"""


def scrape(output: PrometheusOutput) -> Series:
    with urllib.request.urlopen(f"http://127.0.0.1:{output.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def output(tmp_path: Path) -> Iterator[PrometheusOutput]:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(CPUINFO)
    opened = PrometheusOutput(port=0, kepler_names=True, root=str(tmp_path))
    opened.open()
    yield opened
    opened.close()


def observed(**watts: float) -> Reading:
    observation = Observation(time.time(), 1.0, {"cpu_user_ms": 500.0}, load=0.2, steal=0.05, problems=("no perf",))
    idle = Power(20.0, 15.0, 25.0)
    return attrs.evolve(reading(**watts), observation=observation, idle=idle, flags=("extrapolating",))


def test_the_metrics_of_a_reading(output: PrometheusOutput) -> None:
    output.write(observed(package=42.0), {"package": 1000.0})
    series = scrape(output)
    package = (("component", "package"),)
    assert series["kepler_meter_estimate", ()] == 1
    assert series["kepler_meter_watts", package] == 42.0
    assert series["kepler_meter_watts_lower", package] == pytest.approx(37.8)
    assert series["kepler_meter_watts_upper", package] == pytest.approx(46.2)
    assert series["kepler_meter_idle_watts", ()] == 20.0
    assert series["kepler_meter_flag", (("flag", "extrapolating"),)] == 1
    assert series["kepler_meter_feature", (("feature", "cpu_user_ms"),)] == 500.0
    assert series["kepler_meter_load_ratio", ()] == 0.2
    (info,) = [dict(labels) for name, labels in series if name == "kepler_meter_source_info"]
    assert (info["kind"], info["name"], info["version"]) == ("formula", "machine-formula", "1")
    assert series["kepler_vm_model_version", (("version", "1"), ("zone", "package"))] == 1


def test_energy_rises_with_the_watts_and_never_falls(output: PrometheusOutput) -> None:
    package = ("kepler_meter_joules_total", (("component", "package"),))
    begin = time.monotonic()
    output.write(observed(package=1e5), {"package": 1000.0})
    first = scrape(output)[package]
    second = scrape(output)[package]
    assert 1000.0 < first < second <= 1000.0 + 1e5 * (time.monotonic() - begin)
    output.write(observed(package=1.0), {"package": 1000.0})
    assert scrape(output)[package] == second, "Prometheus would take a lower value for a restart"


def test_without_an_estimate_there_are_no_watts(output: PrometheusOutput) -> None:
    output.write(observed(package=42.0), {"package": 1000.0})
    output.withdraw("no source knows the power")
    series = scrape(output)
    assert series["kepler_meter_estimate", ()] == 0
    assert series["kepler_meter_problem_info", (("problem", "no source knows the power"),)] == 1
    assert series["kepler_meter_problems", ()] == 1
    assert not any("watts" in name or "joules" in name for name, _ in series)


def test_the_status_of_the_meter_is_served(output: PrometheusOutput) -> None:
    status = MeterStatus(
        pid=1, started=0.0, time=0.0, interval=1.0, power={}, reason="", kind="", source="", version="",
        description="", idle_share="", flags=[], features={}, problems=["no perf"],
        output_problems={"powercap": "the disk is full"}, collect_seconds=0.002, estimate_seconds=0.001,
        latest_delay_seconds=0.03,
    )  # fmt: skip
    output.write(observed(package=42.0), {"package": 1000.0})
    output.report(status)
    series = scrape(output)
    assert series["kepler_meter_problem_info", (("problem", "no perf"),)] == 1
    assert series["kepler_meter_problem_info", (("problem", "output powercap: the disk is full"),)] == 1
    assert series["kepler_meter_problems", ()] == 2
    assert series["kepler_meter_latest_delay_seconds", ()] == 0.03
    assert series["kepler_vm_model_inference_duration_seconds", (("zone", "package"),)] == 0.001


def test_the_metrics_of_kepler(output: PrometheusOutput) -> None:
    output.write(observed(package=40.0, platform=80.0), {"package": 1000.0, "platform": 2000.0})
    output.write(observed(package=40.0, platform=80.0), {"package": 1040.0, "platform": 2080.0})
    kepler: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
    for (name, labels), value in scrape(output).items():
        if name.startswith("kepler_node_"):
            kepler[name, dict(labels).get("zone", "")] = value, dict(labels)
    assert kepler["kepler_node_cpu_watts", "package"][0] == 40.0
    assert kepler["kepler_node_cpu_watts", "psys"][0] == 80.0
    assert kepler["kepler_node_cpu_active_watts", "package"][0] == pytest.approx(10.0), "Kepler counts steal as busy"
    assert kepler["kepler_node_cpu_idle_watts", "package"][0] == pytest.approx(30.0)
    assert kepler["kepler_node_cpu_active_joules_total", "package"][0] == pytest.approx(10.0)
    assert kepler["kepler_node_cpu_idle_joules_total", "package"][0] == pytest.approx(30.0)
    assert kepler["kepler_node_cpu_joules_total", "package"][0] == pytest.approx(40.0)
    assert set(kepler["kepler_node_cpu_watts", "package"][1]) == {"zone", "path", "node_name"}
    assert kepler["kepler_node_cpu_usage_ratio", ""][0] == pytest.approx(0.25)
    info = kepler["kepler_node_cpu_info", ""][1]
    assert info["core_id"] == "3"
    assert info["model_name"] == "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"


def test_a_measured_power_has_no_model_version(output: PrometheusOutput) -> None:
    output.write(reading(MEASURED, package=40.0), {"package": 1000.0})
    names = {name for name, _ in scrape(output)}
    assert "kepler_vm_model_version" not in names
    assert "kepler_node_cpu_usage_ratio" not in names, "the load is not known"


def test_energy_is_divided_by_the_usage_of_its_period() -> None:
    energy = NodeEnergy()
    for joules, ratio in ((500.0, 1.0), (600.0, 0.25), (700.0, 0.75)):
        energy.add({"package": joules}, ratio)
    assert energy.active == {"package": 100.0}
    assert energy.idle == {"package": 100.0}


def test_a_port_in_use_is_reported(output: PrometheusOutput) -> None:
    with pytest.raises(OutputError, match=r"cannot serve metrics: cannot listen on 127\.0\.0\.1:"):
        PrometheusOutput(port=output.port).open()
