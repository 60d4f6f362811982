"""Tests that broken plugins are reported with the reason, and do no harm to other plugins or to trainings."""

from __future__ import annotations

import json

import pytest
from support.plugin_wheels import (
    BROKEN_HOOKS,
    BROKEN_TRAINERS,
    CLASHING_FULL,
    FAILING_TRAINERS,
    check_pipelines,
    error_line,
    imported_modules,
    kepler_process,
    train,
)

# --- plugins list, doctor and info of broken plugins ----------------------------------------------


def test_list_shows_all_and_imports_none(broken_site, ridge_site, tmp_path):
    marks = tmp_path / "marks"
    done = kepler_process("plugins", "list", "--json", sites=(broken_site, ridge_site), marks=marks, cwd=tmp_path)
    assert done.stderr == ""
    listed = {(e["distribution"], e["name"], e["version"]) for e in json.loads(done.stdout)}
    assert listed >= {(distribution, name, "2.0") for distribution, (name, *_) in BROKEN_TRAINERS.items()}
    assert listed >= {("bad-fit", name, "2.0") for name in FAILING_TRAINERS}
    assert ("kepler-clash-ing", "LinearRegressionTrainer", "3.1") in listed
    assert ("kepler-trainer-ridge", "RidgeRegressorTrainer", "1.0.0") in listed
    built_in = {name for distribution, name, _ in listed if distribution == "kepler-core"}
    assert built_in >= {"LinearRegressionTrainer", "weights"}
    assert imported_modules(marks) == set()


def test_doctor_names_each_with_distribution_and_reason(broken_site, ridge_site, tmp_path):
    marks = tmp_path / "marks"
    done = kepler_process(
        *("plugins", "doctor", "--json", "--no-checks", *BROKEN_TRAINERS, *BROKEN_HOOKS, CLASHING_FULL),
        *("kepler-core:LinearRegressionTrainer", "ridge", "a-good-hook", "MinIdleIsolator", "min"),
        sites=(broken_site, ridge_site),
        marks=marks,
        cwd=tmp_path,
        code=3,
    )
    report = json.loads(done.stdout)
    problems = {(p["namespace"], p["plugin"]): p["problem"] for p in report["problems"]}
    assert len(problems) == len(report["problems"])
    expected = {("kepler.trainers", f"{d}:{name}"): reason for d, (name, _, reason) in BROKEN_TRAINERS.items()}
    expected |= {("kepler.hooks", f"{d}:hooks"): reason for d, (_, reason) in BROKEN_HOOKS.items()}
    clash = ("kepler.trainers", "LinearRegressionTrainer")
    # no problem is reported for the built-in plugins, the example plugin and the good listeners
    assert set(problems) == {*expected, clash}
    for plugin, reason in expected.items():
        assert reason in problems[plugin]
    assert "kepler-core:LinearRegressionTrainer" in problems[clash]
    assert CLASHING_FULL in problems[clash]
    assert imported_modules(marks) >= {"bad_import", "bad_exit", "kepler_clash_ing", "badhook_import"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("distribution", ["bad-exit", "bad-base"])
def test_info_of_a_broken_plugin_is_the_reason(broken_site, tmp_path, distribution):
    name, _, reason = BROKEN_TRAINERS[distribution]
    line = error_line(kepler_process("plugins", "info", name, sites=(broken_site,), cwd=tmp_path, code=1))
    assert f"{distribution} 2.0" in line
    assert reason in line


def test_the_remains_of_a_half_removed_distribution_break_nothing(tmp_path):
    # an interrupted uninstall can leave a dist-info folder without METADATA
    remains = tmp_path / "site" / "gone-1.0.dist-info"
    remains.mkdir(parents=True)
    (remains / "entry_points.txt").write_text("[kepler.trainers]\nGoneTrainer = gone:GoneTrainer\n")
    sites = (tmp_path / "site",)
    assert "LinearRegressionTrainer" in kepler_process("plugins", "list", sites=sites, cwd=tmp_path).stdout
    line = error_line(kepler_process("plugins", "info", "GoneTrainer", sites=sites, cwd=tmp_path, code=1))
    assert "GoneTrainer" in line


# --- train with some broken plugins ---------------------------------------------------------------

FAIL_IN_FIT = ("RaisingTrainer", "ExitingTrainer", "NothingTrainer", "NaNTrainer")


@pytest.fixture(scope="module")
def mixed_training(broken_site, ridge_site, recording, tmp_path_factory):
    """Train with four failing and three working trainers. Return the training's folder, its report and its process."""
    folder = tmp_path_factory.mktemp("mixed")
    trainers = [*FAIL_IN_FIT, "SGDRegressorTrainer", "ridge", CLASHING_FULL]
    sites, marks = (broken_site, ridge_site), folder / "marks"
    done = train(folder, trainers, recording, jobs=2, sites=sites, marks=marks, code=3)
    return folder, json.loads(done.stdout), done


def test_working_trainers_publish_beside_failing_ones(mixed_training, reference_models):
    folder, report, _ = mixed_training
    models = {model["trainer"]: model for model in report["models"]}
    assert set(models) == {"SGDRegressorTrainer", "RidgeRegressorTrainer", "LinearRegressionTrainer"}
    assert models["SGDRegressorTrainer"] == reference_models["SGDRegressorTrainer"]
    published = {path.parent.name for path in (folder / "store").glob("mine/*/*/*/*/model.json")}
    assert published == {f"{name}_0" for name in models}


def test_failing_trainers_are_listed_with_the_reason(mixed_training):
    _, report, _ = mixed_training
    failed = {failure["trainer"]: failure for failure in report["failed"]}
    assert set(failed) == set(FAIL_IN_FIT)
    assert failed["RaisingTrainer"]["reason"] == "RuntimeError: the matrix is not to my liking"
    assert "enough" in failed["ExitingTrainer"]["reason"]
    assert "None" in failed["NothingTrainer"]["reason"]
    assert "NaN" in failed["NaNTrainer"]["reason"]
    for failure in failed.values():
        place = failure["source"], failure["output_type"], failure["feature_group"]
        assert place == ("acpi", "AbsPower", "CounterOnly")


def test_the_chosen_side_of_a_clash_trains(mixed_training):
    folder, _, _ = mixed_training
    (metadata,) = (folder / "store").glob("mine/*/*/*/LinearRegressionTrainer_0/metadata.json")
    assert json.loads(metadata.read_text())["lineage"]["versions"]["kepler-clash-ing"] == "3.1"


def test_broken_listeners_are_named_and_the_others_are_called(mixed_training):
    folder, _, done = mixed_training
    for distribution in ("badhook-raises", *BROKEN_HOOKS):
        assert f"{distribution}:hooks" in done.stderr
    assert "this listener is ill" in done.stderr
    assert "ill again" in done.stderr
    assert "Traceback" not in done.stderr
    calls = (folder / "marks" / "calls").read_text().splitlines()
    for call in ("SGDRegressorTrainer", "RaisingTrainer failed", "published mine 1"):
        assert calls.count(call) == 2  # each of the two good listeners was called once


def test_a_trainer_that_writes_into_its_data_does_not_change_other_models(
    broken_site, recording, reference_models, tmp_path
):
    # With threads in place of processes, the trainers that fit after OverwritingTrainer get the same arrays.
    trainers = ["OverwritingTrainer", "ExitingTrainer", "SGDRegressorTrainer", "kepler-core:LinearRegressionTrainer"]
    done = train(tmp_path, trainers, recording, backend="threading", sites=(broken_site,), code=3)
    models = {model["trainer"]: model for model in json.loads(done.stdout)["models"]}
    for name in ("SGDRegressorTrainer", "LinearRegressionTrainer"):
        assert models[name] == reference_models[name]


def test_only_failing_trainers_publish_nothing(broken_site, recording, tmp_path):
    done = train(tmp_path, ["RaisingTrainer", "ExitingTrainer"], recording, sites=(broken_site,), code=1)
    assert "the matrix is not to my liking" in done.stderr
    assert "enough" in done.stderr
    assert not list((tmp_path / "store").glob("mine*"))


def test_training_with_a_broken_plugin_is_refused_in_one_line(broken_site, recording, tmp_path):
    done = train(tmp_path, ["ExitAtImportTrainer"], recording, sites=(broken_site,), code=1)
    assert "SystemExit: good bye" in error_line(done)
    assert not (tmp_path / "store").exists()


# --- pipelines that name broken plugins -----------------------------------------------------------


@pytest.fixture(scope="module")
def messages(broken_site, odd_site, plugin_folder):
    """Return the error messages of pipelines with broken plugins or a wrong argument, by name of the pipeline.

    The function defines the pipelines in the dicts `documents` and `unmakeable`.
    """
    documents = {name: {"abs_trainers": [name]} for name, *_ in BROKEN_TRAINERS.values()}
    documents["argument"] = {"abs_trainers": [{"name": "kepler-core:SGDRegressorTrainer", "args": {"alpha": 1}}]}
    unmakeable = {name: {"abs_trainers": [name]} for name in ("UnmakeableTrainer", "ExitsWhenMadeTrainer")}
    return {
        **check_pipelines(documents, broken_site, plugin_folder),
        **check_pipelines(unmakeable, odd_site, plugin_folder),
    }


@pytest.mark.parametrize("distribution", BROKEN_TRAINERS)
def test_the_error_of_a_pipeline_names_the_broken_plugin_and_the_reason(messages, distribution):
    name, _, reason = BROKEN_TRAINERS[distribution]
    line = messages[name]
    assert line.startswith("mine.yaml: abs_trainers[0]: ")
    assert f"{distribution} 2.0" in line
    assert name in line
    assert reason in line


def test_wrong_arguments_are_named_by_their_path(messages):
    assert messages["argument"].startswith("mine.yaml: abs_trainers[0].args.alpha: ")
    assert "unknown argument 'alpha'" in messages["argument"]


@pytest.mark.parametrize(
    ("name", "reason"), [("UnmakeableTrainer", "no table t"), ("ExitsWhenMadeTrainer", "SystemExit")]
)
def test_a_trainer_that_raises_in_init_is_named_with_the_reason(messages, name, reason):
    line = messages[name]
    assert line.startswith("mine.yaml: abs_trainers[0]: ")
    assert name in line
    assert reason in line


# --- broken listeners -----------------------------------------------------------------------------


def test_a_listener_that_exits_or_is_a_class_does_not_stop_the_training(
    odd_site, recording, reference_models, tmp_path
):
    marks = tmp_path / "marks"
    done = train(tmp_path, ["SGDRegressorTrainer"], recording, sites=(odd_site,), marks=marks)
    assert json.loads(done.stdout)["models"] == [reference_models["SGDRegressorTrainer"]]
    assert "hook-exits:hooks" in done.stderr
    # If a listener is a class, Kepler Core either creates and calls an instance, or reports the listener as unusable.
    assert (marks / "class-called").exists() or "hook-class:hooks" in done.stderr
    assert (marks / "calls").read_text().splitlines() == ["SGDRegressorTrainer", "published mine 1"]
