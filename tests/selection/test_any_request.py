"""Test random requests to random catalogues: a simple check of every model must find the same model as `select`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection import ALL_METRICS, EPYC, HASWELL, ICELAKE, MACHINES, catalogue_of_machines, request_for
from support.server_process import check_one_line
from support.small_pipelines import BPF, COUNTERS, SmallModel, curve, linear, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.errors import NoModelError, RequestError
from kepler_core.models.kepler_weights import KEPLER_CURVES, LINEAR_TRAINER
from kepler_core.selection import Catalogue, ModelRequest
from kepler_core.store.models import StoredModel
from kepler_profiler.similarity import compare

TRAINERS = ("SGDRegressorTrainer", "LinearRegressionTrainer", "XgboostFitTrainer", "ExponentialRegressionTrainer")


@st.composite
def made_up_models(draw: st.DrawFn) -> SmallModel:
    trainer = draw(st.sampled_from(TRAINERS))
    weights: Mapping[str, Any] | None = {"package": linear(draw(st.sampled_from([10.0, -1.0])))}
    if trainer in KEPLER_CURVES:
        over = draw(st.sampled_from(["bpf_cpu_time_ms", "bpf_page_cache_hit"]))
        weights = {"package": curve([2.0, 0.001, 30.0], over)}
    elif trainer == "XgboostFitTrainer":
        weights = None
    return SmallModel(
        trainer,
        draw(st.sampled_from([0, 1, 2, 7])),
        draw(st.sampled_from(["rapl-sysfs", "rapl-sysfs", "rapl-msr", "acpi", "hmc"])),
        draw(st.sampled_from(["AbsPower", "AbsPower", "DynPower"])),
        draw(st.sampled_from(["BPFOnly", "BPFOnly", "CounterOnly", "Basic"])),
        draw(st.sampled_from([1.0, 2.0, 3.0, -1.0])),
        weights=weights,
        data=draw(st.sampled_from([None, "x", "y"])),
        constant_mae=draw(st.sampled_from([2.0, 10.0])),
    )


stores = st.dictionaries(
    st.sampled_from(["one", "two"]),
    st.lists(made_up_models(), max_size=8, unique_by=lambda model: model.path),
    max_size=2,
)
requests = st.builds(
    request_for,
    output_type=st.sampled_from(["AbsPower", "AbsPower", "DynPower"]),
    metrics=st.sampled_from([ALL_METRICS, ALL_METRICS[::-1], BPF, BPF[::-1], COUNTERS, (), ("x", *BPF), None]),
    source=st.sampled_from(["rapl-sysfs", "intel_rapl", "rapl", "acpi", "hmc", "rapl-msr", "nobody"]),
    pipeline=st.sampled_from([None, None, "one", "three"]),
    trainer=st.sampled_from([None, None, *TRAINERS, "Nobody"]),
    filter=st.sampled_from(["", "", "mae:2", "package_mae:1", "r2:0.97", "features:bpf_cpu_time_ms,bpf_page_cache_hit",
                            "mae:2;dram_mae:1", "nobody:5"]),
    node_type=st.sampled_from([None, None, 0, 2, 5]),
    machine_spec=st.sampled_from([{}, HASWELL, EPYC, {**ICELAKE, "cores": 64}, {"cores": 3}, {"processor": ""}]),
    loose_node_type=st.booleans(),
    weights=st.booleans(),
)  # fmt: skip

SOURCES_OF = {
    "rapl-sysfs": {"rapl-sysfs"}, "rapl": {"rapl-sysfs"},
    "intel_rapl": {"rapl-sysfs", "rapl-msr", "ampere-xgene-hwmon", "grace-acpi"},
    "rapl-msr": {"rapl-msr"}, "acpi": {"acpi", "hmc", "redfish"}, "hmc": {"hmc"},
}  # fmt: skip


def fits(model: StoredModel, request: ModelRequest) -> bool:
    """Return whether a model meets all criteria of a request except for its machine and its node type."""
    metadata = model.metadata
    scores = {key: value for key, value in metadata.items() if isinstance(value, float) and value >= 0}
    package = metadata.get("validation", {}).get("components", {}).get("package", {})
    if "r2" in package:
        scores["r2"] = package["r2"]
    right = (
        model.output_type == request.output_type
        and model.source in SOURCES_OF[request.source]
        and request.pipeline in (None, model.pipeline)
        and (request.metrics is None or set(model.features) <= set(request.metrics))
    )
    if request.weights:
        weights = model.weights
        if request.trainer in KEPLER_CURVES:
            first = request.metrics[0] if request.metrics else None
            right &= model.trainer == request.trainer and weights is not None and weights.drawn_over <= {first}
        else:
            right &= weights is not None and weights.linear
            right &= request.trainer in (None, LINEAR_TRAINER, model.trainer)
    else:
        right &= request.trainer in (None, model.trainer)
    for threshold in request.filter.thresholds:
        value = scores.get(threshold.key)
        if value is None:
            right = False
        elif threshold.key == "r2":
            right &= value >= threshold.limit
        else:
            right &= value <= threshold.limit
    allowed = request.filter.features
    return right and (allowed is None or set(model.features) <= allowed)


def check(catalogue: Catalogue, request: ModelRequest) -> StoredModel | None:
    """Select a model for a request and check the outcome. Return the model, or None if `select` raises an error."""
    fitting = []
    if request.source in SOURCES_OF:
        fitting = [model for model in catalogue.models if fits(model, request)]
    problem: RequestError | NoModelError | None = None
    try:
        selection = catalogue.select(request)
    except (RequestError, NoModelError) as error:
        problem = error
    if isinstance(problem, RequestError):
        assert request.source == "nobody" or any(t.key == "nobody" for t in request.filter.thresholds), problem
        return None
    if problem is not None:
        check_no_model(problem, catalogue, request, fitting)
        return None
    model = selection.model
    assert model in fitting
    explanation = selection.explain()
    candidates = explanation["candidates"]
    assert candidates["considered"] == len(catalogue.models)
    assert sum(drop["count"] for drop in candidates["dropped"]) == len(catalogue.models) - len(fitting)
    check_error(model, check_node_type(model, explanation["node_type"], request, fitting))
    return model


def check_no_model(
    error: NoModelError, catalogue: Catalogue, request: ModelRequest, fitting: list[StoredModel]
) -> None:
    candidates = error.explanation["candidates"]
    assert candidates["considered"] == len(catalogue.models)
    of_type = [model for model in fitting if model.node_type == request.node_type]
    assert not fitting or request.node_type is not None or not request.loose_node_type, "a model fits the request"
    assert not fitting or not of_type
    assert sum(drop["count"] for drop in candidates["dropped"]) == len(catalogue.models) - len(fitting)


def check_node_type(
    model: StoredModel, node_type: Mapping[str, Any], request: ModelRequest, fitting: list[StoredModel]
) -> list[StoredModel]:
    """Check the node type that the explanation of a selection states.

    `fitting` has the models that meet the request's other criteria. Returns those of them with a suitable node type.
    """
    spec = {key: value for key, value in request.machine_spec.items() if value}
    if node_type["match"] == "given":
        assert model.node_type == request.node_type
        return [other for other in fitting if other.node_type == request.node_type]
    if node_type["match"] == "any":
        assert not spec
        return fitting
    similarity = {id(other): compare(spec, other.machine_spec).similarity for other in fitting}
    highest = max(similarity.values())
    if node_type["match"] == "unknown":
        assert compare(spec, model.machine_spec).uncertainty == 1.0
    else:
        assert node_type["similarity"] == pytest.approx(highest, abs=1e-6)
    assert similarity[id(model)] == pytest.approx(highest)
    assert (node_type["match"] == "exact") == (highest == 1.0)
    assert highest == 1.0 or request.loose_node_type
    return [other for other in fitting if similarity[id(other)] >= highest - 1e-9]


def check_error(model: StoredModel, fitting: list[StoredModel]) -> None:
    """Check that `model` has the lowest error of the models in `fitting`, which all meet the request.

    Models that were validated on different data are compared by mae / constant_mae, if this ratio is known.
    """
    mae = {id(other): error if (error := other.metadata["mae"]) >= 0 else float("inf") for other in fitting}
    by_data: dict[Any, list[StoredModel]] = {}
    for other in fitting:
        lineage = other.metadata.get("lineage")
        key = (other.pipeline if lineage is None else lineage["data"], lineage is None, other.source, other.node_type)
        by_data.setdefault(key, []).append(other)
    winners = [min(others, key=lambda other: mae[id(other)]) for others in by_data.values()]
    validated = all("validation" in winner.metadata for winner in winners)
    if len(by_data) > 1 and validated and all(mae[id(winner)] < float("inf") for winner in winners):

        def relative(winner: StoredModel) -> float:
            package = winner.metadata["validation"]["components"]["package"]
            return float(package["mae"] / package["constant_mae"])

        assert relative(model) == min(map(relative, winners))
        assert mae[id(model)] in [mae[id(winner)] for winner in winners]
    elif all(mae[id(winner)] < float("inf") for winner in winners):
        assert mae[id(model)] == min(mae.values())


@settings(max_examples=500)
@given(stores, st.lists(requests, min_size=1, max_size=6))
def test_any_requests_to_one_catalogue(store: dict[str, list[SmallModel]], several: list[ModelRequest]) -> None:
    """The catalogue's cached results of earlier requests do not change the selection for other requests."""
    files = {name: pipeline(*models, node_types=MACHINES) for name, models in store.items()}
    catalogue = make_catalogue(**files)
    for request in [*several, *several]:
        model = check(catalogue, request)
        if request.metrics is not None and not (request.weights and request.trainer in KEPLER_CURVES):
            reversed_metrics = attrs.evolve(request, metrics=request.metrics[::-1])
            assert check(catalogue, reversed_metrics) is model, "the order of the metrics does not matter"


@given(
    st.lists(st.text(max_size=5), max_size=3),
    st.text(max_size=9),
    st.text(max_size=9),
    st.dictionaries(
        st.text(max_size=9) | st.sampled_from(["cores", "processor"]), st.text() | st.floats() | st.integers()
    ),
    st.booleans(),
)
def test_any_text_gives_a_model_or_an_error_of_one_line(
    metrics: list[str], source: str, trainer: str, spec: dict[str, Any], weights: bool
) -> None:
    catalogue = catalogue_of_machines()
    for request in (
        request_for(metrics=tuple(metrics), source=source, trainer=trainer, machine_spec=spec, weights=weights),
        request_for(pipeline=trainer, feature_group=source, machine_spec=spec),
        request_for(machine_spec=spec, weights=weights),
    ):
        try:
            assert catalogue.select(request).model in catalogue.models
        except (RequestError, NoModelError) as error:
            check_one_line(error)
