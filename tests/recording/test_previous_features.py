"""Test an extractor that adds features: the values of other features at the previous timestamp."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from support.command import kepler

from kepler_core.models.export import FittedComponent, export
from kepler_core.plugins import registry
from kepler_core.recording.previous import with_previous
from kepler_core.simulate import Simulation, recording
from kepler_core.testing.samples import FEATURES, SOURCE, small_observations

PREVIOUS = tuple(f"{name}_previous" for name in FEATURES)


@pytest.mark.parametrize("by_container", [False, True])
def test_each_row_has_the_values_of_the_previous_row(by_container: bool) -> None:
    extractor = registry.extractors.create("lagged")
    features = extractor.dataset_features((*FEATURES, "bpf_cpu_time_ms"))
    assert features == (*FEATURES, "bpf_cpu_time_ms", *PREVIOUS)
    frame = extractor.extract(small_observations(), features, SOURCE, ("package",), by_container=by_container).frame
    groups = frame.reset_index().groupby([name for name in frame.index.names if name != "timestamp"])
    compared = 0
    for _, rows in groups:
        follows = np.flatnonzero(np.diff(rows["timestamp"]) < 4)  # the step is 3 s
        compared += len(follows)
        for name in FEATURES:
            present, previous = rows[name].to_numpy(), rows[f"{name}_previous"].to_numpy()
            np.testing.assert_array_equal(previous[follows + 1], present[follows])
    assert compared > 100


def test_there_is_no_previous_value_at_the_start_and_after_a_long_gap() -> None:
    observations = small_observations()
    first_of_second = int(np.flatnonzero(observations.sample_stream == 1)[0])
    later = observations.sample_time + 5 * observations.step * (np.arange(len(observations.sample_time)) >= 10)
    lagged = with_previous(attrs.evolve(observations, sample_time=later), ["cpu_cycles_previous"])
    values = lagged.node_features["cpu_cycles_previous"]
    assert np.isnan(values[[0, 10, first_of_second]]).all()
    assert values[11] == observations.node_features["cpu_cycles"][10]
    assert with_previous(observations, FEATURES) is observations


def test_kepler_gets_no_weights_on_previous_values() -> None:
    X = np.random.default_rng(0).uniform(0, 1, (60, 2))
    watts = 30 + 20 * X[:, 0] + 10 * X[:, 1]
    regressor = LinearRegression(positive=True).fit(X.astype(np.float32).astype(np.float64), watts)
    fitted = {"package": FittedComponent(regressor, None, watts)}
    for second, has_weights in (("cpu_instructions", True), ("cpu_cycles_previous", False)):
        scale = np.array([1e9, 1e9])
        files = export(("cpu_cycles", second), scale, X * scale, fitted, {"trainer": "SGDRegressorTrainer"})
        assert ("weight.json" in files) == has_weights
    assert "cpu_cycles_previous, which Kepler does not have" in json.loads(files["metadata.json"])["no_weights"]


def test_a_lagged_model_is_trained_and_applied(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(recording(Simulation(containers=4, timestamps=120))))
    (tmp_path / "lag.yaml").write_text(
        "abs_trainers: [PolynomialRegressionTrainer]\nextractor: lagged\nfeature_groups: [CounterOnly]\n"
        "energy_sources: [rapl-sysfs]\n"
    )
    trained = kepler("train", tmp_path / "lag.yaml", "-i", tmp_path / "r.json", "-s", tmp_path / "s", "--json")
    assert trained.returncode == 0, trained.stderr
    (model,) = json.loads(trained.stdout)["models"]
    metadata = json.loads((tmp_path / "s" / "lag" / model["path"] / "metadata.json").read_text())
    assert metadata["features"] == [*FEATURES, *PREVIOUS]
    estimated = kepler("estimate", "-i", tmp_path / "r.json", "-s", tmp_path / "s", "--json")
    assert estimated.returncode == 0, estimated.stderr
    assert json.loads(estimated.stdout)["components"]["package"]["mae"] < 10
