"""Tests of profiles: their idle power is compared with the simulator's formula and with independent measurements."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from support.command import kepler
from support.steady_load import Document, steady

from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.quiet import blocks, quiet_times
from kepler_core.simulate import Simulation, true_power, write
from kepler_profiler.profile import NodeProfile, build_profile, read_profile, write_profile
from kepler_profiler.profile.document import ProfileError, json_schema

CORES = {"cores": 32}
IDLE_WATTS = {name: float(watts[0]) for name, watts in true_power(np.zeros(1), np.zeros(1), 2).items()}


def observed(document: Document) -> Observations:
    return observe([read_recording(document)])


LOAD = np.concatenate([np.full(60, 0.6), np.full(30, 0.002), np.tile([0.3, 0.9], 30)])


# --- idle power -----------------------------------------------------------------------------------


def test_idle_power_of_a_simulated_machine() -> None:
    profile = build_profile(observed(steady(LOAD)), machine_spec=CORES)
    assert profile.quiet.idle
    assert (profile.quiet.feature, profile.quiet.capacity, profile.quiet.block_steps) == ("bpf_cpu_time_ms", 32000.0, 5)
    expected = true_power(np.array([0.002]), np.zeros(1), 2)
    for source, components in profile.power.items():
        for component, power in components.items():
            assert power.idle == pytest.approx(expected[component][0], rel=0.02), (source, component)
            assert power.idle == pytest.approx(IDLE_WATTS[component], rel=0.05, abs=1.0)
            assert 0 < power.idle_spread < 0.03 * power.idle
            assert not power.upper_bound
            assert 20 <= power.idle_samples <= 30
            assert power.maximum > power.idle or component == "uncore"
    assert profile.notes == []


def test_idle_power_is_an_upper_bound_if_the_machine_is_never_idle() -> None:
    profile = build_profile(observed(steady(np.tile([0.4, 0.8], 40))), machine_spec=CORES)
    assert not profile.quiet.idle
    assert all(power.upper_bound for components in profile.power.values() for power in components.values())
    assert "never is idle" in profile.notes[0]
    # The load alternates between 0.4 and 0.8. So its mean over five timestamps is 0.56 or 0.64.
    assert "% of the capacity of all CPUs (5% would be idle)" in profile.notes[0]


def test_the_number_of_cores_shows_whether_a_recording_is_idle() -> None:
    quiet_only = observed(steady(np.full(40, 0.01)))
    without, with_cores = build_profile(quiet_only), build_profile(quiet_only, machine_spec=CORES)
    assert not without.quiet.idle
    assert "with the machine's number of cores it could be known" in without.notes[0]
    assert with_cores.quiet.idle
    assert with_cores.quiet.level == pytest.approx(320, rel=0.01)
    busy = build_profile(quiet_only, machine_spec={"cores": 2})  # with two cores, this load is 16 % of capacity
    assert not busy.quiet.idle


@pytest.mark.parametrize(("length", "steps"), [(12, 5), (6, 3), (1, 1)])
def test_shorter_blocks_for_shorter_quiet_times(length: int, steps: int) -> None:
    load = np.full(61, 0.6)
    load[32 : 32 + length] = 0.0
    profile = build_profile(observed(steady(load)), machine_spec=CORES)
    assert profile.quiet.idle
    assert profile.quiet.block_steps == steps
    assert any("single intervals only" in note for note in profile.notes) == (steps == 1)


def test_blocks_do_not_span_a_gap() -> None:
    document = steady(np.full(40, 0.5))
    for series in document.values():
        for entry in series:
            entry["values"] = entry["values"][:12] + entry["values"][20:]
    observations = observed(document)
    number = blocks(observations, np.ones(len(observations.sample_time), dtype=bool), 5)
    for block in range(number.max() + 1):
        times = observations.sample_time[number == block]
        assert 1 <= len(times) <= 5
        assert np.diff(times).max(initial=0) < 7.5
    assert build_profile(observations).recordings[0].gaps == 1
    assert build_profile(observed(steady(np.full(40, 0.5)))).recordings[0].gaps == 0


def test_a_component_without_samples_in_the_quiet_blocks() -> None:
    document = steady(np.concatenate([np.full(30, 0.0), np.full(30, 0.7)]))
    for entry in document["kepler_node_platform_joules_total"]:
        entry["values"] = entry["values"][40:]
    profile = build_profile(observed(document), machine_spec=CORES)
    assert profile.power["acpi"]["platform"].upper_bound
    assert not profile.power["rapl-sysfs"]["package"].upper_bound
    assert any("acpi: platform was not measured while the machine was quiet" in note for note in profile.notes)


def test_recordings_without_power_or_load() -> None:
    document = steady(LOAD)
    with pytest.raises(ProfileError, match="no power"):
        build_profile(observed({m: s for m, s in document.items() if "_node_" not in m}))
    with pytest.raises(ProfileError, match="no recording"):
        build_profile(None)
    profile = build_profile(observed({m: s for m, s in document.items() if "_node_" in m}), machine_spec=CORES)
    assert profile.quiet.feature is None
    assert not profile.quiet.idle
    assert "no CPU time, cycles or instructions" in profile.notes[0]


# --- an idle recording ----------------------------------------------------------------------------


def test_an_idle_recording() -> None:
    busy, idle = observed(steady(np.full(50, 0.7))), observed(steady(np.full(50, 0.001)))
    profile = build_profile(busy, idle, machine_spec=CORES)
    assert profile.power["rapl-sysfs"]["package"].idle == pytest.approx(IDLE_WATTS["package"], rel=0.03)
    assert profile.power["rapl-sysfs"]["package"].maximum > 100
    assert [entry.idle for entry in profile.recordings] == [False, True]
    assert len(profile.background) == 1
    assert profile.notes == []


def test_an_idle_recording_that_is_not_idle() -> None:
    profile = build_profile(observed(steady(np.full(50, 0.9))), observed(steady(np.full(50, 0.5))), machine_spec=CORES)
    assert not profile.quiet.idle
    assert "the idle recording is not idle" in profile.notes[0]
    assert "50% of the capacity" in profile.notes[0]


def test_an_idle_recording_of_another_machine() -> None:
    """A note warns if the idle recording has more power than the busy recording: the machines may differ."""
    other = steady(np.full(50, 0.001))
    for metric, series in other.items():
        if "joules" in metric:
            for entry in series:
                entry["values"] = [[at, f"{3 * float(value):.3f}"] for at, value in entry["values"]]
    profile = build_profile(observed(steady(np.full(50, 0.1))), observed(other), machine_spec=CORES)
    assert any("another machine, or not idle" in note for note in profile.notes)


# --- energy counted twice -------------------------------------------------------------------------


def with_modes(document: Document, idle: float | None) -> Document:
    """For each series of dynamic energy, add a series of idle energy: the values times `idle`. None adds nothing."""
    for metric, series in document.items():
        if "joules" in metric and idle is not None:
            document[metric] = series + [
                {
                    "metric": {**entry["metric"], "mode": "idle"},
                    "values": [[at, f"{idle * float(value):.3f}"] for at, value in entry["values"]],
                }
                for entry in series
            ]
    return document


@pytest.mark.parametrize(("idle", "twice", "only"), [(1.0, True, False), (0.3, False, False), (None, False, True)])
def test_idle_and_dynamic_energy(idle: float | None, twice: bool, only: bool) -> None:
    observations = observed(with_modes(steady(LOAD), idle))
    assert bool(observations.counts.counted_twice["rapl-sysfs package"]) == twice
    assert bool(observations.counts.dynamic_only["rapl-sysfs package"]) == only
    profile = build_profile(observations, machine_spec=CORES)
    assert profile.power["rapl-sysfs"]["package"].counted_twice == twice
    assert any("counts twice" in note for note in profile.notes) == twice


# --- real recordings --------------------------------------------------------------------------


def test_the_stressng_recording(recordings: Path) -> None:
    profile = build_profile(observe([read_recording(recordings / "kepler_stressng.json.gz")]))
    assert profile.power["rapl-sysfs"]["package"].idle == pytest.approx(32, abs=1.5)
    assert profile.power["rapl-sysfs"]["dram"].idle == pytest.approx(39, abs=1.5)
    assert profile.power["acpi"]["platform"].idle == pytest.approx(171, abs=1.5)
    assert profile.quiet.idle
    assert {"CounterOnly", "CounterIRQCombined", "CPUTime"} == set(profile.feature_groups)


def test_the_idle_recording(recordings: Path) -> None:
    observations = observe([read_recording(recordings / "kepler_idle.json")])
    profile = build_profile(None, observations)
    platform, package = profile.power["acpi"]["platform"], profile.power["rapl-sysfs"]["package"]
    assert platform.idle == pytest.approx(115, abs=3)
    assert not platform.counted_twice
    assert package.counted_twice
    assert any("rapl-sysfs: idle and dynamic energy rise alike" in note for note in profile.notes)
    assert len(profile.background) > 40


# --- the JSON document of a profile ----------------------------------------------------------------


@pytest.fixture(scope="module")
def profile() -> NodeProfile:
    return build_profile(observed(steady(LOAD)), machine_spec=CORES, node_type=3)


def test_profiles_round_trip(profile: NodeProfile) -> None:
    assert read_profile(write_profile(profile), "x") == profile
    assert read_profile(json.loads(write_profile(profile)), "x") == profile
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(write_profile(profile)), json_schema())


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"[" * 50_000, b'{"layout": 1}', b'{"0": {"attrs": {}}}'],
)
def test_documents_that_are_not_a_profile(content: bytes) -> None:
    with pytest.raises(ProfileError, match=r"^x: not a node-type profile") as raised:
        read_profile(content, "x")
    assert "\n" not in str(raised.value)


def test_wrong_members_of_a_profile(profile: NodeProfile) -> None:
    document = json.loads(write_profile(profile))
    for key, value, words in (
        ("layout", 2, "layout 2"), ("power", [], "power"), ("more", 1, "more"),
        ("machine_spec", {"cores": 4.5}, "cores: 4.5"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=words):
            read_profile({**document, key: value}, "x")


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "busy.json").write_text(json.dumps(steady(LOAD)))
    (folder / "idle.json").write_text(json.dumps(steady(np.full(40, 0.001))))
    (folder / "spec.json").write_text(json.dumps({"processor": "x_y", "cores": 32}))
    done = kepler("profile", "build", folder / "busy.json", "--machine-spec", folder / "spec.json", "-o", folder / "a")
    assert done.returncode == 0, done.stderr
    assert "idle" in done.stdout
    assert "Written to" in done.stdout
    done = kepler("profile", "build", "--idle", folder / "idle.json", "-o", folder / "b", "--format", "svg", "--json")
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(done.stdout), json_schema())
    return folder


def test_written_profiles_and_plots(built: Path) -> None:
    schema = json.loads(kepler("profile", "schema").stdout)
    for name in ("a", "b"):
        jsonschema.validate(json.loads((built / name / "profile.json").read_text()), schema)
    plots = sorted(built.glob("a/*.png"))
    assert {plot.name for plot in plots} >= {"acpi_platform.png", "rapl-sysfs_package.png"}
    for plot in plots:
        content = plot.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert content.endswith(b"IEND\xaeB`\x82")
        assert int.from_bytes(content[16:20]) > 600
    drawings = sorted(built.glob("b/*.svg"))
    assert drawings
    for drawing in drawings:
        assert ET.parse(drawing).getroot().tag.endswith("svg")


def test_show_and_compare(built: Path, tmp_path: Path) -> None:
    shown = kepler("profile", "show", built / "a")
    assert shown.returncode == 0, shown.stderr
    assert "package" in shown.stdout
    assert json.loads(kepler("profile", "show", built / "a", "--json").stdout)["machine_spec"]["cores"] == 32
    assert "≤" in kepler("profile", "show", built / "b" / "profile.json").stdout
    compared = kepler("profile", "compare", built / "a", built / "b", "-o", tmp_path / "c.png")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    comparison = json.loads(kepler("profile", "compare", built / "a", built / "b", "--json").stdout)
    platform = next(entry for entry in comparison["power"] if entry["component"] == "platform")
    assert (platform["idle_a_bound"], platform["idle_b_bound"]) == (False, True)
    assert platform["idle_a"] == pytest.approx(platform["idle_b"], rel=0.05)
    assert all(note.startswith("B: ") for note in comparison["notes"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "-o", "out"], "no recording given"),
        (["build", "absent.json", "-o", "out"], "absent.json"),
        (["show", "absent"], "no such profile"),
        (["show", "spec.json"], "not a node-type profile"),
        (["compare", "a", "absent"], "no such profile"),
        (["compare", "a", "b", "-o", "plot.pdf"], ".png or .svg"),
        (["build", "busy.json", "--machine-spec", "a/profile.json", "-o", "out"], "unknown key"),
        (["build", "busy.json", "-o", "spec.json"], "cannot write"),
    ],
)
def test_wrong_arguments_give_one_line(arguments: list[str], words: str, built: Path) -> None:
    done = kepler("profile", *arguments, cwd=built)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (built / "out").exists()


def test_a_simulated_recording(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    write(Simulation(containers=4, timestamps=80, nodes=2), str(path))
    profile = build_profile(observe([read_recording(path)]), machine_spec=CORES)
    assert [entry.node for entry in profile.recordings] == ["node-0", "node-1"]
    assert set(profile.power) == {"acpi", "rapl-sysfs"}
    assert quiet_times(observe([read_recording(path)]), CORES).capacity == 32000.0
