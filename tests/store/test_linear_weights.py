"""Tests of power models that are made from linear weights in Kepler's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support.small_pipelines import curve, evaluate, linear

from kepler_core.errors import ModelError
from kepler_core.models.linear_weights import load_linear_weights, read_linear_weights, unmeasured_features
from kepler_core.models.power_model import PowerModel

FEATURES = ("bpf_cpu_time_ms", "bpf_page_cache_hit")


def weights_of(bias: float, **variables: tuple[float, float]) -> dict[str, Any]:
    """Return the weights of one component. `variables` maps features to (scale, weight)."""
    numerical = {name: {"scale": scale, "weight": weight} for name, (scale, weight) in variables.items()}
    return {
        "All_Weights": {"Bias_Weight": bias, "Categorical_Variables": {}, "Numerical_Variables": numerical},
    }


def model_of(document: Mapping[str, Any]) -> PowerModel:
    return load_linear_weights(read_linear_weights(json.dumps(document).encode()).encoded, {"model_name": "x_0"})


def refusal(document: Any, features: tuple[str, ...] | None = None) -> str:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ModelError) as caught:
        read_linear_weights(content, features)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_watts_are_those_of_keplers_formula() -> None:
    document = {
        "package": weights_of(40.0, bpf_cpu_time_ms=(1000.0, 12.5), bpf_page_cache_hit=(700.0, 2.0)),
        "core": weights_of(0.0, bpf_cpu_time_ms=(1000.0, 0.0), bpf_page_cache_hit=(700.0, 0.0)),
        "dram": weights_of(3.0, bpf_cpu_time_ms=(500.0, 1.0), bpf_page_cache_hit=(700.0, 0.25)),
    }
    rows = np.array([[0.0, 0.0], [500.0, 70.0], [525.0, 0.0], [520.0, 720.0]])
    columns = {name: rows[:, index].tolist() for index, name in enumerate(FEATURES)}
    expected = evaluate({"model_name": "SGDRegressorTrainer_0", **document}, columns, FEATURES[0])
    predicted = model_of(document).predict(rows[:, ::-1], FEATURES[::-1])
    assert list(predicted) == ["package", "core", "dram"]
    for component, watts in expected.items():
        np.testing.assert_allclose(predicted[component], watts, rtol=1e-6)


def test_watts_below_zero_become_zero() -> None:
    model = model_of({"package": weights_of(5.0, bpf_cpu_time_ms=(1000.0, -10.0)), "dram": weights_of(-1.0, x=(1, 2))})
    watts = model.predict([[0, 0], [1000, 0], [0, 5]], ("bpf_cpu_time_ms", "x"))
    assert watts["package"].tolist() == [5.0, 0.0, 5.0]
    assert watts["dram"].tolist() == [0.0, 0.0, pytest.approx(1.1)]


def test_features_are_cut_at_five_percent_above_their_scale() -> None:
    model = model_of({"package": weights_of(10.0, bpf_cpu_time_ms=(1000.0, 20.0))})
    watts = model.predict([[1050.0], [1e9]], ("bpf_cpu_time_ms",))["package"]
    assert watts.tolist() == pytest.approx([31.0, 31.0])
    assert model.outside([[0.0], [1050.0], [1051.0]], ("bpf_cpu_time_ms",)).tolist() == [False, False, True]


def test_power_of_dram_follows_three_times_as_many_cache_misses() -> None:
    package, dram = weights_of(10.0, cache_miss=(1000.0, 20.0)), weights_of(2.0, cache_miss=(1000.0, 4.0))
    watts = model_of({"package": package, "dram": dram}).predict([[1000.0], [2000.0], [9000.0]], ("cache_miss",))
    assert watts["package"].tolist() == pytest.approx([30.0, 31.0, 31.0])
    assert watts["dram"].tolist() == pytest.approx([6.0, 10.0, 14.0])


def test_features_of_scale_0_are_left_out() -> None:
    document = {"package": weights_of(10.0, bpf_cpu_time_ms=(1000.0, 20.0), x=(0.0, 99.0))}
    assert model_of(document).predict([[1000.0, 7.0]], ("bpf_cpu_time_ms", "x"))["package"].tolist() == [30.0]


def test_counters_that_did_not_count_in_training_are_left_out() -> None:
    document = {"package": weights_of(70.0, bpf_cpu_time_ms=(1000.0, 20.0), bpf_net_tx_irq=(1.0, -11.7))}
    encoded = read_linear_weights(json.dumps(document).encode()).encoded
    model = load_linear_weights(encoded, {})
    assert model.predict([[0.0, 7.0]], ("bpf_cpu_time_ms", "bpf_net_tx_irq"))["package"].tolist() == [70.0]
    assert unmeasured_features(encoded) == ("bpf_net_tx_irq",)
    document["package"]["All_Weights"]["Numerical_Variables"]["bpf_net_tx_irq"]["weight"] = 0.0
    assert unmeasured_features(json.dumps(document).encode()[1:-1]) == ()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"package": curve([1.0, 1.0, 1.0])}, "package: the weights of a curve"),
        ({"package": {"model_file": "package.pkl"}}, "damaged weights"),
        ({}, "no weights for any of"),
        ({"package": linear(), "platform": linear()}, "weights for platform and for package"),
        ({"package": weights_of(1.0, x=(-1.0, 1.0))}, "scale of x"),
        ({"package": weights_of(1e308, x=(1.0, 1e308))}, "overflow"),
        ({"package": weights_of(0.0, x=(5.0, -1.0)), "dram": weights_of(-1.0, x=(5.0, 0.0))}, "0 W for all values"),
        ({"package": weights_of(1.0)}, "0 features"),
        ({"package": weights_of(1.0, **{"x" * 301: (1.0, 1.0)})}, "more than 300 characters"),
        ({"package": weights_of(1.0, **{f"x{i}": (1.0, 1.0) for i in range(1001)})}, "1001 features"),
        (b'{"package":{"All_Weights":{"Bias_Weight":NaN,"Numerical_Variables":{}}}}', "damaged weights"),
        (b'{"package":{"All_Weights":{"Bias_Weight":1e999,"Numerical_Variables":{}}}}', ""),
        (b"{" * 100_000, "damaged weights"),
        (b"", "damaged weights"),
    ],
    ids=range(14),
)
def test_refused_weights(document: Any, reason: str) -> None:
    assert reason in refusal(document)


def test_a_feature_that_the_model_does_not_have() -> None:
    assert "'x', which is not a feature" in refusal({"package": weights_of(1.0, x=(1.0, 1.0))}, FEATURES)


def test_a_component_without_bias_or_weight() -> None:
    document = {"package": weights_of(1.0, x=(5.0, 1.0))}
    del document["package"]["All_Weights"]["Bias_Weight"]
    assert "no Bias_Weight" in refusal(document)
    document = {"package": weights_of(1.0, x=(5.0, 1.0))}
    del document["package"]["All_Weights"]["Numerical_Variables"]["x"]["weight"]
    assert "no weight for x" in refusal(document)
