"""Tests of `recalibrate` and of `estimate --idle-watts`, with a pipeline that was really trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

from support.command import kepler
from support.small_pipelines import SmallModel

from kepler_core.store import open_store
from kepler_core.store.models import read_models

PIPELINE = """
energy_sources: [rapl]
feature_groups: [CounterOnly, Basic]
abs_trainers: [LinearRegressionTrainer, KNeighborsRegressorTrainer]
"""
BEST = "rapl-sysfs/AbsPower/CounterOnly"


def run(folder: Path, *arguments: str) -> Any:
    """Run a command that has to succeed, and return its JSON document."""
    done = kepler(*arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def simulate(folder: Path, name: str, *arguments: str) -> None:
    done = kepler("simulate", "-o", name, "--containers", "4", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, and recordings of the same machine after its power has risen by 40 %."""
    folder = tmp_path_factory.mktemp("recalibrate")
    simulate(folder, "a.json", "--minutes", "6")
    shifted = ("--law-change", "0", "--law-gain", "1.4", "--seed", "4")
    simulate(folder, "metered.json", "--minutes", "2.5", *shifted)
    simulate(folder, "short.json", "--minutes", "0.7", *shifted)
    (folder / "mine.yaml").write_text(PIPELINE)
    run(folder, "train", "mine.yaml", "-i", "a.json", "-s", "m")
    return folder


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder `origin`. The test may change the store in the copy."""
    shutil.copytree(origin, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def mae(folder: Path, *options: str) -> float:
    estimated = run(folder, "estimate", "-s", "m", "-i", "metered.json", "--source", "rapl", *options)
    return float(estimated["components"]["package"]["mae"])


def test_two_metered_minutes_fit_the_models(folder: Path) -> None:
    before = mae(folder)
    result = run(folder, "recalibrate", "-s", "m", "-i", "metered.json", "-j", "1")
    assert before > 10
    assert mae(folder) < before / 4
    assert (result["pipeline"], result["version"], result["kind"]) == ("mine", 2, "recalibrated")
    assert result["notes"] == []
    assert {entry["candidate"] for entry in result["candidates"]} == {"as is", "mixed", "new"}
    chosen = {entry["model"]: entry for entry in result["chosen"]}
    assert f"{BEST}/SGDRegressorTrainer_0" in chosen
    for entry in result["candidates"]:
        assert chosen[entry["model"]]["mae"] <= entry["mae"]
    history = run(folder, "store", "history", "mine", "-s", "m")
    assert history["decisions"][-1] == result
    assert (folder / "m/mine/samples/0.json.gz").read_bytes() == (
        folder / "m/.versions/mine/1/samples/0.json.gz"
    ).read_bytes()


def test_a_rollback_returns_to_the_earlier_models(folder: Path) -> None:
    before = mae(folder)
    run(folder, "recalibrate", "-s", "m", "-i", "metered.json", "-j", "1", "--models", "1")
    assert mae(folder) != before
    run(folder, "store", "rollback", "mine", "-s", "m")
    assert mae(folder) == before


def test_the_table_marks_the_chosen_candidates(folder: Path) -> None:
    options = ("--feature-group", "CounterOnly", "--models", "1")
    done = kepler("recalibrate", "-s", "m", "-i", "metered.json", "-j", "1", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(BEST)]
    assert sum(line[-1] == "chosen" for line in lines) == len({line[0] for line in lines}) == 3
    assert "published as m/mine, version 2" in done.stdout
    text = kepler("store", "history", "mine", "-s", "m", cwd=folder).stdout
    assert "Decisions of the online trainer and of recalibrate" in text
    assert "metered timestamps" in text


def test_recalibrated_models_state_how_uncertain_their_errors_are(folder: Path) -> None:
    store = open_store(str(folder / "m"))

    def blocks() -> dict[str, Any]:
        models = read_models(store.snapshot("mine"))
        return {model.path: model.metadata["honesty"]["splits"]["blocks"] for model in models if BEST in model.path}

    hardest = {
        model.path: max(errors["worst"] for errors in model.metadata["honesty"]["splits"].values() if errors)
        for model in read_models(store.snapshot("mine"))
    }
    assert {errors.get("standard_error") for errors in blocks().values()} == {None}
    # The key `earlier` has the error before the first recalibration, even after a second recalibration.
    for _ in range(2):
        run(folder, "recalibrate", "-s", "m", "-i", "metered.json", "-j", "1", "--feature-group", "CounterOnly")
        for path, errors in blocks().items():
            assert 0 < errors["standard_error"] < errors["mae"]
            assert errors.get("earlier") == hardest.get(path)  # None if version 1 has no model at the path


def test_models_lose_a_twin_that_was_fitted_anew(folder: Path) -> None:
    store = open_store(str(folder / "m"))

    def twins() -> set[bool]:
        models = read_models(store.snapshot("mine"))
        return {model.metadata["honesty"]["twin"] is not None for model in models if model.feature_group == "Basic"}

    assert twins() == {True}
    before = {model.path: model.metadata["mae"] for model in read_models(store.snapshot("mine"))}
    run(folder, "recalibrate", "-s", "m", "-i", "metered.json", "-j", "1", "--feature-group", "CounterOnly")
    assert twins() == {False}
    after = {model.path: model.metadata["mae"] for model in read_models(store.snapshot("mine"))}
    changed = {path for path, value in after.items() if before.get(path) != value}
    assert changed == {path for path in after if path.startswith(BEST)}
    assert kepler("store", "verify", "-s", "m", cwd=folder).returncode == 0
    assert mae(folder, "--feature-group", "Basic") > 10


def test_without_rows_of_the_training_new_rows_alone_are_used(folder: Path) -> None:
    settings = ("--set", "keep_rows=0", "--set", "feature_groups=[CounterOnly]")
    run(folder, "train", "mine.yaml", "-i", "a.json", "-s", "none", *settings)
    result = run(folder, "recalibrate", "-s", "none", "-i", "metered.json", "-j", "1", "--models", "1")
    assert {entry["candidate"] for entry in result["candidates"]} == {"as is", "new"}
    assert result["notes"] == ["rapl-sysfs CounterOnly: the pipeline has no rows of the training, so no fit uses "
                               "earlier rows"]  # fmt: skip


def test_models_of_lagged_features_are_fitted_to_new_rows(folder: Path) -> None:
    settings = ("--set", "extractor=lagged", "--set", "feature_groups=[CounterOnly]")
    run(folder, "train", "mine.yaml", "-i", "a.json", "-s", "lag", *settings)
    result = run(folder, "recalibrate", "-s", "lag", "-i", "metered.json", "-j", "1", "--models", "1")
    assert {entry["candidate"] for entry in result["candidates"]} == {"as is", "new"}
    assert "no rows of the training with these features" in result["notes"][0]
    assert "new" in {entry["candidate"] for entry in result["chosen"]}


def test_groups_that_the_recording_cannot_serve_are_listed(folder: Path) -> None:
    content = json.loads((folder / "metered.json").read_text())
    left = {name: series for name, series in content.items() if "page_cache_hit" not in name}
    assert len(left) < len(content)
    (folder / "fewer.json").write_text(json.dumps(left))
    result = run(folder, "recalibrate", "-s", "m", "-i", "fewer.json", "-j", "1", "--models", "1")
    assert result["notes"] == [
        "left out: rapl-sysfs Basic: the metered recording lacks bpf_page_cache_hit",
    ]
    assert all("CounterOnly" in entry["model"] for entry in result["chosen"])


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ((), 2, "give either a metered recording (--input) or the idle power (--idle-watts)"),
        (("-i", "metered.json", "--idle-watts", "30"), 2, "give either a metered recording"),
        (("-i", "short.json"), 1, "usable timestamps in the metered recording; 20 are needed"),
        (("-i", "metered.json", "--feature-group", "CounterOny"), 2, "did you mean CounterOnly?"),
        (("-i", "metered.json", "--source", "acpi"), 2, "--source acpi: no AbsPower model to recalibrate"),
        (("-i", "metered.json", "--node-type", "3"), 2, "--node-type 3: no AbsPower model"),
        (("-i", "metered.json", "--pipeline", "min"), 1, "mine"),
        (("--idle-watts", "packge=30"), 2, "did you mean package?"),
        (("--idle-watts", "package=0"), 2, "expected a number of watts above 0"),
        (("--idle-watts", "package=nan"), 2, "expected a number of watts above 0"),
        (("--idle-watts", "30,package=31"), 2, "package occurs twice"),
        (("--idle-watts", "package=30,platform=70"), 2, "platform: no model has this component"),
    ],
)
def test_errors_change_nothing(origin: Path, arguments: tuple[str, ...], code: int, problem: str) -> None:
    done = kepler("recalibrate", "-s", "m", *arguments, cwd=origin)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert open_store(str(origin / "m")).versions("mine") == [1]


def test_the_idle_power_can_be_corrected(folder: Path) -> None:
    result = run(folder, "recalibrate", "-s", "m", "--idle-watts", "30")
    assert (result["version"], result["kind"]) == (2, "idle")
    store = open_store(str(folder / "m"))
    before = {model.path: model for model in read_models(store.snapshot("mine", 1))}
    after = {model.path: model for model in read_models(store.snapshot("mine", 2))}
    assert before.keys() == after.keys() == {entry["model"] for entry in result["chosen"]}
    for path, entry in after.items():
        model, earlier = entry.load(), before[path].load()
        assert model.predict([model.lowest])["package"][0] == pytest.approx(30)
        for component in ("core", "dram"):
            assert model.predict([model.scale])[component] == earlier.predict([model.scale])[component]
    shifts = {entry["model"]: entry["shift"]["package"] for entry in result["chosen"]}
    assert shifts[f"{BEST}/LinearRegressionTrainer_0"] != 0
    decision = run(folder, "store", "history", "mine", "-s", "m")["decisions"][-1]
    assert decision["reason"] == "the idle power of 4 models was corrected"


def test_corrected_limits_of_twins_allow_for_the_shifts(folder: Path) -> None:
    result = run(folder, "recalibrate", "-s", "m", "--idle-watts", "30", "--feature-group", "CounterOnly")
    shifts = {entry["model"]: entry["shift"]["package"] for entry in result["chosen"]}
    store = open_store(str(folder / "m"))
    before = {model.path: model for model in read_models(store.snapshot("mine", 1))}
    compared = 0
    for model in read_models(store.snapshot("mine", 2)):
        twin = model.metadata["honesty"]["twin"]
        if twin is not None:
            earlier = before[model.path].metadata["honesty"]["twin"]["limits"]
            shift = shifts[f"{BEST}/{twin['model_name']}"]
            assert twin["limits"]["package"] == pytest.approx(earlier["package"] + abs(shift))
            assert twin["limits"]["dram"] == earlier["dram"]
            compared += 1
    assert compared == 2


def test_models_of_other_programs_stay(folder: Path) -> None:
    store = open_store(str(folder / "m"))
    snapshot = store.snapshot("mine")
    foreign = SmallModel(trainer="PolynomialRegressionTrainer").files()
    names = snapshot.names - {"manifest.json"}
    store.publish("mine", {name: snapshot.read(name) for name in names} | foreign)
    result = run(folder, "recalibrate", "-s", "m", "--idle-watts", "30")
    assert len(result["chosen"]) == 4
    after = store.snapshot("mine")
    assert {name: after.read(name) for name in foreign} == foreign


def test_estimate_uses_the_known_idle_power(folder: Path) -> None:
    options = ("-s", "m", "-i", "metered.json", "--source", "rapl")
    plain = run(folder, "estimate", *options)["components"]
    raised = run(folder, "estimate", *options, "--idle-watts", "package=60")["components"]
    lower = run(folder, "estimate", *options, "--idle-watts", "package=50,dram=9")["components"]
    difference = raised["package"]["predicted_mean"] - lower["package"]["predicted_mean"]
    assert difference == pytest.approx(10)
    assert raised["dram"] == plain["dram"]
    assert lower["dram"]["predicted_mean"] != plain["dram"]["predicted_mean"]
    assert raised["package"]["mae"] != plain["package"]["mae"]
    assert open_store(str(folder / "m")).versions("mine") == [1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--idle-watts", "30", "--output-type", "DynPower"), "works only with --output-type AbsPower"),
        (("--idle-watts", "platform=70"), "platform: no model has this component"),
        (("--idle-watts", "watts"), "expected a number of watts above 0"),
    ],
)
def test_estimate_refuses_a_wrong_idle_power(origin: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = kepler("estimate", "-s", "m", "-i", "metered.json", "--source", "rapl", *arguments, cwd=origin)
    assert done.returncode == 2
    assert problem in done.stderr
