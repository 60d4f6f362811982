"""Test the command `kepler-model validate`."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kepler_core.simulate import START, Simulation, write
from kepler_core.vocabulary import FEATURE_GROUPS


def validate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kepler_core", "validate", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def report_of(*arguments: str | Path) -> tuple[int, Any]:
    """Run `validate --json`; return the exit code and the decoded output."""
    process = validate("--json", *arguments)
    assert process.stderr == ""
    return process.returncode, json.loads(process.stdout)


def trainable(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(group["source"], group["feature_group"]) for group in report["groups"] if group["trainable"]}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "simulated.json.gz"
    write(Simulation(containers=3, timestamps=60), str(path))
    return path


# --- recordings from which models can be trained --------------------------------------------------


def test_a_complete_recording_can_be_trained(simulated: Path) -> None:
    process = validate(simulated)
    assert (process.returncode, process.stderr) == (0, "")
    assert str(simulated) in process.stdout
    assert "node-0" in process.stdout
    assert "2023-11-14 22:13:20" in process.stdout
    for group in FEATURE_GROUPS:
        assert group in process.stdout
    assert "counter resets" in process.stdout
    assert "\nCan be trained.\nOne recording: the error on another day is unknown." in process.stdout


def kinds(report: dict[str, Any]) -> set[str]:
    """Return the kinds of findings in a report."""
    return {finding["kind"] for finding in report["findings"]}


def test_strict_makes_any_finding_an_error(simulated: Path) -> None:
    strict = validate(simulated, "--strict")
    assert (strict.returncode, strict.stderr) == (1, "")
    assert validate(simulated).returncode == 0


def test_json_output(simulated: Path) -> None:
    code, report = report_of(simulated)
    assert code == 0
    assert report["recording"] == str(simulated)
    assert report["trainable"] is True
    assert trainable(report) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in FEATURE_GROUPS}
    assert report["nodes"][0]["step"] == 3


def test_several_files_are_all_reported(simulated: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.json"
    content = json.loads(gzip.decompress(simulated.read_bytes()))
    bare.write_text(json.dumps({metric: series for metric, series in content.items() if "joules" not in metric}))
    code, reports = report_of(simulated, bare)
    assert code == 1  # no model can be trained from the second recording
    assert [report["trainable"] for report in reports] == [True, False]
    process = validate(simulated, bare)
    assert process.returncode == 1
    assert process.stdout.index("Can be trained.") < process.stdout.index("Nothing can be trained from this recording.")


# --- recordings from real machines ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["kepler_coremark.json", "kepler_stressng.json.gz"])
def test_real_recordings_lack_page_cache_hits(recordings: Path, name: str) -> None:
    code, report = report_of(recordings / name)
    assert code == 0
    assert trainable(report) == {
        (source, group)
        for source in ("acpi", "rapl-sysfs")
        for group in ("CounterOnly", "CounterIRQCombined", "CPUTime", "BPFIRQNoPageCache", "BasicNoPageCache")
    }
    missing = "kepler_container_bpf_page_cache_hit_total"
    for group in report["groups"]:
        if not group["trainable"] and group["feature_group"] != "AcceleratorOnly":
            assert missing in group["missing"]
            assert missing in group["reason"]
    by_component = {power["component"]: power for power in report["power"]}
    assert by_component["core"]["highest"] == by_component["uncore"]["highest"] == 0
    assert 150 < by_component["platform"]["lowest"] < by_component["platform"]["highest"] < 450
    (node,) = report["nodes"]
    assert node["step"] == 3
    assert not kinds(report) & {"duplicates", "duplicate_nodes"}


def test_irregularities_of_the_coremark_recording(recordings: Path) -> None:
    _, report = report_of(recordings / "kepler_coremark.json")
    (node,) = report["nodes"]
    assert 105 < node["timestamps"] < 120
    assert node["containers"] > 40  # many containers were recorded, because pods start and end
    assert "one_sample_series" in kinds(report)
    process = validate(recordings / "kepler_coremark.json")
    assert (process.returncode, process.stderr) == (0, "")
    assert "missing: kepler_container_bpf_page_cache_hit_total" in process.stdout
    assert "constant" in process.stdout


def test_the_stressng_recording_has_no_irregularities(recordings: Path) -> None:
    _, report = report_of(recordings / "kepler_stressng.json.gz")
    (node,) = report["nodes"]
    assert (node["timestamps"], node["containers"]) == (1542, 1)
    assert report["findings"] == []


def test_the_idle_recording_is_too_short(recordings: Path) -> None:
    code, report = report_of(recordings / "kepler_idle.json")
    assert code == 1
    assert trainable(report) == set()
    assert [f["count"] for f in report["findings"] if f["kind"] == "repeated_scrapes"] == [1]
    (node,) = report["nodes"]
    assert (node["timestamps"], node["containers"]) == (6, 51)
    for group in report["groups"]:
        if group["feature_group"] in ("CounterOnly", "BPFOnly", "BPFIRQ", "CounterIRQCombined", "Basic"):
            assert group["reason"] == "only 5 usable timestamps, 20 needed"
    process = validate(recordings / "kepler_idle.json")
    assert process.returncode == 1
    assert "1 timestamps that repeat the previous scrape" in process.stdout
    assert process.stdout.endswith("Nothing can be trained from this recording.\n")


# --- recordings from which no model can be trained ------------------------------------------------


def power_only() -> bytes:
    values = [[START + 3 * at, str(100 * at)] for at in range(30)]
    labels = {"instance": "a", "source": "acpi"}
    return json.dumps({"kepler_node_platform_joules_total": [{"metric": labels, "values": values}]}).encode()


NOTHING_TO_TRAIN = {
    "no features": (power_only(), "kepler_container_cpu_instructions_total"),
    "one timestamp": (
        b'{"kepler_node_platform_joules_total":[{"metric":{"instance":"a","source":"acpi"},"values":[[1,"2"]]}]}',
        "one sample",
    ),
    "no samples": (b'{"kepler_node_platform_joules_total":[]}', "no power of acpi"),
    "no power": (
        b'{"kepler_container_cpu_cycles_total":[{"metric":{"container_id":"a"},"values":[[1,"2"],[4,"3"]]}]}',
        "no power of acpi",
    ),
}


@pytest.mark.parametrize(("content", "message"), NOTHING_TO_TRAIN.values(), ids=NOTHING_TO_TRAIN)
def test_reasons_why_nothing_can_be_trained(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    process = validate(path)
    assert (process.returncode, process.stderr) == (1, "")
    assert message in process.stdout
    assert process.stdout.endswith("Nothing can be trained from this recording.\n")


BAD_FILES = {
    "not JSON": (b"<html></html>", "not JSON"),
    "empty": (b"", "not JSON"),
    "truncated": (power_only()[:200], "not JSON"),
    "truncated API answer": (b'{"status":"success","data":{"result":[{"metric":{"__name__":"m"},"val', "not JSON"),
    "nested": (b'{"m":' * 100_000, ""),
    "another shape": (b'{"metric":"up","value":5}', "not a recording"),
    "a list for a number": (power_only().replace(b'"2900"', b"[1]"), "joules_total[0].values"),
    "damaged gzip": (gzip.compress(power_only())[:-9], "damaged gzip"),
    "unknown metrics": (b'{"up":[],"node_load1":[]}', "node_load1, up"),
    "no metrics": (b"{}", "empty"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_an_unreadable_file_is_reported_on_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    process = validate(path)
    assert process.returncode == 1
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert process.stderr.startswith(f"kepler-model: error: {path}: ")
    assert message in process.stderr


def test_a_gz_file_that_is_not_gzip_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(power_only())
    assert validate(path).stderr == f"kepler-model: error: {path}: not gzip, though its name ends in .gz\n"
    process = validate(tmp_path / "none.json")
    assert process.returncode == 1
    assert process.stderr == f"kepler-model: error: {tmp_path / 'none.json'}: No such file or directory\n"


def test_the_command_needs_a_file() -> None:
    process = validate()
    assert process.returncode == 2
    assert "FILE" in process.stderr
