"""Fixtures with folders into which pip has installed wheels of third-party plugins."""

from __future__ import annotations

import json
import shutil

import pytest
from support.paths import ROOT
from support.plugin_wheels import PIPELINE, broken_wheels, install, odd_wheels, pip, train

from kepler_core.simulate import Simulation, write

EXAMPLE = ROOT / "examples" / "kepler-trainer-ridge"


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="session")
def recording(plugin_folder):
    path = plugin_folder / "recording.json.gz"
    write(Simulation(containers=4, timestamps=80, seed=3), str(path))
    return path


@pytest.fixture(scope="session")
def ridge_site(plugin_folder):
    """A folder with the example plugin installed. It is built from a copy, because a build leaves files behind."""
    source = plugin_folder / "example"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    wheels = plugin_folder / "ridge-wheels"
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels, source)
    return install(plugin_folder / "ridge", *wheels.iterdir())


@pytest.fixture(scope="session")
def broken_site(plugin_folder):
    """A folder in which all broken plugins and two good listeners are installed."""
    folder = plugin_folder / "broken-wheels"
    folder.mkdir()
    return install(plugin_folder / "broken", *broken_wheels(folder))


@pytest.fixture(scope="session")
def odd_site(plugin_folder):
    """A folder of installed plugins: trainers that raise errors, plugins with equal names, and unusual listeners."""
    folder = plugin_folder / "odd-wheels"
    folder.mkdir()
    return install(plugin_folder / "odd", *odd_wheels(folder))


@pytest.fixture(scope="session")
def ridge_trained(ridge_site, plugin_folder, recording):
    """The store and the report of a training with the trainer `ridge` of the example and two built-in trainers."""
    folder = plugin_folder / "trained"
    folder.mkdir()
    trainers = ["{name: ridge, args: {alpha: 0.5}}", "SGDRegressorTrainer", "LinearRegressionTrainer"]
    pipeline = PIPELINE + "dyn_trainers: [ridge]\n"
    report = json.loads(train(folder, trainers, recording, pipeline=pipeline, sites=(ridge_site,)).stdout)
    return folder / "store", report


@pytest.fixture(scope="session")
def reference_models(ridge_trained):
    """Return each trainer's AbsPower model in `ridge_trained`. No broken plugins were installed in this training."""
    _, report = ridge_trained
    return {model["trainer"]: model for model in report["models"] if model["output_type"] == "AbsPower"}
