"""Tests of `store show` and `store compare` with a pipeline that was really trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.command import kepler
from support.html_page import check_self_contained

from kepler_core.models.power_model import HELD_OUT_FILE
from kepler_core.pipeline.held_out_samples import read_held_out_samples

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


def test_the_report_of_a_comparison_has_all_models_of_both(folder: Path) -> None:
    done = kepler("store", "compare", "mine@1", "mine", "-s", "models", "--report", "ab.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "ab.html").read_text()
    check_self_contained(page)
    rows = re.findall(r"<tr>(.*?)</tr>", page[page.index('id="pairs"') : page.index('id="select"')], re.DOTALL)
    assert len(rows) == 1 + 8
    assert page.count("Errors by what was held out") >= 2
    assert "samples, held out of both trainings" in page
    assert "The error was measured on another recording only for B" in page
    assert "b.json, node node-0" in page[page.index("Only in B") :]
    assert "A was trained on" in page


def test_the_document_of_a_comparison_has_the_errors_of_the_metadata(folder: Path) -> None:
    done = kepler("store", "compare", "mine@1", "mine@2", "-s", "models", "--report", "ab.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "ab.json").read_text())
    assert [document[side]["seen"]["recordings"] for side in "AB"] == [1, 2]
    assert document["same_data"] is False
    for pair in document["models"]:
        for side, version in (("A", 1), ("B", 2)):
            path = folder / "models" / ".versions" / "mine" / str(version) / pair[side]["path"] / "metadata.json"
            splits = json.loads(path.read_text())["honesty"]["splits"]
            assert pair[side]["splits"] == {name: errors for name, errors in splits.items() if errors is not None}
        common = pair["common_samples"]
        # Model A was trained on one recording, model B on this recording and a second one. B keeps the 200 samples
        # with the lowest hashes. About half of these samples are from A's recording.
        assert 50 < common["samples"] < 150
        assert common["standard_error"] > 0
    for choice in document["select"]:
        assert choice["model"] in (choice["A"], choice["B"])


def test_errors_on_common_samples_are_those_of_the_kept_predictions(folder: Path) -> None:
    kepler("store", "compare", "mine@1", "mine@1", "-s", "models", "--report", "aa.json", cwd=folder)
    document = json.loads((folder / "aa.json").read_text())
    assert document["same_data"] is True
    assert document["changes"] == []
    for pair in document["models"]:
        content = (folder / "models" / ".versions" / "mine" / "1" / pair["A"]["path"] / HELD_OUT_FILE).read_bytes()
        samples = read_held_out_samples(content, "")
        common = pair["common_samples"]
        predicted = samples.predicted[common["split"]][common["component"]]
        error = np.abs(predicted - samples.measured[common["component"]])
        assert common["first"] == common["second"] == pytest.approx(np.nanmean(error), abs=1e-6)
        assert pair["better"] is None


def test_models_without_kept_predictions_are_named(folder: Path) -> None:
    """The report names models without stored predictions, and counts models without errors by split.

    Models of an earlier version of Kepler Core have no stored predictions. Models of other programs have no errors by
    split.
    """
    old = folder / "old"
    shutil.copytree(folder / "models" / ".versions" / "mine" / "1", old)
    for path in [*old.rglob(HELD_OUT_FILE), *old.glob("manifest.json"), *old.glob(".manifest*")]:
        path.unlink()
    for path in old.glob("*/AbsPower/CounterOnly/*/metadata.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "honesty"}))
    done = kepler("store", "import", "old", "-s", "other", "--name", "<b>old", cwd=folder)
    assert done.returncode != 0
    done = kepler("store", "import", "old", "-s", "other", "--name", "old", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = kepler(
        "store", "compare", "mine@1", "old", "-s", "models", "--other-store", "other", "--report", "old.html",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (folder / "old.html").read_text()
    check_self_contained(page)
    assert "not drawn for B: the model keeps no predictions for held-out samples" in page
    assert re.search(r"of \d+ models of B state no errors by split", page)
    assert "not comparable" in page


def test_a_report_needs_a_known_form(folder: Path) -> None:
    done = kepler("store", "compare", "mine@1", "mine", "-s", "models", "--report", "ab.pdf", cwd=folder)
    assert done.returncode == 2
    assert "must end in .html or .json" in done.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none", "no pipeline 'none'"), ("mine@x", "must be a number, such as mine@1"), ("mine@9", "version 9")],
)
def test_unknown_names_are_one_line(folder: Path, name: str, problem: str) -> None:
    done = kepler("store", "show", name, "-s", "models", cwd=folder)
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
