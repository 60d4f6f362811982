"""Tests of the LightGBM trainer. Install the distribution first: Kepler Core finds trainers by entry points."""

import json

import pytest

from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.testing import parametrize_with_checks


@parametrize_with_checks("LightGBMRegressorTrainer")
def test_contract(check):
    check()


def test_wrong_arguments_are_errors():
    with pytest.raises(PluginError, match="at least 2"):
        registry.trainers.create("lightgbm", {"num_leaves": 1})


def test_trains_in_a_pipeline(kepler_run, kepler_recording_file, tmp_path):
    pipeline = tmp_path / "mine.yaml"
    pipeline.write_text("energy_sources: [rapl]\nfeature_groups: [CounterOnly]\nabs_trainers: [lightgbm]\n")
    done = kepler_run("train", pipeline, "-i", kepler_recording_file, "-s", "models", "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["components"]["package"]["mae"] < model["baselines"]["package"]["constant_mae"]
    (metadata,) = (tmp_path / "models").glob("mine/rapl-sysfs/AbsPower/CounterOnly/*/metadata.json")
    assert "lightgbm" in json.loads(metadata.read_text())["lineage"]["versions"]
