"""Tests of `store show` and `store compare` with a pipeline that was really trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.training import kepler

SECONDS_PER_DAY = 86400
PIPELINE = """
feature_groups: [CounterOnly, Basic]
abs_trainers: [LinearRegressionTrainer, SGDRegressorTrainer]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the store `models`: two versions of the pipeline `mine` from different recordings."""
    folder = tmp_path_factory.mktemp("store")
    done = kepler("simulate", "-o", "a.json", "--minutes", "8", "--containers", "4", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = kepler("simulate", "-o", "b.json", "--minutes", "8", "--containers", "4", "--seed", "3", cwd=folder)
    assert done.returncode == 0, done.stderr
    later = json.loads((folder / "b.json").read_text())
    for series in (series for metric in later.values() for series in metric):
        series["values"] = [[time + SECONDS_PER_DAY, value] for time, value in series["values"]]
    (folder / "b.json").write_text(json.dumps(later))
    (folder / "mine.yaml").write_text(PIPELINE)
    for inputs in (("-i", "a.json"), ("-i", "a.json", "-i", "b.json")):
        done = kepler("train", "mine.yaml", *inputs, "-s", "models", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert ("One recording: the error on another day is unknown" in done.stdout) == (len(inputs) == 2)
    return folder


def test_show_has_the_errors_by_split(folder: Path) -> None:
    done = kepler("store", "show", "mine@1", "-s", "models", "--json", cwd=folder)
    models = json.loads(done.stdout)
    assert len(models) == 8
    for model in models:
        assert set(model["splits"]) == {"blocks", "regimes"}
        assert model["splits"][model["hardest"]] == max(model["splits"].values())
        assert model["seen"]["recordings"] == 1
        assert model["half_width"] > 0


def test_show_measures_recordings_if_there_are_two(folder: Path) -> None:
    models = json.loads(kepler("store", "show", "mine", "-s", "models", "--json", cwd=folder).stdout)
    for model in models:
        assert set(model["splits"]) == {"blocks", "regimes", "recordings"}
        assert model["seen"]["recordings"] == 2


def test_models_of_more_features_have_a_twin_of_counters(folder: Path) -> None:
    models = json.loads(kepler("store", "show", "mine", "-s", "models", "--json", cwd=folder).stdout)
    twins = {(model["feature_group"], (model["twin"] or {}).get("feature_group")) for model in models}
    assert twins == {("CounterOnly", None), ("Basic", "CounterOnly")}


def test_show_prints_tables(folder: Path) -> None:
    text = kepler("store", "show", "mine@1", "-s", "models", cwd=folder).stdout
    assert "Trained on 1 recording, 1 day, 1 node, " in text
    assert "One recording: the error on another day is unknown" in text
    assert "CounterOnly/" in text


def test_compare_uses_a_split_that_both_have(folder: Path) -> None:
    done = kepler("store", "compare", "mine@1", "mine", "-s", "models", "--json", cwd=folder)
    compared = json.loads(done.stdout)
    assert len(compared) == 8
    for entry in compared:
        assert entry["split"] in ("blocks", "regimes")
        assert entry["better"] == ("first" if entry["first"] < entry["second"] else "second")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none", "no pipeline 'none'"), ("mine@x", "must be a number, such as mine@1"), ("mine@9", "version 9")],
)
def test_unknown_names_are_one_line(folder: Path, name: str, problem: str) -> None:
    done = kepler("store", "show", name, "-s", "models", cwd=folder)
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
