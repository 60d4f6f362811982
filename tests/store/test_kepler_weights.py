"""Test that weight files are accepted only if Kepler, which evaluates them itself, gets safe watts."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import SHARED
from support.server_process import check_one_line
from support.small_pipelines import BPF, COUNTERS, curve, evaluate, linear
from support.weight_sweep import answer_of, senseless_powers

from kepler_core.errors import ModelError
from kepler_core.models.kepler_weights import KEPLER_CURVES, KeplerWeights, read_weights

TRAINERS = ("SGDRegressorTrainer", "LinearRegressionTrainer", "GradientBoostingRegressorTrainer", *KEPLER_CURVES)
DATABASE = SHARED / "data" / "model_db" / "ec2-0.7.11"


def read(document: Any, trainer: str = "SGDRegressorTrainer", features: tuple[str, ...] = BPF) -> KeplerWeights:
    return read_weights(json.dumps(document).encode(), trainer, features)


def check_safe(weights: KeplerWeights, features: tuple[str, ...]) -> None:
    answer = answer_of(weights)
    text = json.dumps(answer, allow_nan=False)
    assert json.loads(text) == answer
    # Kepler uses the first feature in its own list for a curve. This may be any feature.
    for first in features or ("bpf_cpu_time_ms",):
        idle = evaluate(answer, {name: [0.0] for name in {*features, first}}, first)
        assert idle
        for component, watts in idle.items():
            assert math.isfinite(watts[0]), component
            assert watts[0] >= 0, component
    if weights.linear:
        check_safe_under_load(answer)


def check_safe_under_load(answer: dict[str, Any]) -> None:
    """Check that accepted linear weights never give negative power under load.

    The check uses features of up to three times their highest training values (scales). A feature with a scale of at
    most 1 is rare, and must have the weight 0.
    """
    for component in (name for name in answer if name != "model_name"):
        linear_weights = answer[component]["All_Weights"]
        variables = linear_weights["Numerical_Variables"].values()
        at_work = [variable["weight"] for variable in variables if variable["scale"] > 0]
        lowest = linear_weights["Bias_Weight"] + 3 * sum(min(weight, 0.0) for weight in at_work)
        assert lowest >= -1e-9 * sum(map(abs, at_work)), component
        assert not any(variable["weight"] for variable in variables if 0 < variable["scale"] <= 1), component


numbers = st.one_of(
    st.sampled_from([0, 0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, 5, 1000.0, 800.0, -800.0]),
    st.floats(),
    st.integers(-10, 10),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
variables = st.dictionaries(
    st.sampled_from([*BPF, *COUNTERS, "x"]),
    st.fixed_dictionaries({"scale": numbers}, optional={"weight": numbers, "more": anything}) | anything,
    max_size=3,
)
weights_of_a_component = st.fixed_dictionaries(
    {},
    optional={
        "Categorical_Variables": st.just({}) | anything,
        "Numerical_Variables": variables,
        "Bias_Weight": numbers | anything,
        "CurveFit_Weights": st.lists(numbers, min_size=2, max_size=5) | anything,
    },
)
sound = st.builds(
    lambda bias, weight, scale: {
        "Categorical_Variables": {},
        "Numerical_Variables": {"bpf_cpu_time_ms": {"scale": scale, "weight": weight}},
        "Bias_Weight": bias,
    },
    *[numbers] * 3,
)
sound_curve = st.builds(
    lambda fit: {"Numerical_Variables": {"bpf_cpu_time_ms": {"scale": 1.0}}, "CurveFit_Weights": fit},
    st.lists(numbers, min_size=3, max_size=4),
)
documents = st.dictionaries(
    st.sampled_from(["package", "core", "uncore", "dram", "platform", "model_name", "x"]),
    st.fixed_dictionaries({"All_Weights": weights_of_a_component | sound | sound_curve}) | anything,
    max_size=4,
)


@settings(max_examples=600)
@given(documents, st.sampled_from(TRAINERS), st.sampled_from([BPF, COUNTERS, (*COUNTERS, *BPF), (), ("x",)]))
def test_accepted_weights_are_safe(document: Any, trainer: str, features: tuple[str, ...]) -> None:
    try:
        weights = read(document, trainer, features)
    except ModelError as error:
        check_one_line(error)
        return
    check_safe(weights, features)


@given(st.sampled_from(TRAINERS), st.data())
def test_accepted_weights_near_the_bounds_are_safe(trainer: str, data: st.DataObject) -> None:
    """If random weights are accepted, they give safe watts. The weights are small, so that many are accepted."""
    size = KEPLER_CURVES.get(trainer)
    near = st.floats(-2, 2)
    component = linear(data.draw(near), {"bpf_cpu_time_ms": data.draw(near)})
    if size is not None:
        component = curve(data.draw(st.lists(near, min_size=size, max_size=size)))
    try:
        weights = read({"package": component}, trainer)
    except ModelError:
        return
    check_safe(weights, BPF)


@settings(max_examples=300)
@given(st.binary(max_size=200) | documents.map(lambda document: json.dumps(document).encode()[:-1]))
def test_any_bytes(content: bytes) -> None:
    for trainer in TRAINERS[:1] + TRAINERS[3:4]:
        try:
            weights = read_weights(content, trainer, BPF)
        except ModelError as error:
            check_one_line(error)
        else:
            check_safe(weights, BPF)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"package":' + b'{"a":' * 50_000, b'{"package":"\xff"}', b"null", b"[]", b"{}", b""],
)
def test_hostile_json(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_weights(content, "SGDRegressorTrainer", BPF)


def test_linear_weights_of_any_trainer_get_the_name_that_kepler_knows() -> None:
    for trainer in ("SGDRegressorTrainer", "LinearRegressionTrainer", "MyOwnTrainer"):
        weights = read({"package": linear()}, trainer)
        assert weights.linear
        assert not weights.drawn_over
        assert weights.model_name(3) == "SGDRegressorTrainer_3"
        assert weights.components["package"].Bias_Weight == 10.0


def rare(weight: float, scale: float) -> dict[str, Any]:
    """Return the weights of a component. `weight` and `scale` are those of the feature bpf_net_tx_irq."""
    component = linear(90.0, {"bpf_cpu_time_ms": 5.0, "bpf_net_tx_irq": weight})
    component["All_Weights"]["Numerical_Variables"]["bpf_net_tx_irq"]["scale"] = scale
    return component


LINEAR_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({}, "no weights for any of"),
    ({"x": linear()}, "no weights for any of"),
    ({"package": linear(-0.1)}, "package: -0.1 W at idle"),
    ({"package": linear(), "dram": linear(-1)}, "dram: -1 W at idle"),
    ({"package": linear(), "platform": linear()}, "platform only"),
    ({"package": linear(1.0, {"x": -5.0})}, "falls to -14 W if features rise to 3 times .* x has a weight of -5 W"),
    ({"package": linear(29.0, {"x": -4.0, "y": -6.0, "z": 9.0})}, "falls to -1 W if .* y has a weight of -6 W"),
    ({"dram": rare(0.5, 1.0)}, r"dram: a weight of 0.5 W on bpf_net_tx_irq, whose scale, .* is 1, not above 1"),
    ({"dram": rare(-11.7, 1.0)}, "dram: a weight of -11.7 W on bpf_net_tx_irq"),
    ({"dram": rare(1e-9, 0.25)}, "a weight of 1e-09 W on bpf_net_tx_irq, .* is 0.25"),
    ({"package": {"All_Weights": {}}}, "no Bias_Weight"),
    ({"package": {}}, "All_Weights"),
    ({"package": 5}, "damaged weights"),
    ({"package": {"All_Weights": {"Bias_Weight": "5"}}}, "damaged weights"),
    ({"package": {"All_Weights": {"Bias_Weight": None}}}, "damaged weights"),
    ({"package": {"All_Weights": {"Bias_Weight": 1, "Numerical_Variables": {"x": {"scale": 1}}}}}, "no weight for x"),
    ({"package": {"All_Weights": {"Bias_Weight": 1, "Numerical_Variables": {"x": {"weight": 1}}}}}, "scale"),
    (
        {"package": {"All_Weights": {"Bias_Weight": 1, "Numerical_Variables": {"x": {"weight": 1, "scale": -1}}}}},
        "the scale of x is negative",
    ),
    ({"package": {"All_Weights": {"Bias_Weight": 1, "Categorical_Variables": {"a": {}}}}}, "categorical"),
    ({"package": curve([1, 2, 3])}, "no curve named SGDRegressorTrainer"),
    ({"package": linear(1e308, {"x": 1e308})}, "package: the weights are so large that their sum may overflow"),
    ({"package": linear(1.0, {"x": 1e308, "y": -1e308})}, "so large that their sum may overflow"),
]


@pytest.mark.parametrize(("document", "why"), LINEAR_FAULTS)
def test_unsafe_linear_weights(document: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        read(document)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_json(number: str) -> None:
    content = json.dumps({"package": linear()}).replace("10.0", number).encode()
    with pytest.raises(ModelError):
        read_weights(content, "SGDRegressorTrainer", BPF)


@pytest.mark.parametrize(("weight", "scale"), [(0.0, 1.0), (0.0, 0.3), (-30.0, 1.001), (-11.7, 0.0)])
def test_weights_at_the_bounds(weight: float, scale: float) -> None:
    """Weights that are just accepted give no negative watts."""
    answer = answer_of(read({"package": rare(weight, scale)}))
    assert not senseless_powers(answer, {"bpf_cpu_time_ms": 1000.0, "bpf_net_tx_irq": scale}, "bpf_cpu_time_ms")


def test_features_that_are_known_not_to_vary() -> None:
    why = {"bpf_page_cache_hit": "which never varied in training: it was always 7"}
    for trainer, document in (
        ("SGDRegressorTrainer", {"package": linear(10.0, {"bpf_page_cache_hit": 2.0})}),
        ("ExponentialRegressionTrainer", {"package": curve([2, 0.001, 3], "bpf_page_cache_hit")}),
    ):
        content = json.dumps(document).encode()
        read_weights(content, trainer, BPF, uninformative={"bpf_cpu_time_ms": "it was always 3"})
        with pytest.raises(ModelError, match=r"package: .* 2 W o.* bpf_page_cache_hit, which never varied .* always 7"):
            read_weights(content, trainer, BPF, uninformative=why)


def test_a_scale_of_zero_drops_the_feature() -> None:
    document = {"package": linear(1.0, {"x": -5.0})}
    document["package"]["All_Weights"]["Numerical_Variables"]["x"]["scale"] = 0
    assert evaluate(answer_of(read(document)), {"x": [1e9]}, "x") == {"package": [1.0]}


def test_curves() -> None:
    columns = {"bpf_cpu_time_ms": [0.0, 100.0], "bpf_page_cache_hit": [0.0, 7.0]}
    for trainer, weights, idle in (
        ("LogarithmicRegressionTrainer", [2.0, 0.5, 30.0], 30.0),
        ("ExponentialRegressionTrainer", [2.0, 0.001, 30.0], 32.0),
        ("LogisticRegressionTrainer", [10.0, 50.0, 0.1, 30.0], 30 + 10 / (1 + math.exp(5))),
    ):
        kepler_weights = read({"package": curve(weights)}, trainer)
        assert not kepler_weights.linear
        assert kepler_weights.model_name(2) == f"{trainer}_2"
        assert kepler_weights.drawn_over == {"bpf_cpu_time_ms"}
        watts = evaluate(answer_of(kepler_weights), columns, "bpf_cpu_time_ms")["package"]
        assert watts[0] == pytest.approx(idle)
        assert watts[1] > watts[0]


CURVE_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("LogarithmicRegressionTrainer", {"package": curve([2, 0.5, -1])}, "-1 W at idle"),
    ("ExponentialRegressionTrainer", {"package": curve([2, 0.5, -3])}, "-1 W at idle"),
    ("LogisticRegressionTrainer", {"package": curve([2, 0, 1, -3])}, "-2 W at idle"),
    ("LogarithmicRegressionTrainer", {"package": curve([2, 0.5])}, "2 curve weights, but Kepler needs 3"),
    ("LogisticRegressionTrainer", {"package": curve([2, 0.5, 1])}, "3 curve weights, but Kepler needs 4"),
    ("ExponentialRegressionTrainer", {"package": linear()}, "no curve weights"),
    ("ExponentialRegressionTrainer", {"package": curve([2, 1, 3], scale=5.0)}, "Kepler does not divide"),
]


@pytest.mark.parametrize(("trainer", "document", "why"), CURVE_FAULTS)
def test_unsafe_curves(trainer: str, document: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        read(document, trainer)


UNSAFE_UNDER_LOAD = [
    # for a large feature x, the curve is the logarithm of a negative number, which is NaN
    ("LogarithmicRegressionTrainer", [2.0, -0.5, 30.0]),
    # the following logarithmic and exponential curve fall without limit
    ("LogarithmicRegressionTrainer", [-20.0, 0.5, 30.0]),
    ("ExponentialRegressionTrainer", [-1.0, 0.5, 30.0]),
    # For a large x, the following exponential curve is 0 · ∞ = NaN. The public model database contains its weights for
    # components whose power is always 0.
    ("ExponentialRegressionTrainer", [0.0, 1.0, 0.0]),
    ("LogisticRegressionTrainer", [-40.0, 50.0, 0.1, 30.0]),
]


@pytest.mark.parametrize(("trainer", "weights"), UNSAFE_UNDER_LOAD)
def test_curves_that_are_valid_only_at_idle(trainer: str, weights: list[float]) -> None:
    """If curve weights are accepted, Kepler's watts are finite and not negative on a busy machine, too.

    The CPU time of a busy machine is thousands of milliseconds per second.
    """
    document = {"package": curve([5.0, 0.001, 30.0] if len(weights) == 3 else [5.0, 50.0, 0.1, 30.0])}
    document["core"] = curve(weights)
    try:
        accepted = read(document, trainer)
    except ModelError:
        return
    busy = evaluate(answer_of(accepted), {"bpf_cpu_time_ms": [1000.0, 4000.0]}, "bpf_cpu_time_ms")
    assert all(math.isfinite(value) and value >= 0 for watts in busy.values() for value in watts)


def test_components_drawn_over_different_features() -> None:
    document = {"package": curve([2, 0.001, 3]), "dram": curve([2, 0.001, 3], "bpf_page_cache_hit")}
    assert read(document, "ExponentialRegressionTrainer").drawn_over == set(BPF)


def test_a_constant_component_needs_no_feature() -> None:
    weights = read(
        {"package": curve([2, 1, 3]), "core": curve([0.0, 1.0, 0.0], "bpf_page_cache_hit", 9.0)},
        "LogarithmicRegressionTrainer",
    )
    assert weights.drawn_over == {"bpf_cpu_time_ms"}
    constant = read({"core": curve([0.0, 1.0, 4.0], "x", 9.0)}, "LogarithmicRegressionTrainer", ())
    assert not constant.drawn_over


@pytest.mark.shared_data
@pytest.mark.skipif(not DATABASE.is_dir(), reason="the public database (../shared/data/model_db) is not here")
def test_the_public_database() -> None:
    """All weights of the public model database that are accepted give safe watts.

    Each node type has accepted linear weights, except type 2. The only linear weights of type 2 have the features
    `COUNTERS`. They give negative watts on a busy machine.
    """
    linear_types: set[int] = set()
    refused: list[str] = []
    count = 0
    for path in sorted(DATABASE.glob("rapl-sysfs/*/*/*.json")):
        trainer, _, number = path.stem.rpartition("_")
        features = BPF if path.parent.name == "BPFOnly" else COUNTERS
        count += 1
        try:
            weights = read_weights(path.read_bytes(), trainer, features)
        except ModelError as error:
            refused.append(str(error))
            continue
        check_safe(weights, features)
        assert weights.model_name(int(number)) == path.stem
        assert json.loads(b"{" + weights.encoded + b"}") == json.loads(path.read_bytes())
        if weights.linear:
            linear_types.add(int(number))
    assert count > 20
    assert linear_types == {0, 1, 3, 4, 5}
    beyond_training = [why for why in refused if not ("W at idle" in why or "does not divide" in why)]
    assert len(beyond_training) == 1
    assert "package: the power falls to -30.4 W if features rise to 3 times their highest values" in beyond_training[0]
    assert "cpu_instructions has a weight of -33.2 W" in beyond_training[0]
