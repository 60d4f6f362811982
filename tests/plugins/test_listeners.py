"""Tests of the listeners that ship with Kepler Core, of `--trace-hooks`, and of `plugins freeze`."""

from __future__ import annotations

import json
import os

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import kepler

from kepler_core.plugins.hooks import hooks

PIPELINE = {
    "name": "mine",
    "energy_sources": ["acpi"],
    "feature_groups": ["CounterOnly"],
    "validation": {"folds": 2},
    "abs_trainers": ["LinearRegressionTrainer"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, kepler_recording_file):
    """Run two trainings with all listeners, then roll the pipeline back to version 1.

    Returns the folder of the trainings, and the finished process of the second training.
    """
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.yaml").write_text(json.dumps(PIPELINE))
    settings = {
        "KEPLER_AUDIT_LOG": str(folder / "audit.log"),
        "KEPLER_METRICS_FILE": str(folder / "kepler.prom"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        for _ in range(2):
            command = ("train", "mine.yaml", "-i", kepler_recording_file, "-s", "models", "-j", "1", "--trace-hooks")
            done = kepler(*command, cwd=folder)
            assert done.returncode == 0, done.stderr
        assert kepler("store", "rollback", "mine", "1", "-s", "models", cwd=folder).returncode == 0
    return folder, done


def test_the_audit_log_has_a_line_per_change(trained):
    folder, _ = trained
    lines = [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]
    assert [(line["pipeline"], line["action"], line["version"]) for line in lines] == [
        ("mine", "publish", 1), ("mine", "publish", 2), ("mine", "roll back", 1)
    ]  # fmt: skip
    assert {line["process"] for line in lines} == {os.getpid()}
    assert all(line["time"].endswith("+00:00") and line["user"] and line["host"] for line in lines)
    assert (folder / "audit.log").stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_metrics_are_those_of_the_training(trained):
    folder, _ = trained
    families = {family.name: family for family in text_string_to_metric_families((folder / "kepler.prom").read_text())}
    (version,) = families["kepler_pipeline_version"].samples
    assert (version.labels, version.value) == ({"pipeline": "mine"}, 2)
    counts = {sample.labels["outcome"]: sample.value for sample in families["kepler_pipeline_models"].samples}
    assert counts == {"published": 1, "failed": 0}
    (error,) = families["kepler_model_mae_watts"].samples
    (metadata,) = folder.glob("models/mine/acpi/AbsPower/CounterOnly/*/metadata.json")
    assert error.value == json.loads(metadata.read_text())["mae"]


def test_trace_hooks_shows_each_call(trained):
    _, done = trained
    lines = [line.split() for line in done.stderr.splitlines() if " kepler_" in line]
    calls = [(words[2], words[3]) for words in lines if words[1] == "s" and words[5] == "ms"]
    for call in (
        ("kepler_model_trained", "kepler-core:metrics"),
        ("kepler_publishing", "kepler-core:profiler"),
        ("kepler_store_changed", "kepler-core:audit"),
    ):
        assert call in calls
    assert hooks().trace is None  # tracing ends with the command


def test_freeze_of_a_pipeline_lists_the_plugins_of_its_training(trained):
    folder, _ = trained
    done = kepler("plugins", "freeze", "mine", "-s", "models", "--json", cwd=folder)
    plugins = {(plugin["namespace"], plugin["name"]) for plugin in json.loads(done.stdout)}
    assert plugins >= {
        ("kepler.trainers", "LinearRegressionTrainer"),
        ("kepler.extractors", "DefaultExtractor"),
        ("kepler.energy_sources", "acpi"),
        ("kepler.metric_schemas", "kepler-0.7"),
        ("kepler.hooks", "audit"),
    }
    assert not any(name == "SVRRegressorTrainer" for _, name in plugins)


def test_freeze_without_a_pipeline_lists_the_installed_distributions(tmp_path):
    lines = kepler("plugins", "freeze", cwd=tmp_path).stdout.splitlines()
    assert any(line.startswith("kepler-core==") for line in lines)
    assert kepler("plugins", "freeze", "mine", cwd=tmp_path).returncode == 2
    missing = kepler("plugins", "freeze", "mine", "-s", "nowhere", cwd=tmp_path)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


def test_info_shows_the_hooks_of_a_listener(tmp_path):
    description = json.loads(kepler("plugins", "info", "audit", "--json", cwd=tmp_path).stdout)
    assert description["hooks"] == {"kepler_store_changed": False}
    assert "kepler_store_changed" in kepler("plugins", "info", "audit", cwd=tmp_path).stdout
