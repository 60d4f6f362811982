"""Test requests for weights, with which Kepler computes the predictions itself."""

from __future__ import annotations

from support.selection import chosen_path, no_model_message, request_for
from support.small_pipelines import BPF, SmallModel, curve, linear
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
        assert "a curve over bpf_cpu_time_ms: right only for a client that names it" in message
    # if the request is not for weights, its metrics may be in any order
    assert chosen_path(catalogue, metrics=BPF[::-1], trainer=CURVE.trainer) == CURVE.name


def test_curves_of_components_over_different_features() -> None:
    weights = {"package": curve([2.0, 0.001, 30.0]), "dram": curve([2.0, 0.001, 3.0], "bpf_page_cache_hit")}
    catalogue = make_catalogue(SmallModel("ExponentialRegressionTrainer", weights=weights))
    assert "a curve over bpf_cpu_time_ms and bpf_page_cache_hit" in no_model_message(
        catalogue, weights=True, metrics=BPF, trainer=CURVE.trainer
    )
