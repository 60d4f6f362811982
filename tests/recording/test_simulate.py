"""Test that simulated recordings are equal for equal seeds, and that their power follows the documented formula."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from kepler_core.errors import UsageError
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import CORES_PER_SOCKET, Simulation, node_factors, recording, write

NOISE = 0.015


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kepler_core", "simulate", *arguments], capture_output=True, text=True, check=False
    )


def written(path: Path, **arguments: Any) -> bytes:
    write(Simulation(**{"containers": 4, "timestamps": 50, **arguments}), str(path))
    return path.read_bytes()


def expected_power(observations: Observations, sockets: int) -> dict[str, np.ndarray]:
    """Return the watts of each component that the documented formula gives for the observed load."""
    cpus = CORES_PER_SOCKET * sockets
    u = np.minimum(observations.node_features["bpf_cpu_time_ms"] / (1000 * cpus), 1)
    m = observations.node_features["cache_miss"] / 1e9
    package = 18 * sockets + 65 * sockets * u**0.8 + 4 * m
    dram = 9 * sockets + 7 * m
    return {
        "package": package,
        "core": 0.7 * (package - 14 * sockets),
        "uncore": 6 * sockets + 3 * m,
        "dram": dram,
        "platform": 60 + 1.08 * (package + dram),
    }


@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_the_same_seed_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first = written(tmp_path / f"first.{suffix}", seed=7)
    assert written(tmp_path / f"second.{suffix}", seed=7) == first
    assert written(tmp_path / f"third.{suffix}", seed=8) != first
    assert len(list(tmp_path.iterdir())) == 3  # the folder contains only the three recordings, and no temporary file


def test_file_gzip_file_and_dict_have_the_same_content(tmp_path: Path) -> None:
    plain = written(tmp_path / "r.json")
    assert gzip.decompress(written(tmp_path / "r.json.gz")) == plain
    assert json.loads(plain) == json.loads(json.dumps(recording(Simulation(containers=4, timestamps=50))))


@pytest.mark.parametrize(("sockets", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_observed_watts_follow_the_formula_with_noise(sockets: int, seed: int) -> None:
    document = recording(Simulation(containers=8, timestamps=600, sockets=sockets, churn=0, resets=0, seed=seed))
    observations = observe([read_recording(document)])
    assert observations.counts.as_dict() == {}
    for component, expected in expected_power(observations, sockets).items():
        source = "acpi" if component == "platform" else "rapl-sysfs"
        measured = observations.power[source, component]
        assert np.flatnonzero(np.isnan(measured)).tolist() == [0]
        deviation = (measured / expected - 1)[1:] / NOISE
        assert np.abs(deviation).max() < 5
        assert 0.85 < deviation.std() < 1.15
        assert abs(deviation.mean()) < 5 / np.sqrt(len(deviation))


def test_observed_watts_without_noise_equal_the_formula() -> None:
    document = recording(Simulation(containers=8, timestamps=100, churn=0, resets=0, noise=0))
    observations = observe([read_recording(document)])
    for (_, component), measured in observations.power.items():
        expected = expected_power(observations, 2)[component]
        np.testing.assert_allclose(measured[1:], expected[1:], rtol=1e-3)


def test_node_spread_multiplies_the_power_of_each_node() -> None:
    same = Simulation(containers=3, timestamps=60, nodes=3, noise=0.0, resets=0, seed=4)
    spread = attrs.evolve(same, node_spread=0.1)
    before, after = recording(same), recording(spread)
    usage = "kepler_container_cpu_cycles_total"
    assert before[usage] == after[usage]
    factors = node_factors(spread)
    assert len(set(factors)) == 3
    for node, factor in enumerate(factors):
        ratio = joules(after, f"node-{node}") / joules(before, f"node-{node}")
        assert ratio == pytest.approx(factor, rel=1e-4)


def test_node_spread_is_the_standard_deviation_of_the_factors() -> None:
    factors = node_factors(Simulation(nodes=2000, node_spread=0.1))
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert factors.std() == pytest.approx(0.1, rel=0.05)


def joules(content: dict[str, Any], node: str) -> float:
    """Return the energy of a node's packages at the end of a recording, idle and dynamic energy together."""
    metric = "kepler_node_package_joules_total"
    return sum(float(one["values"][-1][1]) for one in content[metric] if one["metric"]["instance"] == node)


def test_churn_and_restarts_do_not_change_the_formula() -> None:
    document = recording(Simulation(containers=30, timestamps=400, churn=0.6, resets=2, noise=0, nodes=2))
    observations = observe([read_recording(document)])
    lives = [len(one["values"]) for one in document["kepler_container_cpu_cycles_total"]]
    assert min(lives) < 400
    assert max(lives) == 400
    assert observations.counts.resets["kepler_node_platform_joules_total"] == 2 * 2 * 2  # 2 nodes, 2 modes, 2 restarts
    assert [stream.node for stream in observations.streams] == ["node-0", "node-1"]
    measured, expected = observations.power["acpi", "platform"], expected_power(observations, 2)["platform"]
    is_known = np.isfinite(measured) & np.isfinite(expected)
    # Only few samples have no known power. At these samples, a busy container starts.
    assert np.count_nonzero(is_known) > 750
    assert np.median(np.abs(measured[is_known] / expected[is_known] - 1)) < 1e-3
    assert np.mean(np.abs(measured[is_known] / expected[is_known] - 1) > 0.02) < 0.05


def test_the_load_ranges_from_idle_to_busy(small: dict[str, Any]) -> None:
    watts = observe([read_recording(small)]).power["rapl-sysfs", "package"]
    assert np.nanmin(watts) < 45
    assert np.nanmax(watts) > 100


def test_the_bundled_sample_is_what_simulate_writes(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.json.gz"
    process = simulate("-o", str(path), "--containers", "12", "--minutes", "15", "--seed", "1")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    bundled = importlib.resources.files("kepler_config") / "samples" / "quickstart.json.gz"
    # compare the unpacked content, because Python versions compress with different versions of zlib
    assert gzip.decompress(bundled.read_bytes()) == gzip.decompress(path.read_bytes())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"containers": 0}, "containers"),
        ({"node_spread": 0.5}, "node_spread"),
        ({"timestamps": 1}, "timestamps"),
        ({"step": 0}, "step"),
        ({"sockets": 0}, "sockets"),
        ({"nodes": 0}, "nodes"),
        ({"resets": -1}, "resets"),
        ({"seed": -1}, "seed"),
        ({"churn": 1.5}, "churn"),
        ({"churn": float("nan")}, "churn"),
    ],
)
def test_arguments_out_of_range_are_rejected(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Simulation(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"containers": 1, "timestamps": 2},
        {"containers": 1, "timestamps": 5, "resets": 50, "churn": 1},
        {"containers": 3, "timestamps": 3, "step": 60, "sockets": 1, "accelerator": False},
    ],
)
def test_the_smallest_simulations_can_be_read(arguments: dict[str, Any]) -> None:
    document = recording(Simulation(**arguments))
    observations = observe([read_recording(document)])
    assert len(observations.sample_time) == arguments["timestamps"]
    assert ("kepler_node_accelerator_intel_qat" in document) == arguments.get("accelerator", True)


def test_an_unwritable_path_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot write .*none/r\.json: No such file or directory$"):
        write(Simulation(containers=1, timestamps=2), str(tmp_path / "none" / "r.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        write(Simulation(containers=1, timestamps=2), str(tmp_path / "folder.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


@pytest.mark.parametrize(
    "arguments", [["--containers", "0"], ["--minutes", "0"], ["--minutes", "nan"], ["--step", "0"], []]
)
def test_wrong_options_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    process = simulate(*(["-o", str(path)] if arguments else []), *arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert not path.exists()
