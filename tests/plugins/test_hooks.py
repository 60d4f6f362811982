"""Tests of hooks: strict listeners, failing listeners, the order of listeners, and the trace of their calls."""

from __future__ import annotations

import json
import threading

import pytest
from support.plugin_wheels import GOOD_HOOK, hook_wheel, install, run_python

from kepler_core.errors import HookError, PluginError
from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.train import train
from kepler_core.plugins.hooks import Hooks, hookimpl
from kepler_core.store.local import LocalStore

PIPELINE = {
    "name": "mine",
    "energy_sources": ["acpi"],
    "feature_groups": ["CounterOnly"],
    "validation": {"folds": 2},
    "abs_trainers": ["LinearRegressionTrainer"],
}


class Recorder:
    """Listener that records the arguments of its calls."""

    def __init__(self):
        self.calls = []

    @hookimpl
    def kepler_model_trained(self, model):
        self.calls.append(model["trainer"])

    @hookimpl
    def kepler_model_published(self, version):
        self.calls.append(version)


class Veto:
    """Strict listener that stops the publication of a pipeline."""

    @hookimpl(strict=True)
    def kepler_publishing(self, pipeline):
        raise ValueError(f"{pipeline} is not\nto be published")


class Ill:
    """Listener that is not strict, and that raises an exception."""

    @hookimpl
    def kepler_publishing(self, pipeline):
        raise ValueError("ill")


@pytest.fixture
def spec():
    return pipeline_from(PIPELINE, "mine.yaml")


def test_a_strict_listener_stops_the_publication_and_the_others_are_called(spec, kepler_observations, tmp_path):
    hooks, recorder, store = Hooks(), Recorder(), LocalStore(str(tmp_path / "models"))
    for listener in (recorder, Veto()):
        hooks.listen(listener)
    with pytest.raises(HookError, match="hook Veto: kepler_publishing failed: ValueError: mine is not to be published"):
        train(spec, kepler_observations, store, backend="threading", jobs=1, listeners=hooks)
    assert recorder.calls == ["LinearRegressionTrainer"]
    assert store.pipelines() == []


def test_a_listener_that_is_not_strict_is_named_and_stops_nothing(spec, kepler_observations, tmp_path, caplog):
    hooks, recorder, store = Hooks(), Recorder(), LocalStore(str(tmp_path / "models"))
    calls = []
    hooks.trace = calls.append
    for listener in (recorder, Ill()):
        hooks.listen(listener)
    train(spec, kepler_observations, store, backend="threading", jobs=1, listeners=hooks)
    assert recorder.calls == ["LinearRegressionTrainer", 1]
    assert caplog.messages.count("hook Ill: kepler_publishing failed: ValueError: ill") == 1
    failures = {(call.hook, call.listener): call.failure for call in calls}
    assert failures["kepler_publishing", "Ill"] == "ValueError: ill"
    assert failures["kepler_model_published", "Recorder"] is None
    assert all(call.seconds >= 0 for call in calls)


def test_all_listeners_are_called_after_a_strict_one_failed():
    names = []

    def listener(name):
        class Listener:
            @hookimpl(strict=True)
            def kepler_training_started(self):
                names.append(name)
                raise ValueError(name)

        return Listener()

    hooks = Hooks()
    for name in ("second", "first"):  # pluggy calls listeners in reverse order of registration
        hooks.listen(listener(name))
    with pytest.raises(HookError, match="ValueError: first"):
        hooks.call("kepler_training_started", models=1)
    assert names == ["first", "second"]


def test_a_strict_listener_fails_in_the_thread_that_called_it_only():
    both_called = threading.Barrier(2)
    outcomes = {}

    class FailsForTwo:
        @hookimpl(strict=True)
        def kepler_training_started(self, models):
            both_called.wait(10)
            if models == 2:
                raise ValueError("two")

    hooks = Hooks()
    hooks.listen(FailsForTwo())

    def call(models):
        try:
            hooks.call("kepler_training_started", models=models)
            outcomes[models] = "ok"
        except HookError:
            outcomes[models] = "failed"

    threads = [threading.Thread(target=call, args=(models,)) for models in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {1: "ok", 2: "failed"}


def test_an_answer_is_not_withheld_for_a_strict_listener(caplog):
    class Strict:
        @hookimpl(strict=True)
        def kepler_model_selected(self, model):
            raise ValueError("no")

    hooks = Hooks()
    hooks.listen(Strict())
    hooks.call("kepler_model_selected", model={})
    assert "hook Strict: kepler_model_selected failed: ValueError: no" in caplog.messages


def test_tryfirst_and_trylast_set_the_order():
    names = []

    def listener(name, **order):
        class Listener:
            @hookimpl(**order)
            def kepler_training_started(self):
                names.append(name)

        return Listener()

    hooks = Hooks()
    for one in (listener("first", tryfirst=True), listener("last", trylast=True), listener("middle")):
        hooks.listen(one)
    hooks.call("kepler_training_started", models=1)
    assert names == ["first", "middle", "last"]


def test_a_listener_is_registered_once():
    recorder, hooks = Recorder(), Hooks()
    hooks.listen(recorder)
    with pytest.raises(PluginError, match="cannot listen"):
        hooks.listen(recorder)


def test_a_listener_for_an_unknown_hook_is_the_only_broken_one(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    unknown = hook_wheel(folder, "bad-hook", "@hookimpl\ndef kepler_model_traind(model): ...")
    site = install(tmp_path / "site", unknown, hook_wheel(folder, "good-hook", GOOD_HOOK))
    code = """if True:
        import json
        from kepler_core.plugins.hooks import Hooks, hookimpl
        class Recorder:
            @hookimpl
            def kepler_model_trained(self, model):
                models.append(model)
        models = []
        hooks = Hooks()
        hooks.listen(Recorder())
        hooks.call("kepler_model_trained", model={"trainer": "x"})
        print(json.dumps({"broken": hooks.broken, "models": models}))
    """
    done = run_python("-c", code, sites=(site,), marks=tmp_path / "marks", cwd=tmp_path)
    outcome = json.loads(done.stdout)
    assert list(outcome["broken"]) == ["bad-hook:hooks"]
    assert "kepler_model_traind" in outcome["broken"]["bad-hook:hooks"]
    assert outcome["models"] == [{"trainer": "x"}]
    assert (tmp_path / "marks" / "calls").read_text() == "x\n"
