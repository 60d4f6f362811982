"""Tests of two plugins with the same name or alias: the name alone is an error, but `distribution:name` is valid."""

from __future__ import annotations

import json

import pytest
from support.plugin_wheels import CLASHING_FULL, check_pipelines, imported_modules, kepler_process


@pytest.fixture(scope="module")
def messages(broken_site, odd_site, plugin_folder):
    """Return the error messages of pipelines that use names or aliases of two plugins, by name of the pipeline."""
    names = {
        "clash": {"abs_trainers": [], "dyn_trainers": ["LinearRegressionTrainer"]},
        "both sides": {"abs_trainers": ["kepler-core:LinearRegressionTrainer", CLASHING_FULL]},
        "twice": {"abs_trainers": ["SGDRegressorTrainer", "kepler-core:SGDRegressorTrainer"]},
    }
    aliases = {
        "alias": {"isolator": "min"},
        "name": {"isolator": "NoneIsolator", "abs_trainers": ["LightTrainer"]},
    }
    return {
        **check_pipelines(names, broken_site, plugin_folder),
        **check_pipelines(aliases, odd_site, plugin_folder),
    }


def test_the_error_of_a_clash_names_both_choices(messages):
    line = messages["clash"]
    assert line.startswith("mine.yaml: dyn_trainers[0]: ")
    assert "'kepler-core:LinearRegressionTrainer'" in line
    assert f"'{CLASHING_FULL}'" in line


@pytest.mark.parametrize(
    ("pipeline", "name"), [("both sides", "LinearRegressionTrainer"), ("twice", "SGDRegressorTrainer")]
)
def test_two_trainers_of_one_name_in_a_pipeline_are_refused(messages, pipeline, name):
    # Models of the two trainers would be published under the same name, <name>_0.
    assert messages[pipeline].startswith("mine.yaml: abs_trainers")
    assert name in messages[pipeline]


def test_an_alias_of_two_plugins_is_an_error(messages):
    assert "'kepler-core:MinIdleIsolator'" in messages["alias"]
    assert "'alias-clash:OtherIsolator'" in messages["alias"]


def test_a_name_takes_precedence_over_an_alias(messages):
    assert messages["name"] == "isolator NoneIsolator"


def test_info_of_a_name_of_two_plugins_shows_both(odd_site, tmp_path):
    descriptions = json.loads(
        kepler_process("plugins", "info", "min", "--json", sites=(odd_site,), cwd=tmp_path).stdout
    )
    assert {(entry["distribution"], entry["name"]) for entry in descriptions} == {
        ("kepler-core", "MinIdleIsolator"),
        ("alias-clash", "OtherIsolator"),
    }


def test_the_other_side_of_a_clash_is_not_imported(odd_site, tmp_path):
    # If the plugin with the same name in another distribution were imported, it would end the program.
    marks = tmp_path / "marks"
    done = kepler_process(
        "plugins", "info", "kepler-core:SmoothExtractor", sites=(odd_site,), marks=marks, cwd=tmp_path
    )
    assert "from kepler-core " in done.stdout
    assert imported_modules(marks) == set()


def test_doctor_reports_an_alias_of_two_plugins(odd_site, tmp_path):
    command = ("plugins", "doctor", "--json", "--no-checks", "alias-clash")
    report = json.loads(kepler_process(*command, sites=(odd_site,), cwd=tmp_path, code=3).stdout)
    (problem,) = [p for p in report["problems"] if p["namespace"] == "kepler.isolators"]
    assert problem["plugin"] == "min"
    assert "kepler-core:MinIdleIsolator" in problem["problem"]
    assert "alias-clash:OtherIsolator" in problem["problem"]
