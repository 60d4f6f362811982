"""Tests of isolators: background power plus remaining power is the measured power. `reconstruct` adds them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import kepler
from support.steady_load import Document, steady

from kepler_core.cli.train import run as train_command
from kepler_core.containers import matching, workload
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError
from kepler_core.estimate import estimate
from kepler_core.machine import Machine, read_machine_spec
from kepler_core.plugins import registry
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.store import open_store
from kepler_core.store.models import read_models
from kepler_profiler.profile import build_profile, write_profile
from kepler_profiler.profile.document import ProfileError

FEATURES = ("cache_miss", "cpu_cycles", "cpu_instructions")
SPEC = {"processor": "x_y", "cores": 32}
ISOLATORS = ("none", "min", "profile", "trainer")


class HalfModel:
    """An AbsPower model that predicts 20 W plus 1 W per 1e9 instructions per second."""

    name = "HalfModel_0"

    def predict(self, X: Any, features: Any = None) -> dict[str, Any]:
        watts = 20.0 + np.asarray(X)[:, FEATURES.index("cpu_instructions")] * 1e-9
        return dict.fromkeys(("package", "core", "uncore", "dram", "platform"), watts)


@pytest.fixture(scope="module")
def observations() -> Observations:
    return observe([read_recording(recording(Simulation(containers=6, timestamps=80, nodes=2)))])


def by_container(observations: Observations, source: str = "rapl-sysfs", features: Any = FEATURES) -> Dataset:
    extractor = registry.extractors.create("default")
    return extractor.extract(observations, features, source, observations.sources[source], by_container=True)


def context(observations: Observations, **attributes: Any) -> IsolationContext:
    return IsolationContext(observations, machine_spec=SPEC, abs_model=lambda _: HalfModel(), **attributes)  # type: ignore[arg-type, return-value]


def check_conserved(before: Dataset, after: Dataset) -> None:
    """Check that background power + dynamic power = measured power, and that neither summand is negative.

    `before` has the measured power, `after` the result of an isolator.
    """
    assert after.output_type == "DynPower"
    assert after.background is not None
    measured = before.node_power().loc[after.node_power().index]
    dynamic, background = after.node_power(), after.background
    assert (after.frame[after.power_columns].to_numpy() >= 0).all()
    assert (background.to_numpy() >= 0).all()
    np.testing.assert_allclose((dynamic + background).to_numpy(), measured.to_numpy(), atol=1e-9)


def check_round_trip(before: Dataset, after: Dataset, isolator: Any) -> None:
    reconstructed = isolator.reconstruct(after)
    assert reconstructed.output_type == "AbsPower"
    assert reconstructed.background is None
    measured = before.node_power().loc[reconstructed.node_power().index]
    np.testing.assert_allclose(reconstructed.node_power().to_numpy(), measured.to_numpy(), atol=1e-9)


# --- tests of all isolators -----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["rapl-sysfs", "acpi"])
@pytest.mark.parametrize("name", ISOLATORS)
def test_no_power_is_lost(name: str, source: str, observations: Observations) -> None:
    isolator, before = registry.isolators.create(name), by_container(observations, source)
    after = isolator.isolate(before, context(observations))
    check_conserved(before, after)
    check_round_trip(before, after, isolator)
    assert after.frame.index.equals(before.frame.index)
    total = after.node_power().to_numpy().sum() / before.node_power().to_numpy().sum()
    assert total == pytest.approx(1.0) if name == "none" else total < 0.9


@pytest.mark.parametrize(
    ("name", "args"), [("profile", {}), ("trainer", {}), ("trainer", {"background_hints": ["app-1"]})]
)
def test_background_containers_are_dropped(name: str, args: dict[str, Any], observations: Observations) -> None:
    isolator, before = registry.isolators.create(name, args), by_container(observations)
    background = {n for n in map(workload, observations.container_names) if n.endswith("app-1")}
    after = isolator.isolate(before, context(observations, background=frozenset() if args else frozenset(background)))
    names = dict(zip(observations.containers, observations.container_names, strict=True))
    remaining = {names[container] for container in after.index.get_level_values("container")}
    assert remaining
    assert not any(container.endswith("app-1") for container in remaining)
    check_conserved(before, after)
    check_round_trip(before, after, isolator)
    assert any("2 of 12 containers are background" in note for note in after.notes)
    plain = registry.isolators.create(name).isolate(before, context(observations))
    assert after.node_power().to_numpy().sum() < plain.node_power().to_numpy().sum()


@pytest.mark.parametrize("name", ["profile", "trainer"])
def test_an_error_if_all_containers_are_background(name: str, observations: Observations) -> None:
    everything = frozenset(map(workload, observations.container_names))
    with pytest.raises((PluginError, ProfileError), match="nothing is left to train on"):
        registry.isolators.create(name).isolate(
            by_container(observations), context(observations, background=everything)
        )


def test_a_node_feature_is_not_added_up_over_containers(observations: Observations) -> None:
    features = (*FEATURES, "cpu_scaling_frequency_hertz")
    if "cpu_scaling_frequency_hertz" not in observations.features:
        pytest.skip("the simulation has no frequency")
    inputs = []

    class RecordingModel(HalfModel):
        def predict(self, X: Any, features: Any = None) -> dict[str, Any]:
            inputs.append(X)
            return super().predict(X)

    before = by_container(observations, features=features)
    assert "cpu_scaling_frequency_hertz" in before.repeated
    recording_context = attrs.evolve(context(observations), abs_model=lambda _: RecordingModel())
    after = registry.isolators.create("trainer", {"background_hints": ["app-1"]}).isolate(before, recording_context)
    check_conserved(before, after)
    column = before.frame["cpu_scaling_frequency_hertz"].to_numpy()[before.first_rows]
    np.testing.assert_array_equal(inputs[0][:, 3], column)


def small(watts: list[float], usage: list[float], per: int) -> Dataset:
    """Return a data set of power (`watts`) and a feature (`usage`). Each timestamp has `per` containers."""
    n = len(watts) // per
    index = pd.MultiIndex.from_tuples(
        [("r", "n", float(t), f"c{c}") for t in range(n) for c in range(per)],
        names=["recording", "node", "timestamp", "container"],
    )
    columns = {"cpu_instructions": usage[: len(watts)], "package_power": watts}
    return Dataset(pd.DataFrame(columns, index=index), ("cpu_instructions",), "rapl-sysfs", ("package",))


watts = st.floats(0, 1e4).map(lambda value: round(value, 3))


@given(data=st.data(), per=st.integers(1, 4), n=st.integers(1, 5))
def test_any_background(data: st.DataObject, per: int, n: int) -> None:
    """`isolated` loses no power, even if the background power is negative or larger than the measured power."""
    values = data.draw(st.lists(watts, min_size=per * n, max_size=per * n))
    usage = data.draw(st.lists(st.sampled_from([0.0, 1.0, 1e9]), min_size=per * n, max_size=per * n))
    before = small(values, usage, per)
    taken = np.array(data.draw(st.lists(st.booleans(), min_size=per * n, max_size=per * n)))
    background = before.node_power()
    background["package_power"] = data.draw(st.lists(st.floats(-10, 4e4), min_size=n, max_size=n))
    after = before.isolated(background, taken)
    if after.frame.empty:
        assert taken.all()
        return
    check_conserved(before, after)
    reconstructed = after.reconstructed()
    measured = before.node_power().loc[reconstructed.node_power().index]
    np.testing.assert_allclose(reconstructed.node_power().to_numpy(), measured.to_numpy(), rtol=1e-9, atol=1e-6)
    assert (reconstructed.y("package") >= 0).all()


def test_an_unknown_background_is_an_error() -> None:
    before = small([1.0, 2.0], [1.0, 1.0], 1)
    with pytest.raises(ValueError, match="unknown at some timestamps"):
        before.isolated(before.node_power() * np.nan)
    with pytest.raises(ValueError, match="no background power was subtracted"):
        before.reconstructed()


# --- hints that name containers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "workload_name"),
    [
        ("kube-system/coredns-5d78c9869d-x2x4z/coredns", "kube-system/coredns/coredns"),
        ("monitoring/node-exporter-x2x4z/exporter", "monitoring/node-exporter/exporter"),
        ("batch/backup-28391234-x2x4z/tar", "batch/backup/tar"),
        ("db/postgres-0/postgres", "db/postgres-0/postgres"),
        ("default/kube-proxy/kube-proxy", "default/kube-proxy/kube-proxy"),
        ("0123abcd", "0123abcd"),
    ],
)
def test_workload_drops_the_generated_parts_of_names(name: str, workload_name: str) -> None:
    assert workload(name) == workload_name
    assert workload(workload_name) == workload_name


def test_hints_match_names_and_patterns() -> None:
    names = ["kube-system/coredns-5d78c9869d-x2x4z/coredns", "default/web-7c9d8f6b5d-bcdfg/nginx", "default/batch/job"]
    for hint, matches in (
        ("kube-system", [True, False, False]), ("coredns", [True, False, False]), ("web", [False, True, False]),
        ("nginx", [False, True, False]), ("default/*", [False, True, True]), ("*/job", [False, False, True]),
        ("default/web-bbbbbbbbbb-zzzzz/nginx", [False, True, False]), ("def", [False, False, False]),
    ):  # fmt: skip
        assert matching(names, [hint]) == matches, hint


def test_contradicting_or_unmatched_hints_are_errors(observations: Observations) -> None:
    with pytest.raises(PluginError, match="exclude each other"):
        registry.isolators.create("trainer", {"background_hints": ["a"], "target_hints": ["b"]})
    for key in ("background_hints", "target_hints"):
        with pytest.raises(PluginError, match=f"{key}: no container matches absent"):
            registry.isolators.create("trainer", {key: ["absent"]}).isolate(
                by_container(observations), context(observations)
            )
    with pytest.raises(PluginError, match="no AbsPower model"):
        registry.isolators.create("trainer").isolate(by_container(observations), IsolationContext(observations))


def test_target_hints_are_the_complement_of_background_hints(observations: Observations) -> None:
    before = by_container(observations)
    by_target, by_background = (
        registry.isolators.create("trainer", {key: hints}).isolate(before, context(observations))
        for key, hints in (("target_hints", ["app-0"]), ("background_hints", [f"app-{n}" for n in range(1, 6)]))
    )
    pd.testing.assert_frame_equal(by_target.frame, by_background.frame)


# --- profiles -------------------------------------------------------------------------------------


def profile_of(observations: Observations, spec: Any = SPEC, factor: float = 1.0) -> dict[str, Any]:
    document = json.loads(write_profile(build_profile(observations, machine_spec=spec)))
    for components in document["power"].values():
        for power in components.values():
            power["idle"] *= factor
    return dict(document)


def test_the_profile_isolator_takes_the_idle_power_of_the_profile(observations: Observations) -> None:
    before, profile = by_container(observations), profile_of(observations, factor=0.5)
    after = registry.isolators.create("profile").isolate(before, context(observations, profile=profile))
    assert after.background is not None
    for component in ("package", "dram"):
        np.testing.assert_allclose(
            after.background[f"{component}_power"], profile["power"]["rapl-sysfs"][component]["idle"]
        )


def test_unsuitable_profiles_are_errors(observations: Observations) -> None:
    isolator, before = registry.isolators.create("profile"), by_container(observations)
    without = profile_of(observations)
    del without["power"]["rapl-sysfs"]
    without_dram = profile_of(observations)
    del without_dram["power"]["rapl-sysfs"]["dram"]
    for profile, message in (
        (without, r"no power of rapl-sysfs \(available: acpi\)"),
        (without_dram, "no idle power of rapl-sysfs dram"),
        (profile_of(observations, factor=3.0), "of another machine"),
        (profile_of(observations, {"processor": "amd_z", "cores": 32}), "processor amd_z, not x_y"),
        ({"0": {}}, "not a node-type profile"),
    ):
        with pytest.raises(ProfileError, match=message):
            isolator.isolate(before, context(observations, profile=profile))


def test_a_profile_with_slightly_too_much_power_gets_a_note(observations: Observations) -> None:
    high = profile_of(observations, factor=1.06)
    after = registry.isolators.create("profile").isolate(
        by_container(observations, "acpi"), context(observations, profile=high)
    )
    assert any("dynamic power is 0 there" in note for note in after.notes)


# --- isolators in a training ----------------------------------------------------------------------

PIPELINE = """
feature_groups: [CounterOnly]
abs_trainers: [LinearRegressionTrainer, SGDRegressorTrainer]
dyn_trainers: [LinearRegressionTrainer]
validation: {folds: 3}
"""


def renamed_to_agent(document: Document) -> Document:
    """Rename all containers of a recording to `agent`, a container that the busy recording does not have."""
    for metric in document.values():
        for series in metric:
            if "pod_name" in series["metric"]:
                series["metric"]["pod_name"] = "agent"
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isolators")
    busy = recording(Simulation(containers=6, timestamps=150, churn=0.0))
    (folder / "busy.json").write_text(json.dumps(busy))
    (folder / "idle.json").write_text(json.dumps(renamed_to_agent(steady(np.full(40, 0.001)))))
    (folder / "p.yaml").write_text(PIPELINE)
    (folder / "spec.json").write_text(json.dumps(SPEC))
    return folder


def train(
    folder: Path, store: Path, *settings: str, idle: Path | None = None, profile: Path | None = None
) -> dict[str, Any]:
    """Run the command `train` in this process and return its report."""
    report = train_command(
        str(folder / "p.yaml"),
        (str(folder / "busy.json"),),
        str(store),
        backend="threading",
        jobs=1,
        settings=settings,
        machine=Machine(read_machine_spec(folder / "spec.json")),
        idle=() if idle is None else (str(idle),),
        profile=None if profile is None else str(profile),
    )
    assert report.failed == []
    return report.as_dict()


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        (["isolator=none"], False), (["isolator=min"], False), (["isolator=profile"], False),
        (["isolator=profile"], True), (["isolator=trainer"], False),
        (["isolator=trainer", "isolator.args.background_hints=[app-1]"], False),
    ],
)  # fmt: skip
def test_trained_and_estimated(settings: list[str], idle: bool, folder: Path, tmp_path: Path) -> None:
    """`estimate` subtracts the same background power as the training, so its error is near the validation error.

    The AbsPower estimate of a node is the sum of its background power and of the DynPower estimates of its
    containers, within the errors of the models.
    """
    train(folder, tmp_path, *settings, idle=folder / "idle.json" if idle else None)
    snapshot = open_store(str(tmp_path)).snapshot("p")
    models = {(m.source, m.output_type): m for m in read_models(snapshot) if m.trainer == "LinearRegressionTrainer"}
    observations = observe([read_recording(folder / "busy.json")])
    for source in ("rapl-sysfs", "acpi"):
        entry = models[source, "DynPower"]
        dynamic_estimate = estimate(entry, observations)
        for component, scores in dynamic_estimate.components.items():
            assert scores["compared"] > 100
            assert scores["mae"] < 1.5 * entry.metadata[f"{component}_mae"] + 0.5, component
        if idle or len(settings) > 1:
            continue  # the sum of the DynPower estimates does not include background containers
        node = estimate(models[source, "AbsPower"], observations)
        for component in dynamic_estimate.components:
            absolute = node.frame[f"{component}_predicted"]
            dynamic = (
                dynamic_estimate.frame[f"{component}_predicted"].groupby(level=["recording", "node", "timestamp"]).sum()
            )
            difference = (absolute - dynamic).mean()
            measured = node.frame[f"{component}_measured"].mean()
            background = measured - dynamic_estimate.components[component]["measured_mean"]
            tolerance = node.components[component]["mae"] + dynamic_estimate.components[component]["mae"] + 0.5
            assert difference == pytest.approx(background, abs=tolerance), component


def test_the_profile_of_the_training_is_published_and_used_again(folder: Path, tmp_path: Path) -> None:
    profile = profile_of(observe([read_recording(folder / "busy.json")]), factor=0.5)
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    store = tmp_path / "store"
    train(folder, store, "isolator=profile", profile=tmp_path / "profile.json")
    stored = open_store(str(store)).snapshot("p").read_json("profiles/0.json")
    assert stored["power"] == profile["power"]
    assert stored["node_type"] == 0
    # without --profile, the next training uses the profile in the store
    train(folder, store, "isolator=profile")
    assert open_store(str(store)).snapshot("p").read_json("profiles/0.json")["power"] == profile["power"]


def test_an_idle_recording_with_load_gets_a_note(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loud.json").write_text(json.dumps(renamed_to_agent(steady(np.full(40, 0.1)))))
    report = train(folder, tmp_path / "s", "isolator=min", idle=tmp_path / "loud.json")
    (published,) = (tmp_path / "s" / report["pipeline"] / "profiles").iterdir()
    notes = json.loads(published.read_text())["notes"]
    assert any("the idle recording is not idle" in note and "10%" in note for note in notes)


def test_bad_profiles_idle_recordings_and_hints_are_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    for option in ("--profile", "--idle"):
        done = kepler("train", folder / "p.yaml", "-i", folder / "busy.json", "-s", tmp_path / "s", option,
                   tmp_path / "x.json")  # fmt: skip
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == 1
        assert "x.json" in done.stderr
    done = kepler("train", folder / "p.yaml", "-i", folder / "busy.json", "-s", tmp_path / "s", "--set",
               "isolator={name: trainer, args: {background_hints: 5}}")  # fmt: skip
    assert done.returncode == 1
    assert "background_hints" in done.stderr


def test_the_trainer_isolator_needs_abs_models(folder: Path, tmp_path: Path) -> None:
    done = kepler("train", folder / "p.yaml", "-i", folder / "busy.json", "-s", tmp_path / "s", "--set",
               "abs_trainers=[]", "--set", "isolator=trainer")  # fmt: skip
    assert done.returncode == 1
    assert "abs_trainers" in done.stderr


LISTENER = """
from kepler_core.plugins.hooks import hookimpl

@hookimpl
def kepler_publishing(files, pipeline, node_type, observations):
    files["extra/note.txt"] = f"{pipeline} {node_type} {len(observations.streams)}".encode()
    files["metadata.json"] = b"mine"
    files["../outside.txt"] = b"out"
    files["/absolute.txt"] = b"out"
    files["a/../b.txt"] = b"out"
"""


def test_a_listener_adds_files_below_the_pipeline_only(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "adder-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "adder.py").write_text(LISTENER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: adder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kepler.hooks]\nadder = adder\n")
    store = tmp_path / "store"
    command = [sys.executable, "-m", "kepler_core", "train", folder / "p.yaml", "-i", folder / "busy.json", "-s", store]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [*command, "-j", "1", "--backend", "threading"], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    snapshot = open_store(str(store)).snapshot("p")
    assert snapshot.read("extra/note.txt") == b"p 0 1"
    assert snapshot.read_json("metadata.json")["name"] == "p"
    assert snapshot.problems() == {}
    assert not list(tmp_path.rglob("outside.txt"))
    assert not list(tmp_path.rglob("b.txt"))
    for path in ("metadata.json", "../outside.txt", "/absolute.txt", "a/../b.txt"):
        assert f"left out the file {path!r} of a listener" in done.stderr
