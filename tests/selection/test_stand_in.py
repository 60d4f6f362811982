"""Tests of linear weights that the estimator uses in place of pickled models, and of requests that accept pickles."""

from __future__ import annotations

import json

from support.selection import HASWELL, ICELAKE, no_model_message, request_for
from support.small_pipelines import SmallModel, curve, linear, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.selection import Catalogue, Selection
from kepler_core.store.layout import zip_bytes

XGBOOST = SmallModel("XgboostFitTrainer", mae=1, weights=None)
LINEAR = SmallModel(mae=5)
NEGATIVE = SmallModel("LinearRegressionTrainer", mae=3, weights={"package": linear(50.0, {"bpf_cpu_time_ms": -80.0})})


def loadable(catalogue: Catalogue, **keys: object) -> Selection:
    return catalogue.select(request_for(portable=True, **keys))


def test_linear_weights_are_selected_in_place_of_pickles() -> None:
    for trainer in (None, XGBOOST.trainer):
        selection = loadable(make_catalogue(XGBOOST, LINEAR), trainer=trainer)
        assert selection.model.name == LINEAR.name
        assert selection.stands_in_for is not None
        assert selection.explain()["stands_in_for"] == f"made/{XGBOOST.path}"
        assert selection.model.load().predict([[1000.0]], ["bpf_cpu_time_ms"])["package"].tolist() == [11.0]


def test_nothing_stands_in_for_the_best_model_if_it_has_linear_weights() -> None:
    selection = loadable(make_catalogue(LINEAR, SmallModel("XgboostFitTrainer", mae=9, weights=None)))
    assert (selection.model.name, selection.stands_in_for) == (LINEAR.name, None)
    assert "stands_in_for" not in selection.explain()


def test_weights_that_kepler_cannot_evaluate_safely_are_selected() -> None:
    catalogue = make_catalogue(XGBOOST, NEGATIVE)
    assert "safe to serve" in no_model_message(catalogue, weights=True)
    selection = loadable(catalogue)
    assert selection.model.weights is None
    watts = selection.model.load().predict([[0.0], [1000.0]], ["bpf_cpu_time_ms"])
    assert watts["package"].tolist() == [50.0, 0.0]


def test_weights_of_the_same_node_type_stand_in() -> None:
    models = [SmallModel("XgboostFitTrainer", 1, weights=None), SmallModel(node_type=0, mae=1), SmallModel(node_type=1)]
    catalogue = make_catalogue(made=pipeline(*models, node_types={0: HASWELL, 1: ICELAKE}))
    for spec in (ICELAKE, HASWELL, {}):
        selection = loadable(catalogue, trainer="XgboostFitTrainer", machine_spec=spec)
        assert selection.model.name == "SGDRegressorTrainer_1"
    catalogue = make_catalogue(made=pipeline(*models[:2], node_types={0: HASWELL, 1: ICELAKE}))
    selection = loadable(catalogue, trainer="XgboostFitTrainer", machine_spec=ICELAKE)
    assert selection.model.name == "SGDRegressorTrainer_0"
    assert selection.node_type.match == "nearest"


def test_weights_that_stand_in_meet_the_filter() -> None:
    catalogue = make_catalogue(XGBOOST, LINEAR)
    message = no_model_message(catalogue, portable=True, trainer=XGBOOST.trainer, filter="mae:2")
    assert "none of 1 models meets mae ≤ 2" in message
    assert loadable(catalogue, trainer=XGBOOST.trainer, filter="mae:5").model.name == LINEAR.name


def test_the_message_says_what_to_do_if_there_are_only_pickles() -> None:
    curves = SmallModel("LogarithmicRegressionTrainer", weights={"package": curve([1.0, 1.0, 1.0], scale=5.0)})
    for trainer in (None, XGBOOST.trainer):
        message = no_model_message(make_catalogue(XGBOOST, curves), portable=True, trainer=trainer)
        assert "only pickles, no weights" in message
        assert "the weights of a curve" in message
        assert "use the archive or the weights (.json) of an SGDRegressorTrainer model" in message
        assert "kepler-model train" in message


def test_weights_in_the_zip_file_or_the_folder_of_a_model_are_read() -> None:
    files = pipeline(LINEAR)
    content = {
        "metadata.json": files[f"{LINEAR.path}/metadata.json"],
        "weight.json": json.dumps(LINEAR.weights).encode(),
    }
    only_zip = {name: data for name, data in files.items() if LINEAR.path not in name}
    only_zip[f"{LINEAR.path}.zip"] = zip_bytes(content)
    only_folder = {name: data for name, data in files.items() if name != f"{LINEAR.path}.json"}
    only_folder[f"{LINEAR.path}.zip"] = zip_bytes({"metadata.json": content["metadata.json"]})
    for case in (only_zip, only_folder):
        model = loadable(make_catalogue(made=case)).model
        assert model.weights is not None
        assert model.load().predict([[0.0]], ["bpf_cpu_time_ms"])["package"].tolist() == [10.0]


def test_pickles_are_selected_only_if_kepler_model_server_can_load_them() -> None:
    catalogue = make_catalogue(
        SmallModel("A", mae=1, more={"model_class": "onnx"}),
        SmallModel("B", mae=2, more={"model_class": "keras"}),
        SmallModel("C", mae=3, more={"model_class": "scikit"}),
        SmallModel("D", mae=4, more={"model_class": ["scikit"]}),
    )
    assert catalogue.select(request_for(pickled=True)).model.name == "C_0"
    message = no_model_message(catalogue, pickled=True, trainer="A")
    assert message.startswith("no model as an archive of kepler-model-server")
    assert '"portable": true' in message
