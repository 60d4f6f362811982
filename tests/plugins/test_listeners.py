"""Listeners: those that ship, strict ones, what is traced, and what commands say of plugins in use."""

from __future__ import annotations

import json
import os

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import kepler

from kepler_core.errors import HookError
from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.train import train
from kepler_core.plugins.hooks import Events, events, hookimpl
from kepler_core.store.local import LocalStore

SMALL = {
    "name": "mine",
    "energy_sources": ["acpi"],
    "feature_groups": ["CounterOnly"],
    "validation": {"folds": 2},
    "abs_trainers": ["LinearRegressionTrainer"],
}


class Heard:
    """Notes what it hears."""

    def __init__(self):
        self.calls = []

    @hookimpl
    def kepler_model_trained(self, model):
        self.calls.append(model["trainer"])

    @hookimpl
    def kepler_model_published(self, version):
        self.calls.append(version)


class Veto:
    """Stops a publication."""

    @hookimpl(strict=True)
    def kepler_publishing(self, pipeline):
        raise ValueError(f"{pipeline} is not\nto be published")


class Ill:
    """Raises, and is not strict."""

    @hookimpl
    def kepler_publishing(self, pipeline):
        raise ValueError("ill")


@pytest.fixture
def spec():
    return pipeline_from(SMALL, "mine.yaml")


def test_a_strict_listener_stops_the_publication_and_the_others_are_told(spec, kepler_observations, tmp_path):
    listeners, heard, store = Events(), Heard(), LocalStore(str(tmp_path / "models"))
    for listener in (heard, Veto()):
        listeners.listen(listener)
    with pytest.raises(HookError, match="hook Veto: kepler_publishing failed: ValueError: mine is not to be published"):
        train(spec, kepler_observations, store, backend="threading", jobs=1, listeners=listeners)
    assert heard.calls == ["LinearRegressionTrainer"]
    assert store.pipelines() == []


def test_one_that_is_not_strict_is_named_and_stops_nothing(spec, kepler_observations, tmp_path, caplog):
    listeners, heard, store = Events(), Heard(), LocalStore(str(tmp_path / "models"))
    calls = []
    listeners.trace = calls.append
    for listener in (heard, Ill()):
        listeners.listen(listener)
    train(spec, kepler_observations, store, backend="threading", jobs=1, listeners=listeners)
    assert heard.calls == ["LinearRegressionTrainer", 1]
    assert caplog.messages.count("hook Ill: kepler_publishing failed: ValueError: ill") == 1
    traced = {(call.event, call.listener): call.failure for call in calls}
    assert traced["kepler_publishing", "Ill"] == "ValueError: ill"
    assert traced["kepler_model_published", "Heard"] is None
    assert all(call.seconds >= 0 for call in calls)


def test_an_answer_is_not_withheld_for_a_strict_listener(caplog):
    class Strict:
        @hookimpl(strict=True)
        def kepler_model_selected(self, model):
            raise ValueError("no")

    listeners = Events()
    listeners.listen(Strict())
    listeners.send("kepler_model_selected", model={})
    assert "hook Strict: kepler_model_selected failed: ValueError: no" in caplog.messages


def test_order_can_be_asked_for():
    heard = []

    def listener(name, **order):
        class Listener:
            @hookimpl(**order)
            def kepler_training_started(self):
                heard.append(name)

        return Listener()

    listeners = Events()
    for one in (listener("first", tryfirst=True), listener("last", trylast=True), listener("middle")):
        listeners.listen(one)
    listeners.send("kepler_training_started", models=1)
    assert heard == ["first", "middle", "last"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, kepler_recording_file):
    """A training with all listeners that ship turned on, and a second version rolled back."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.yaml").write_text(json.dumps(SMALL))
    settings = {
        "KEPLER_AUDIT_LOG": str(folder / "audit.log"),
        "KEPLER_METRICS_FILE": str(folder / "kepler.prom"),
        "KEPLER_REPORT": "true",
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


def test_the_report_is_published_with_the_models(trained):
    folder, _ = trained
    page = (folder / "models" / "mine" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "LinearRegressionTrainer" in page
    assert "report.html" in (folder / "models" / "mine" / "manifest.json").read_text()


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
    assert events().trace is None  # the next command is quiet


def test_a_trained_pipeline_knows_its_plugins(trained):
    folder, _ = trained
    done = kepler("plugins", "freeze", "mine", "-s", "models", "--json", cwd=folder)
    found = {(plugin["namespace"], plugin["name"]) for plugin in json.loads(done.stdout)}
    assert found >= {
        ("kepler.trainers", "LinearRegressionTrainer"),
        ("kepler.extractors", "DefaultExtractor"),
        ("kepler.energy_sources", "acpi"),
        ("kepler.metric_schemas", "kepler-0.7"),
        ("kepler.hooks", "audit"),
    }
    assert not any(name == "SVRRegressorTrainer" for _, name in found)


def test_freeze_without_a_pipeline_is_what_is_installed(tmp_path):
    lines = kepler("plugins", "freeze", cwd=tmp_path).stdout.splitlines()
    assert any(line.startswith("kepler-core==") for line in lines)
    assert kepler("plugins", "freeze", "mine", cwd=tmp_path).returncode == 2
    missing = kepler("plugins", "freeze", "mine", "-s", "nowhere", cwd=tmp_path)
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


# --- plugins new ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trainer", "My_Trainer"), "small letters, digits and dashes"),
        (("trainer", "linear-regression"), "kepler-core:LinearRegressionTrainer is called"),
        (("isolator", "min"), "kepler-core:MinIdleIsolator is called 'min' already"),
        (("reactor", "mine"), "reactor"),
    ],
)
def test_new_refuses_bad_names(tmp_path, arguments, said):
    done = kepler("plugins", "new", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_does_not_write_over_anything(tmp_path):
    assert kepler("plugins", "new", "hook", "mine", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in before} >= {"pyproject.toml", "tox.ini", "ci.yml", "test_mine.py", "__init__.py"}
    done = kepler("plugins", "new", "hook", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_info_shows_what_a_listener_hears(tmp_path):
    found = json.loads(kepler("plugins", "info", "audit", "--json", cwd=tmp_path).stdout)
    assert found["events"] == {"kepler_store_changed": False}
    assert "kepler_store_changed" in kepler("plugins", "info", "audit", cwd=tmp_path).stdout
