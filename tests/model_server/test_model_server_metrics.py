"""Tests of GET /metrics: the counters of the model server, and the weights and errors of the models in its store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.model_server import BEST, MODELS, total
from support.server_process import Answer, ServerProcess
from support.small_pipelines import CAPTURED

REQUESTS = "kepler_model_server_requests_total"
LATENCIES = "kepler_model_server_request_seconds_count"
SELECTIONS = "kepler_model_server_selections_total"


def test_metrics_have_the_weights_that_are_served(server: ServerProcess) -> None:
    names = (
        "kepler_model_weight_watts",
        "kepler_model_feature_scale",
        "kepler_model_bias_watts",
        "kepler_model_curve_weight",
    )
    counts = dict.fromkeys(names, 0)
    weights_by_path: dict[str, Any] = {}
    for (name, label_pairs), value in server.metrics().items():
        if name not in counts:
            continue
        counts[name] += 1
        labels = dict(label_pairs)
        path = "/".join(labels[key] for key in ("pipeline", "source", "output_type", "feature_group", "model"))
        if path not in weights_by_path:
            weights_by_path[path] = server.get(f"/models/{path}.json").json()
        weights = weights_by_path[path][labels["component"]]["All_Weights"]
        if name == "kepler_model_bias_watts":
            expected = weights["Bias_Weight"]
        elif name == "kepler_model_curve_weight":
            expected = weights["CurveFit_Weights"][int(labels["position"])]
        else:
            variable = weights["Numerical_Variables"][labels["feature"]]
            expected = variable["weight" if name.endswith("watts") else "scale"]
        assert value == expected
    # The metrics contain 9 biases: two of each of the 4 linear models with 2 components, and one of the linear model
    # of the platform. The curve model has 3 weights.
    assert counts == dict(zip(names, (9, 10, 9, 3), strict=True))


def test_metrics_have_the_errors_of_the_models(server: ServerProcess) -> None:
    errors = [
        value
        for (name, labels), value in server.metrics().items()
        if name == "kepler_model_error" and {("model", BEST.name), ("error", "mae")} <= labels
    ]
    assert sorted(errors) == [1, 2, 2], "dram's, package's, and the model's"


def test_metrics_count_requests(server: ServerProcess) -> None:
    before = server.metrics()
    for _ in range(3):
        server.post(CAPTURED)
    server.post(b"x")
    server.post({**CAPTURED, "metrics": []})
    after = server.metrics()

    def increase(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    statuses = ("200", "400", "404", "500")
    assert [increase(REQUESTS, endpoint="model", status=status) for status in statuses] == [3, 1, 1, 0]
    assert increase(REQUESTS, endpoint="metrics") == 1
    assert increase(LATENCIES, endpoint="model") == 5
    assert increase(SELECTIONS, node_type_match="nearest") == 3


def test_metrics_describe_the_store(server: ServerProcess) -> None:
    samples = server.metrics()
    assert total(samples, "kepler_model_server_models", pipeline="made") == len(MODELS)
    assert total(samples, "kepler_model_server_pipeline_broken") == 0
    assert total(samples, "kepler_model_server_store_up") == 1


# --- answers from the cache ---


@pytest.mark.parametrize("weight", [True, False])
def test_cached_answers_are_sent_and_counted_like_the_first(server: ServerProcess, weight: bool) -> None:
    def without_date(answer: Answer) -> tuple[int, dict[str, str], bytes]:
        return answer.status, {k: v for k, v in answer.headers.items() if k != "date"}, answer.body

    request = {**CAPTURED, "weight": weight, "metrics": [*CAPTURED["metrics"], f"only-here-{weight}"]}
    before = server.metrics()
    status, headers, body = first = without_date(server.post(request))
    assert status == 200
    assert int(headers["content-length"]) == len(body)
    for _ in range(3):
        assert without_date(server.post(request)) == first
    after = server.metrics()
    for name in (REQUESTS, LATENCIES):
        assert total(after, name, endpoint="model") - total(before, name, endpoint="model") == 4
    assert total(after, SELECTIONS) - total(before, SELECTIONS) == 4


@pytest.mark.parametrize("weight", [True, False])
def test_cached_answers_are_not_sent_to_other_requests(server: ServerProcess, weight: bool) -> None:
    body = json.dumps({**CAPTURED, "weight": weight}).encode()
    assert server.post(body).status == 200
    assert list(server.ask("POST", "/model?explain=1", body).json()) == ["selection"]
    assert server.ask("POST", "/model?other=1", body).status == 400
    assert server.ask("PUT", "/model", body).status == 405
