"""`kepler-model validate`, as its user calls it."""

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


def findings(*arguments: str | Path) -> tuple[int, Any]:
    """The exit code and what `--json` says."""
    done = validate("--json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def trainable(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(group["source"], group["feature_group"]) for group in found["groups"] if group["trainable"]}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "simulated.json.gz"
    write(Simulation(containers=3, timestamps=60), str(path))
    return path


# --- what can be trained --------------------------------------------------------------------------


def test_a_good_recording(simulated: Path) -> None:
    done = validate(simulated)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(simulated) in done.stdout
    assert "node-0" in done.stdout
    assert "2023-11-14 22:13:20" in done.stdout
    for group in FEATURE_GROUPS:
        assert group in done.stdout
    assert "counter resets" in done.stdout
    assert done.stdout.endswith("\nCan be trained.\n")


def test_json_for_programs(simulated: Path) -> None:
    code, found = findings(simulated)
    assert code == 0
    assert found["recording"] == str(simulated)
    assert found["trainable"] is True
    assert trainable(found) == {(source, group) for source in ("acpi", "rapl-sysfs") for group in FEATURE_GROUPS}
    assert found["nodes"][0]["step"] == 3


def test_several_recordings(simulated: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.json"
    content = json.loads(gzip.decompress(simulated.read_bytes()))
    bare.write_text(json.dumps({metric: items for metric, items in content.items() if "joules" not in metric}))
    code, found = findings(simulated, bare)
    assert code == 1  # not from every one
    assert [one["trainable"] for one in found] == [True, False]
    done = validate(simulated, bare)
    assert done.returncode == 1
    assert done.stdout.index("Can be trained.") < done.stdout.index("Nothing can be trained from this recording.")


# --- the real recordings --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kepler_coremark.json", "kepler_stressng.json.gz"])
def test_real_recordings_without_page_cache_hits(recordings: Path, name: str) -> None:
    code, found = findings(recordings / name)
    assert code == 0
    assert trainable(found) == {
        (source, group) for source in ("acpi", "rapl-sysfs") for group in ("CounterOnly", "CounterIRQCombined")
    }
    missing = "kepler_container_bpf_page_cache_hit_total"
    for group in found["groups"]:
        if not group["trainable"] and group["feature_group"] != "AcceleratorOnly":
            assert missing in group["missing"]
            assert missing in group["reason"]
    by_component = {power["component"]: power for power in found["power"]}
    assert by_component["core"]["highest"] == by_component["uncore"]["highest"] == 0
    assert 150 < by_component["platform"]["lowest"] < by_component["platform"]["highest"] < 450
    (node,) = found["nodes"]
    assert node["step"] == 3
    assert "duplicates" not in found["counts"]
    assert "duplicate_nodes" not in found["counts"]


def test_what_stands_out_in_the_coremark_recording(recordings: Path) -> None:
    _, found = findings(recordings / "kepler_coremark.json")
    (node,) = found["nodes"]
    assert 105 < node["timestamps"] < 120
    assert node["containers"] > 40  # pods come and go
    assert found["counts"]["one_sample_series"]
    done = validate(recordings / "kepler_coremark.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "missing: kepler_container_bpf_page_cache_hit_total" in done.stdout
    assert "constant" in done.stdout


def test_the_stressng_recording(recordings: Path) -> None:
    _, found = findings(recordings / "kepler_stressng.json.gz")
    (node,) = found["nodes"]
    assert (node["timestamps"], node["containers"]) == (1542, 1)
    assert found["counts"] == {}


def test_the_idle_recording(recordings: Path) -> None:
    code, found = findings(recordings / "kepler_idle.json")
    assert code == 1
    assert trainable(found) == set()
    assert found["counts"]["repeated_scrapes"] == 1
    (node,) = found["nodes"]
    assert (node["timestamps"], node["containers"]) == (6, 51)
    for group in found["groups"]:
        if group["feature_group"] in ("CounterOnly", "BPFOnly", "BPFIRQ", "CounterIRQCombined", "Basic"):
            assert group["reason"] == "only 5 usable timestamps, 20 needed"
    done = validate(recordings / "kepler_idle.json")
    assert done.returncode == 1
    assert "1 timestamps repeat the scrape before" in done.stdout
    assert done.stdout.endswith("Nothing can be trained from this recording.\n")


# --- what cannot be trained -----------------------------------------------------------------------


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


@pytest.mark.parametrize(("content", "said"), NOTHING_TO_TRAIN.values(), ids=NOTHING_TO_TRAIN)
def test_nothing_can_be_trained(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    done = validate(path)
    assert (done.returncode, done.stderr) == (1, "")
    assert said in done.stdout
    assert done.stdout.endswith("Nothing can be trained from this recording.\n")


BAD_FILES = {
    "not JSON": (b"<html></html>", "not JSON"),
    "empty": (b"", "not JSON"),
    "truncated": (power_only()[:200], "not JSON"),
    "truncated API answer": (b'{"status":"success","data":{"result":[{"metric":{"__name__":"m"},"val', "not JSON"),
    "nested": (b'{"m":' * 100_000, ""),
    "another shape": (b'{"metric":"up","value":5}', "not a recording"),
    "a word for a number": (power_only().replace(b'"2900"', b'"many"'), "joules_total[0].values[29]"),
    "damaged gzip": (gzip.compress(power_only())[:-9], "damaged gzip"),
    "unknown metrics": (b'{"up":[],"node_load1":[]}', "node_load1, up"),
    "no metrics": (b"{}", "empty"),
}


@pytest.mark.parametrize(("content", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    done = validate("--json", path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"kepler-model: error: {path}: ")
    assert said in done.stderr


def test_a_file_that_is_not_gzip_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(power_only())
    assert validate(path).stderr == f"kepler-model: error: {path}: not gzip, though its name ends in .gz\n"
    done = validate(tmp_path / "none.json")
    assert done.returncode == 1
    assert done.stderr == f"kepler-model: error: {tmp_path / 'none.json'}: No such file or directory\n"


def test_wrong_usage() -> None:
    done = validate()
    assert done.returncode == 2
    assert "FILE" in done.stderr
