"""Tests of the page that the output `prometheus` serves beside the metrics."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from support.readings import MEASURED, reading

from kepler_core.errors import MeterError
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_servers.meter.prometheus_output import PrometheusOutput


@pytest.fixture
def output(tmp_path: Path) -> Iterator[PrometheusOutput]:
    opened = PrometheusOutput(port=0, root=str(tmp_path))
    opened.open()
    yield opened
    opened.close()


def get(output: PrometheusOutput, path: str = "/", method: str = "GET", language: str = "en") -> tuple[int, str, str]:
    """Return the status, the body and the Content-Security-Policy of an answer."""
    headers = {"Accept-Language": language}
    request = urllib.request.Request(f"http://127.0.0.1:{output.port}{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers.get("Content-Security-Policy", "")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers.get("Content-Security-Policy", "")


def loaded(provenance: Provenance | None = None) -> Reading:
    observation = Observation(1.0, 1.0, {}, load=0.25)
    changed = attrs.evolve(reading(package=42.0), observation=observation, full=Power(90.0, 80.0, 100.0))
    return changed if provenance is None else attrs.evolve(changed, provenance=provenance)


def test_the_reason_is_shown_while_there_are_no_watts(output: PrometheusOutput) -> None:
    status, page, policy = get(output)
    assert status == 200
    assert policy.startswith("default-src 'none';")
    assert "The power cannot be estimated:" in page
    assert "the meter has just started" in page


def test_watts_interval_source_and_advice(output: PrometheusOutput) -> None:
    output.advise_with(lambda reading: [f"Buy a plug meter for {reading.main}."])
    output.write(loaded(), {"package": 1234.0})
    page = get(output)[1]
    for text in ("42.0 W", "90 % interval: 37.8 to 46.2 W", "25 %", "machine-formula", "Buy a plug meter for package."):
        assert text in page
    assert "1,234" in page
    assert "90-%-Intervall: 37.8 bis 46.2 W" in get(output, language="de")[1]


def test_a_measurement_needs_no_advice(output: PrometheusOutput) -> None:
    output.write(attrs.evolve(reading(platform=42.0), provenance=MEASURED), {"platform": 0.0})
    page = get(output)[1]
    assert "The watts are measured. Nothing more is needed." in page
    assert "Only one component is measured" not in page


def test_a_meter_of_the_processors_is_not_taken_for_one_of_the_machine(output: PrometheusOutput) -> None:
    output.write(attrs.evolve(reading(package=42.0), provenance=MEASURED), {"package": 0.0})
    page = get(output)[1]
    assert "Only one component is measured: processors. The watts do not include the rest of the machine." in page
    assert "Nothing more is needed" not in page


def test_advice_that_fails_is_reported(output: PrometheusOutput) -> None:
    def advise(_: Reading) -> list[str]:
        raise MeterError("no <machine>")

    output.advise_with(advise)
    output.write(loaded(), {"package": 0.0})
    page = get(output)[1]
    assert "unknown: no &lt;machine&gt;" in page


def test_names_of_a_foreign_model_are_only_text(output: PrometheusOutput) -> None:
    output.write(loaded(Provenance("model", "<script>x</script>\u202e", "\"'>", "<b>")), {"package": 0.0})
    page = get(output)[1]
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "\u202e" not in page


def test_metrics_are_served_as_before(output: PrometheusOutput) -> None:
    output.write(loaded(), {"package": 0.0})
    status, text, _ = get(output, "/metrics")
    assert status == 200
    assert 'kepler_meter_watts{component="package"} 42.0' in text


@pytest.mark.parametrize(("path", "status"), [("/ui/assets/style.css", 200), ("/ui/nothing", 404), ("/?lang=xx", 200)])
def test_other_paths(output: PrometheusOutput, path: str, status: int) -> None:
    assert get(output, path)[0] == status
    assert get(output, path, "HEAD")[:2] == (status, "")
