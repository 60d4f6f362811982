"""Test the command `kepler-model query` with a real Prometheus server."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import machine_metrics
from support.machine_metrics import added, kepler_cpu_info, node_exporter_info
from support.process import wait_for
from support.prometheus_process import (
    PrometheusProcess,
    Reply,
    answering,
    need_prometheus,
    prometheus,
    write_blocks,
)
from support.slow_servers import GENEROUS, SLOW_SERVERS, slow_server

from kepler_core.cli.main import cli
from kepler_core.errors import UsageError
from kepler_core.machine import MachineSpec
from kepler_core.pipeline.recorded_machines import read_machines
from kepler_core.prometheus import PrometheusClient, Selection, Server
from kepler_core.prometheus.scrape_interval import scrape_interval
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.observations import Stream
from kepler_core.recording.schemas import is_used_metric
from kepler_core.simulate import START, Simulation, recording

CONTENT = recording(Simulation(containers=4, timestamps=3000, step=2))


def query(url: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kepler_core", "query", "--server", url, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def queried(url: str, *arguments: str | Path) -> dict[str, Any]:
    """Run `query`, check that it succeeds, and return the summary that it prints as JSON."""
    process = query(url, *arguments, "--json")
    assert process.returncode == 0, process.stderr
    summary: dict[str, Any] = json.loads(process.stdout)
    return summary


def observed(source: Path | dict[str, Any]) -> Observations:
    return observe([read_recording(source, name="same", wanted=is_used_metric)])


def check_same(observations: Observations, expected: Observations) -> None:
    """Check that two observations have equal values for containers, and nearly equal values for nodes."""
    assert observations.streams == expected.streams
    assert observations.counts.as_dict() == expected.counts.as_dict()
    np.testing.assert_array_equal(observations.sample_time, expected.sample_time)
    both = (observations, expected)
    names = [np.array(o.containers)[o.row_container] for o in both]
    for o, name in zip(both, names, strict=True):
        assert len(name) == len(o.row_sample)
    order = [np.lexsort((name, o.row_sample)) for o, name in zip(both, names, strict=True)]
    assert (names[0][order[0]] == names[1][order[1]]).all()
    for feature, values in expected.container_features.items():
        np.testing.assert_array_equal(observations.container_features[feature][order[0]], values[order[1]])
    for feature, values in expected.node_features.items():
        np.testing.assert_allclose(observations.node_features[feature], values, rtol=1e-12)
    assert observations.power.keys() == expected.power.keys()
    for key, values in expected.power.items():
        np.testing.assert_allclose(observations.power[key], values, rtol=1e-12)


@pytest.mark.parametrize("step", [(), ("--step", "3")])
def test_a_real_recording_is_queried_unchanged(recordings: Path, tmp_path: Path, step: tuple[str, ...]) -> None:
    content = json.loads((recordings / "kepler_coremark.json").read_text())
    out = tmp_path / "back.json.gz"
    with prometheus(tmp_path / "prometheus", content) as server:
        queried(server.url, "--start", "1695361425", "--end", "2023-09-22T05:49:21", *step, "-o", out)
    check_same(observed(out), observed(content))
    assert not out.with_name("back.json.gz.part").exists()


def test_a_long_recording_is_queried_in_parts(tmp_path: Path) -> None:
    """A recording of 12,000 steps is complete, although Prometheus returns at most 11,000 steps per query."""
    whole = recording(Simulation(containers=1, timestamps=12_000, step=2, sockets=1))
    content = {name: whole[name] for name in ("kepler_container_cpu_cycles_total", "kepler_node_package_joules_total")}
    arguments = ("--start", str(START), "--end", str(START + 24_000 - 2))
    with prometheus(tmp_path / "prometheus", content) as server:
        # make sure that the server rejects a single query for the whole time range
        url = f"{server.url}/api/v1/query_range?query=up&start={START}&end={START + 24_000}&step=2"

        import urllib.error
        import urllib.request

        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(url)
        at_step = queried(server.url, *arguments, "--step", "2", "-o", tmp_path / "a.json")
        scraped = queried(server.url, *arguments, "-o", tmp_path / "b.json")
    assert at_step["queries"] == 2 * at_step["metrics"]
    assert scraped["queries"] == 7 * scraped["metrics"]
    expected = observed(content)
    check_same(observed(tmp_path / "a.json"), expected)
    check_same(observed(tmp_path / "b.json"), expected)


@pytest.mark.parametrize(("scraped", "step", "expected"), [(5, "3", 5), (5, "12", 10), (3, "3", 3), (15, "4", 15)])
def test_a_step_is_rounded_to_the_scrape_interval(scraped: int, step: str, expected: float, tmp_path: Path) -> None:
    content = recording(Simulation(containers=2, timestamps=200, step=scraped))
    end = str(START + 199 * scraped)
    with prometheus(tmp_path / "prometheus", content) as server:
        arguments = ("--start", str(START), "--end", end, "--step", step, "-o", tmp_path / "a.json")
        done = query(server.url, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == expected
    assert (f"--step {step} is changed to {expected}" in done.stderr) == (float(step) != expected)
    if expected == scraped:
        check_same(observed(tmp_path / "a.json"), observed(content))


def test_a_step_is_a_multiple_of_all_scrape_intervals(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    for node, scraped in (("node-a", 10), ("node-b", 15)):
        for metric, all_series in recording(Simulation(containers=1, timestamps=120, step=scraped)).items():
            for series in all_series:
                series["metric"]["instance"] = node
            content.setdefault(metric, []).extend(all_series)
    with prometheus(tmp_path / "prometheus", content) as server:
        client = PrometheusClient(Server(server.url), patience=0)
        selections = [Selection(metric) for metric in sorted(content)]
        assert scrape_interval(client, selections, START, START + 1200) == 30
        # The samples end at START + 1200. A query for a much longer or a later time range must work, too.
        assert scrape_interval(client, selections, START, START + 50_000) == 30
        assert scrape_interval(client, selections, START + 40_000, START + 50_000) is None


def test_pipeline_instance_and_selector_limit_the_series(tmp_path: Path) -> None:
    content = recording(Simulation(containers=3, timestamps=100, nodes=3))
    arguments = ["--start", str(START), "--end", str(START + 300), "-o", str(tmp_path / "a.json")]
    with prometheus(tmp_path / "prometheus", content) as server:
        chosen = ["--pipeline", "quickstart", "--set", "energy_sources=[acpi]", "--set", "feature_groups=[BPFOnly]"]
        queried(server.url, *arguments, *chosen, "--instance", "node-[02]")
        content = json.loads((tmp_path / "a.json").read_text())
        assert sorted(content) == [
            "kepler_container_bpf_cpu_time_ms_total",
            "kepler_container_bpf_page_cache_hit_total",
            "kepler_node_platform_joules_total",
        ]
        assert {s["metric"]["instance"] for all_series in content.values() for s in all_series} == {"node-0", "node-2"}
        queried(server.url, *arguments, "--selector", '{mode="idle"}')
        content = json.loads((tmp_path / "a.json").read_text())
        assert {s["metric"]["mode"] for all_series in content.values() for s in all_series} == {"idle"}
        wrong = query(server.url, *arguments, "--selector", "mode=idle")
        assert wrong.returncode == 1
        assert "parse error" in wrong.stderr
        assert len(wrong.stderr.splitlines()) == 1
        nothing = query(server.url, "--last", "1h", "-o", tmp_path / "c.json")
        assert nothing.returncode == 1
        assert "no metric at all" in nothing.stderr


def test_metrics_that_describe_machines_are_queried_at_few_times(tmp_path: Path) -> None:
    times, available = range(START, START + 7200, 60), "node_memory_MemAvailable_bytes"
    content = added(
        recording(Simulation(containers=1, timestamps=120, step=60, churn=0)),
        kepler_cpu_info("node-0", times, model="Intel Xeon Gold 6130", cores=8),
        node_exporter_info("node-0:9100", times, memory=2.0**36, hertz=3e9, product="R740"),
        {available: [machine_metrics.series(available, times, 9, instance="node-0:9100")]},
    )
    out = tmp_path / "a.json"
    span = ["--start", str(START), "--end", str(START + 7190), "-o", str(out)]
    chosen = ["--pipeline", "quickstart", "--set", "feature_groups=[BPFOnly]"]
    with prometheus(tmp_path / "prometheus", content) as server:
        queried(server.url, *span, *chosen, "--machines")
    described = json.loads(out.read_text())
    about_machines = {
        "kepler_node_cpu_info", "kepler_node_node_info", "node_cpu_frequency_max_hertz", "node_dmi_info", available,
        "node_memory_MemTotal_bytes",
    }  # fmt: skip
    plain = {metric: all_series for metric, all_series in described.items() if metric not in about_machines}
    assert about_machines < set(described)
    assert {"kepler_container_bpf_cpu_time_ms_total", "kepler_node_platform_joules_total"} <= set(plain)
    for metric, all_series in described.items():
        for one in all_series:
            # metrics about machines have samples at the start, one hour later, and at the end
            assert len(one["values"]) == (3 if metric in about_machines else 120)
    machines = read_machines([str(out)]).of_streams([Stream(str(out), "node-0")])
    assert list(machines.specs.values()) == [
        MachineSpec("intel_xeon_gold_6130", 8, 2, 64, 3000, "genuineintel", 2),
    ]
    assert observed(out).counts.as_dict() == observed(plain).counts.as_dict()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrometheusProcess]:
    """A Prometheus server that holds the recording `CONTENT` (6,000 s). A test may kill and restart the server."""
    need_prometheus()
    folder = tmp_path / "prometheus"
    folder.mkdir()
    process = PrometheusProcess(folder)
    write_blocks(CONTENT, process.data)
    process.start()
    yield process
    process.stop()


def start_query(server: PrometheusProcess, out: Path, patience: str) -> subprocess.Popen[str]:
    """Start a process of `kepler-model query` that fetches all samples of the server, with one request at a time."""
    span = ["--start", str(START), "--end", str(START + 6000)]
    command = [sys.executable, "-m", "kepler_core", "query", "--server", server.url, *span, "-j", "1", "-o", str(out)]
    return subprocess.Popen([*command, "--patience", patience], stderr=subprocess.PIPE, text=True)


def test_an_interrupted_query_is_resumed(server: PrometheusProcess, tmp_path: Path) -> None:
    out, part = tmp_path / "a.json.gz", tmp_path / "a.json.gz.part"

    def n_answers() -> int:
        return len(list(part.glob("[0-9]*.json")))

    first = start_query(server, out, patience="1s")
    wait_for(lambda: n_answers() > 2, "nothing is fetched")
    server.stop(signal.SIGKILL)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "the same command resumes" in errors
    kept = n_answers()
    assert kept > 0
    assert not out.exists()
    server.start()
    summary = queried(server.url, "--start", str(START), "--end", str(START + 6000), "-j", "1", "-o", str(out))
    assert summary["resumed"]
    assert summary["queries"] > kept
    check_same(observed(out), observed(CONTENT))


def test_a_patient_query_continues_after_the_server_restarts(server: PrometheusProcess, tmp_path: Path) -> None:
    out = tmp_path / "a.json.gz"
    process = start_query(server, out, patience="1m")
    threading.Event().wait(0.05)
    server.stop(signal.SIGKILL)
    server.start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    check_same(observed(out), observed(CONTENT))


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
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
    process = query("http://127.0.0.1:1", "--last", "1h", *out, "--patience", "0s")
    assert process.returncode == 1
    assert "does not answer" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["a-silent-server", "a-byte-at-a-time-of-the-body"])
def test_a_signal_ends_a_query_that_waits(kind: str, tmp_path: Path) -> None:
    """SIGINT ends the command `query` while it waits for the list of metrics, and while it waits for answers."""
    pieces, repeat = SLOW_SERVERS[kind]
    span = ["--start", str(START), "--end", str(START + 300), "-o", str(tmp_path / "a.json")]
    command = [sys.executable, "-m", "kepler_core", "query", *span, "--server"]
    names = json.dumps({"status": "success", "data": list(CONTENT)}).encode()
    with slow_server(*pieces, repeat=repeat) as slow:

        def reply(path: str, headers: Mapping[str, str]) -> Reply:
            return (200, {}, names) if "/label/" in path else (302, {"Location": f"{slow.url}/slow"}, b"")

        with answering(reply) as url:
            for server, n_connections in [(slow.url, 1), (url, 5)]:
                process = subprocess.Popen([*command, server], stderr=subprocess.PIPE, text=True)
                wait_for(lambda n=n_connections: slow.accepted >= n, "the command is not waiting")
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=GENEROUS)
                assert process.returncode == 130
                assert len(errors.splitlines()) <= 2, errors  # click writes an additional empty line after Ctrl-C
                assert "interrupted" in errors


def test_metrics_with_another_prefix_are_queried_and_written_as_csv_files(tmp_path: Path) -> None:
    """The CSV file of a metric has a row for each sample, with the time, the labels of the series, and the value."""
    plain = recording(Simulation(containers=2, timestamps=60, step=2))
    content = {**plain, **{name.replace("kepler_", "acme_", 1): series for name, series in plain.items()}}
    out, folder = tmp_path / "a.json", tmp_path / "a_csv"
    arguments = ("--to-csv", "--start", str(START), "--end", str(START + 118), "-o", out)
    with prometheus(tmp_path / "prometheus", content) as server:
        summary = queried(server.url, *arguments, "--metric-prefix", "acme")
    written = json.loads(out.read_text())
    assert set(written) == {name for name in content if name.startswith("acme_")}
    assert sorted(summary["csv"]) == [str(folder / f"{name}.csv") for name in sorted(written)]
    name = "acme_node_package_joules_total"
    with (folder / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    series = written[name]
    assert len(rows) == sum(len(item["values"]) for item in series)
    assert {row["source"] for row in rows} == {item["metric"]["source"] for item in series}
    expected = [(float(time), float(value)) for item in series for time, value in item["values"]]
    assert sorted((float(row["timestamp"]), float(row[name])) for row in rows) == sorted(expected)


def test_queries_add_to_a_recording_in_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from kepler_core.parquet import open_parts

    folder, whole = tmp_path / "r.parquet", tmp_path / "r.json"
    middle, end = START + 2 * 1500 - 1, START + 2 * 3000
    with prometheus(tmp_path / "prometheus", CONTENT) as server:
        queried(server.url, "--start", str(START), "--end", str(middle), "-o", folder)
        summary = queried(server.url, "--start", str(middle), "--end", str(end), "-o", folder)
        queried(server.url, "--start", str(START), "--end", str(end), "-o", whole)
        (tmp_path / "other.parquet").mkdir()
        (tmp_path / "other.parquet" / "notes.txt").touch()
        refused = query(server.url, "--last", "1h", "-o", tmp_path / "other.parquet")
    assert summary["bytes"] == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert not folder.with_name("r.parquet.part").exists()
    parts = open_parts(folder, wanted=is_used_metric)
    expected = read_recording(whole, wanted=is_used_metric)
    assert parts.sample_counts == dict(sorted(expected.sample_counts.items()))
    observations, from_json = observe([parts]), observed(whole)
    assert observations.counts.as_dict() == from_json.counts.as_dict()
    for key, watts in from_json.power.items():
        np.testing.assert_allclose(observations.power[key], watts, rtol=1e-12)
    assert refused.returncode == 2
    assert "it is a folder with other files" in refused.stderr
