"""Tests of reading the metrics of an exporter over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.prometheus_process import answering
from support.server_process import free_port

from kepler_core.errors import UsageError
from kepler_core.recording import read_recording
from kepler_core.scrape.readings import Readings
from kepler_core.scrape.scraper import ScrapeError, Scraper


def test_readings_are_a_recording(tmp_path: Path) -> None:
    values = iter(["1", "2.5", "NaN", "4"])
    text = 'kepler_x_total{{zone="package",node_name=""}} {}\nother 1\n'
    with answering(lambda path, headers: (200, {}, text.format(next(values)).encode())) as url:
        scraper = Scraper(url, lambda metric: metric.startswith("kepler_"))
        readings = Readings({"instance": scraper.instance})
        for _ in range(4):
            readings.add(scraper.scrape())
    readings.write(tmp_path / "host.json.gz")
    recording = read_recording(tmp_path / "host.json.gz")
    (metric,) = recording.metrics.values()
    assert metric.labels == ({"zone": "package", "instance": scraper.instance},)
    assert metric.values.tolist() == [1, 2.5, 4]
    assert json.loads(json.dumps(readings.content())).keys() == {"kepler_x_total"}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [(404, b"", "HTTP status 404"), (200, b"<html>", "not the metrics of an exporter: line 1")],
)
def test_a_wrong_answer_is_an_error_with_its_reason(status: int, body: bytes, message: str) -> None:
    with answering(lambda path, headers: (status, {}, body)) as url, pytest.raises(ScrapeError, match=message):
        Scraper(url, lambda metric: True).scrape()


def test_an_exporter_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ScrapeError, match="Connection refused"):
        Scraper(f"http://127.0.0.1:{free_port()}", lambda metric: True).scrape()


@pytest.mark.parametrize("url", ["host:28282", "file:///etc/passwd", "http://user:secret@host/metrics"])
def test_only_plain_http_urls_are_read(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Scraper(url, lambda metric: True)
    assert "secret" not in str(caught.value)
