"""`kepler-model query` against a real Prometheus."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.prometheus_process import PrometheusProcess, need_prometheus, prometheus, write_blocks
from support.server_process import wait_for

from kepler_core.cli.main import cli
from kepler_core.errors import UsageError
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.schemas import is_known_metric
from kepler_core.simulate import START, Simulation, recording


def query(url: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kepler_core", "query", "--server", url, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def done(url: str, *arguments: str | Path) -> dict[str, Any]:
    found = query(url, *arguments, "--json")
    assert found.returncode == 0, found.stderr
    summary: dict[str, Any] = json.loads(found.stdout)
    return summary


def observed(source: Path | dict[str, Any]) -> Observations:
    return observe([read_recording(source, name="same", wanted=is_known_metric)])


def check_same(found: Observations, expected: Observations) -> None:
    """The same rows, rates and watts, bit by bit."""
    assert found.streams == expected.streams
    assert found.counts.as_dict() == expected.counts.as_dict()
    np.testing.assert_array_equal(found.sample_time, expected.sample_time)
    names = [np.array(o.containers)[o.row_container] for o in (found, expected)]
    for o, name in zip((found, expected), names, strict=True):
        assert len(name) == len(o.row_sample)
    order = [np.lexsort((name, o.row_sample)) for o, name in zip((found, expected), names, strict=True)]
    assert (names[0][order[0]] == names[1][order[1]]).all()
    for feature, values in expected.container_features.items():
        np.testing.assert_array_equal(found.container_features[feature][order[0]], values[order[1]])
    for feature, values in expected.node_features.items():
        np.testing.assert_allclose(found.node_features[feature], values, rtol=1e-12)
    assert found.power.keys() == expected.power.keys()
    for key, values in expected.power.items():
        np.testing.assert_allclose(found.power[key], values, rtol=1e-12)


@pytest.mark.parametrize("step", [(), ("--step", "3")])
def test_a_real_recording_comes_back_as_it_was(recordings: Path, tmp_path: Path, step: tuple[str, ...]) -> None:
    content = json.loads((recordings / "kepler_coremark.json").read_text())
    out = tmp_path / "back.json.gz"
    with prometheus(tmp_path / "prometheus", content) as server:
        done(server.url, "--start", "1695361425", "--end", "2023-09-22T05:49:21", *step, "-o", out)
    check_same(observed(out), observed(content))
    assert not out.with_name("back.json.gz.part").exists()


def test_a_long_one_is_asked_for_in_parts(tmp_path: Path) -> None:
    """12,000 steps: above the 11,000 that Prometheus answers."""
    whole = recording(Simulation(containers=1, timestamps=12_000, step=2, sockets=1))
    content = {name: whole[name] for name in ("kepler_container_cpu_cycles_total", "kepler_node_package_joules_total")}
    arguments = ("--start", str(START), "--end", str(START + 24_000 - 2))
    with prometheus(tmp_path / "prometheus", content) as server:
        # the server's own word that it would not be answered in one
        url = f"{server.url}/api/v1/query_range?query=up&start={START}&end={START + 24_000}&step=2"

        import urllib.error
        import urllib.request

        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(url)
        at_step = done(server.url, *arguments, "--step", "2", "-o", tmp_path / "a.json")
        scraped = done(server.url, *arguments, "-o", tmp_path / "b.json")
    assert at_step["queries"] == 2 * at_step["metrics"]
    assert scraped["queries"] == 7 * scraped["metrics"]
    expected = observed(content)
    check_same(observed(tmp_path / "a.json"), expected)
    check_same(observed(tmp_path / "b.json"), expected)


def test_only_what_a_pipeline_and_an_instance_need(tmp_path: Path) -> None:
    content = recording(Simulation(containers=3, timestamps=100, nodes=3))
    arguments = ["--start", str(START), "--end", str(START + 300), "-o", str(tmp_path / "a.json")]
    with prometheus(tmp_path / "prometheus", content) as server:
        chosen = ["--pipeline", "quickstart", "--set", "energy_sources=[acpi]", "--set", "feature_groups=[BPFOnly]"]
        done(server.url, *arguments, *chosen, "--instance", "node-[02]")
        found = json.loads((tmp_path / "a.json").read_text())
        assert sorted(found) == [
            "kepler_container_bpf_cpu_time_ms_total",
            "kepler_container_bpf_page_cache_hit_total",
            "kepler_node_platform_joules_total",
        ]
        assert {s["metric"]["instance"] for series in found.values() for s in series} == {"node-0", "node-2"}
        done(server.url, *arguments, "--selector", '{mode="idle"}')
        found = json.loads((tmp_path / "a.json").read_text())
        assert {s["metric"]["mode"] for series in found.values() for s in series} == {"idle"}
        wrong = query(server.url, *arguments, "--selector", "mode=idle")
        assert wrong.returncode == 1
        assert "parse error" in wrong.stderr
        assert len(wrong.stderr.splitlines()) == 1
        nothing = query(server.url, "--last", "1h", "-o", tmp_path / "c.json")
        assert nothing.returncode == 1
        assert "no metric at all" in nothing.stderr


def test_the_server_is_killed_half_way(tmp_path: Path) -> None:
    """The command waits for it and goes on; one that was ended meanwhile is resumed by the next."""
    need_prometheus()
    content = recording(Simulation(containers=4, timestamps=3000, step=2))
    folder = tmp_path / "prometheus"
    folder.mkdir()
    server = PrometheusProcess(folder)
    write_blocks(content, server.data)
    out, part = tmp_path / "a.json.gz", tmp_path / "a.json.gz.part"
    arguments = ["--start", str(START), "--end", str(START + 6000), "-j", "1", "-o", str(out)]

    def interrupted(patience: str) -> subprocess.Popen[str]:
        """The command, after its server was killed while it was asking."""
        command = [sys.executable, "-m", "kepler_core", "query", "--server", server.url, *arguments]
        process = subprocess.Popen([*command, "--patience", patience], stderr=subprocess.PIPE, text=True)
        before = len(list(part.glob("[0-9]*.json")))
        wait_for(lambda: len(list(part.glob("[0-9]*.json"))) > before + 2, "nothing is fetched")
        server.stop(signal.SIGKILL)
        return process

    try:
        server.start()
        first = interrupted("1s")
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert "the same command resumes" in said
        kept = len(list(part.glob("[0-9]*.json")))
        assert kept > 0
        assert not out.exists()
        server.start()
        summary = done(server.url, *arguments)
        assert summary["resumed"]
        assert summary["queries"] > kept
        check_same(observed(out), observed(content))

        again = subprocess.Popen(
            [sys.executable, "-m", "kepler_core", "query", "--server", server.url, *arguments, "--patience", "1m"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Event().wait(0.05)
        server.stop(signal.SIGKILL)
        server.start()
        _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        check_same(observed(out), observed(content))
    finally:
        server.stop()


def test_wrong_usage(tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "a.json")]
    for arguments, words in [
        ([*out], "--start or --last"),
        (["--start", "1", "--last", "1h", *out], "--start or --last"),
        (["--last", "soon", *out], "not a duration"),
        (["--start", "yesterday", "--end", "5", *out], "not a time"),
        (["--start", "5", "--end", "5", *out], "not before"),
        (["--start", "1", "--end", "1700000000000", *out], "milliseconds"),
        (["--last", "1h", "--password-file", "x", *out], "--user"),
        (["--last", "1h", "--token-file", str(tmp_path / "none"), *out], "none"),
        (["--last", "1h", "-o", str(tmp_path / "no" / "a.json")], "no folder"),
        (["--last", "1h", "--set", "seed=1", *out], "--pipeline"),
    ]:
        with pytest.raises(UsageError, match=words):
            cli.main(["query", "--server", "http://127.0.0.1:1", "--patience", "0s", *arguments], standalone_mode=False)
    down = query("http://127.0.0.1:1", "--last", "1h", *out, "--patience", "0s")
    assert down.returncode == 1
    assert "does not answer" in down.stderr
    assert list(tmp_path.iterdir()) == []
