"""Test requests for weights, from which Kepler computes predictions itself."""

from __future__ import annotations

from support.selection import chosen_path, no_model_message, request_for
from support.small_pipelines import BPF, SmallModel, curve, linear, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.models.kepler_weights import LINEAR_TRAINER


def test_the_best_linear_weights_have_the_trainer_name_that_kepler_knows() -> None:
    catalogue = make_catalogue(
        SmallModel(mae=3),
        SmallModel("LinearRegressionTrainer", mae=2),
        SmallModel("XgboostFitTrainer", mae=1, weights=None),
    )
    for trainer in (None, LINEAR_TRAINER):
        model = catalogue.select(request_for(weights=True, trainer=trainer)).model
        assert model.trainer == "LinearRegressionTrainer"
        assert model.weights is not None
        assert model.weights.model_name(model.node_type) == "SGDRegressorTrainer_0"
    assert chosen_path(catalogue, trainer=LINEAR_TRAINER) == "SGDRegressorTrainer_0"
    assert "safe to serve" in no_model_message(catalogue, weights=True, trainer="XgboostFitTrainer")


def test_unsafe_weights_are_never_chosen() -> None:
    catalogue = make_catalogue(
        SmallModel(mae=1, weights={"package": linear(-1)}), SmallModel("LinearRegressionTrainer", mae=9)
    )
    assert chosen_path(catalogue) == "SGDRegressorTrainer_0"
    assert chosen_path(catalogue, weights=True) == "LinearRegressionTrainer_0"
    assert "W at idle" in no_model_message(make_catalogue(SmallModel(weights={"package": linear(-1)})), weights=True)


CURVE = SmallModel("ExponentialRegressionTrainer", mae=0.1, weights={"package": curve([2.0, 0.001, 30.0])})


def test_curves_are_selected_only_by_their_trainer_name() -> None:
    catalogue = make_catalogue(CURVE, SmallModel(mae=5))
    assert chosen_path(catalogue, weights=True, metrics=BPF) == "SGDRegressorTrainer_0"
    assert chosen_path(catalogue, weights=True, metrics=BPF, trainer=LINEAR_TRAINER) == "SGDRegressorTrainer_0"
    assert chosen_path(catalogue, weights=True, metrics=BPF, trainer=CURVE.trainer) == "ExponentialRegressionTrainer_0"
    message = no_model_message(make_catalogue(CURVE), weights=True, metrics=BPF)
    assert "a curve over bpf_cpu_time_ms" in message


def test_curves_are_selected_only_if_their_feature_is_the_first_metric() -> None:
    catalogue = make_catalogue(CURVE)
    for metrics in (BPF, ("bpf_cpu_time_ms", "x", *BPF[1:])):
        assert chosen_path(catalogue, weights=True, metrics=metrics, trainer=CURVE.trainer) == CURVE.name
    for metrics in (BPF[::-1], ("cpu_architecture", *BPF)):
        message = no_model_message(catalogue, weights=True, metrics=metrics, trainer=CURVE.trainer)
        assert "a curve over bpf_cpu_time_ms: usable only for a client that names its trainer" in message
    # in a request for an archive, the order of the metrics does not matter
    assert chosen_path(catalogue, metrics=BPF[::-1], trainer=CURVE.trainer) == CURVE.name


def test_curves_of_components_over_different_features() -> None:
    weights = {"package": curve([2.0, 0.001, 30.0]), "dram": curve([2.0, 0.001, 3.0], "bpf_page_cache_hit")}
    catalogue = make_catalogue(SmallModel("ExponentialRegressionTrainer", weights=weights))
    assert "a curve over bpf_cpu_time_ms and bpf_page_cache_hit" in no_model_message(
        catalogue, weights=True, metrics=BPF, trainer=CURVE.trainer
    )


def test_a_node_type_whose_weights_are_unsafe_is_named_with_the_reason() -> None:
    machines = [{"processor": "a", "cores": 8}, {"processor": "b", "cores": 64}]
    unsafe = SmallModel(node_type=1, weights={"package": linear(20.0, {"bpf_cpu_time_ms": -9.0})})
    without = SmallModel("XgboostFitTrainer", node_type=1, weights=None)
    curves = SmallModel("ExponentialRegressionTrainer", node_type=1, weights={"package": curve([2.0, 0.001, 30.0])})
    files = pipeline(SmallModel(), unsafe, without, curves, node_types=dict(enumerate(machines)))
    catalogue = make_catalogue(made=files)
    why = "node type 1 has no linear weights that are safe to serve: 1 × package: the power falls to -7 W if"
    same = {"machine_spec": machines[1], "loose_node_type": False}
    assert why in no_model_message(catalogue, weights=True, node_type=1)
    assert why in no_model_message(catalogue, weights=True, **same)
    selection = catalogue.select(request_for(weights=True, machine_spec=machines[1]))
    assert (selection.model.node_type, selection.node_type.match) == (0, "nearest")
    # The message must not blame unsafe weights: node type 2 has no models, and the second request is for a curve.
    assert "safe" not in no_model_message(catalogue, weights=True, node_type=2)
    assert "safe" not in no_model_message(catalogue, weights=True, trainer=curves.trainer, node_type=0, metrics=BPF)
