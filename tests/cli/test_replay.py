"""Tests that `kepler-model replay` serves the metrics in a recording."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import kepler
from support.process import PATIENCE, ProcessUnderTest, wait_for
from support.server_process import free_port

from kepler_core.recording import read_recording
from kepler_servers.replay import Replay

HOSTILE_LABEL = 'a "quoted"\\ text\nof two lines, ü'


def content(**changes: Any) -> dict[str, Any]:
    labels = {"instance": "n", "mode": "dynamic", "source": "rapl-sysfs", "package": "0", "odd": HOSTILE_LABEL}
    values = [[1000 + 3 * step, str(30 * step)] for step in range(20)]
    metric = "kepler_node_package_joules_total"
    return {metric: [{"metric": {"__name__": metric, **labels}, "values": values}], **changes}


def families(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        sample.name: [(one.labels, one.value) for one in family.samples]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def replaying(folder: Path, *arguments: str | Path) -> Iterator[str]:
    """Run `kepler-model replay` and yield its URL. At the end, stop the command and check its exit code."""
    port = free_port()
    command = ["replay", *arguments, "--port", str(port)]
    process = ProcessUnderTest(command, folder / "replay.log", program=(sys.executable, "-m", "kepler_core"))
    try:
        process.wait_until(lambda: "replaying" in process.log, "the replay does not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        code = process.stop()
    process.check_log()
    assert code == 0, process.log


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


def test_counters_rise_as_in_the_recording() -> None:
    replay = Replay(read_recording(content()), speed=10.0)
    ((labels, start),) = families("".join(replay.lines(1000)))["kepler_node_package_joules_total"]
    assert (labels["odd"], start) == (HOSTILE_LABEL, 0.0)
    ((_, later),) = families("".join(replay.lines(1031.5)))["kepler_node_package_joules_total"]
    assert later == pytest.approx(10 * 31.5 / 10)  # 10 W for 31.5 s, divided by 10, which is the speed of the replay
    assert list(replay.lines(999)) == []
    assert list(replay.lines(1057 + 3.1)) == []


def test_names_that_prometheus_refuses_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    series = [{"metric": {"instance": "n", "wrong-label": "1"}, "values": [[1000, "1"], [1003, "2"]]}]
    replay = Replay(read_recording(content(**{"a metric} 1\nb": series, "other_metric": series})), speed=1.0)
    assert families("".join(replay.lines(1001)))["other_metric"][0][0] == {"instance": "n"}
    assert {one.name for one in replay.series} == {"kepler_node_package_joules_total", "other_metric"}
    assert "left out a metric} 1 b: Prometheus accepts no such name" in caplog.text


def test_a_recording_is_replayed_until_its_end(tmp_path: Path) -> None:
    (tmp_path / "recording.json").write_text(json.dumps(content()))
    with replaying(tmp_path, tmp_path / "recording.json", "--speed", "1000") as url:
        wait_for(lambda: json.loads(get(f"{url}/progress"))["at"] == 1057.0, "the replay does not reach its end")
        assert json.loads(get(f"{url}/progress")) == {"at": 1057.0, "start": 1000.0, "end": 1057.0, "speed": 1000.0}
        ((_, joules),) = families(get(f"{url}/metrics"))["kepler_node_package_joules_total"]
        assert joules == pytest.approx(0.57)
        assert kepler("health", url).returncode == 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/")


def test_without_a_recording_a_simulated_node_is_replayed(tmp_path: Path) -> None:
    with replaying(tmp_path) as url:
        metrics = families(get(f"{url}/metrics"))
    assert "kepler_node_package_joules_total" in metrics
    assert {labels["instance"] for rows in metrics.values() for labels, _ in rows} == {"node-0"}


def test_errors(tmp_path: Path) -> None:
    assert "missing.json" in kepler("replay", tmp_path / "missing.json").stderr
    (tmp_path / "other.json").write_text(json.dumps({"up": [{"metric": {}, "values": [[1, "1"]]}]}))
    done = kepler("replay", tmp_path / "other.json")
    assert (done.returncode, done.stderr) == (
        1, f"kepler-model: error: {tmp_path / 'other.json'}: no metric schema knows any of its metrics\n"
    )  # fmt: skip
