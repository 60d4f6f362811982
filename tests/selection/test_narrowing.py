"""Test the criteria of a request: output type, pipeline, energy source, trainer and features."""

from __future__ import annotations

import pytest
from support.selection import ALL_METRICS, chosen_path, no_model_message, request_error, request_for
from support.small_pipelines import BPF, COUNTERS, SmallModel, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.selection import Catalogue
from kepler_core.selection.filters import parse_filter
from kepler_profiler.similarity import SpecTable


def test_output_type() -> None:
    catalogue = make_catalogue(SmallModel(mae=1), SmallModel(mae=0.1, output_type="DynPower"))
    assert catalogue.select(request_for()).model.output_type == "AbsPower"
    assert catalogue.select(request_for(output_type="DynPower")).model.output_type == "DynPower"
    assert "output type 'DynPower'" in no_model_message(make_catalogue(SmallModel()), output_type="DynPower")


SOURCES = [
    SmallModel(source=source, mae=index + 1) for index, source in enumerate(("rapl-sysfs", "rapl-msr", "acpi", "hmc"))
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rapl-sysfs", "rapl-sysfs"), ("rapl", "rapl-sysfs"), ("intel_rapl", "rapl-sysfs"), ("rapl-msr", "rapl-msr"),
     ("acpi", "acpi"), ("hmc", "hmc")],
)  # fmt: skip
def test_source(name: str, expected: str) -> None:
    assert make_catalogue(*SOURCES).select(request_for(source=name)).model.source == expected


def test_one_source_name_of_kepler_stands_for_several_sources() -> None:
    assert make_catalogue(SmallModel(source="hmc")).select(request_for(source="acpi")).model.source == "hmc"
    assert make_catalogue(SmallModel(source="redfish")).select(request_for(source="acpi")).model.source == "redfish"
    assert (
        make_catalogue(SmallModel(source="rapl-msr")).select(request_for(source="intel_rapl")).model.source
        == "rapl-msr"
    )
    assert "source 'hmc'" in no_model_message(make_catalogue(SmallModel(source="acpi")), source="hmc")
    assert (
        make_catalogue(SmallModel(source="acpi", mae=2), SmallModel(source="hmc", mae=1))
        .select(request_for(source="acpi"))
        .model
    )


def test_unknown_source() -> None:
    assert "did you mean rapl" in request_error(make_catalogue(SmallModel()), source="rapl-sysf")
    assert "unknown energy source" in request_error(make_catalogue(SmallModel()), source="../../etc")
    # models of an energy source whose plugin is not installed are selected too
    assert (
        make_catalogue(SmallModel(source="my-meter")).select(request_for(source="my-meter")).model.source == "my-meter"
    )


def test_models_need_only_the_metrics_of_the_request_in_any_order() -> None:
    catalogue = make_catalogue(
        SmallModel(mae=3), SmallModel(group="CounterOnly", mae=2), SmallModel(group="Basic", mae=1)
    )
    assert chosen_path(catalogue) == "Basic/SGDRegressorTrainer_0"
    assert chosen_path(catalogue, metrics=ALL_METRICS[::-1]) == "Basic/SGDRegressorTrainer_0"
    assert (
        chosen_path(catalogue, metrics=(*COUNTERS, "bpf_cpu_time_ms", "unknown")) == "CounterOnly/SGDRegressorTrainer_0"
    )
    assert chosen_path(catalogue, metrics=("x", *reversed(BPF))) == "SGDRegressorTrainer_0"
    assert chosen_path(catalogue, metrics=None) == "Basic/SGDRegressorTrainer_0"
    for metrics in ((), ("bpf_cpu_time_ms",), ("x",)):
        assert "missing: bpf_" in no_model_message(catalogue, metrics=metrics)


def test_trainer() -> None:
    catalogue = make_catalogue(
        SmallModel("LinearRegressionTrainer", mae=2), SmallModel("XgboostFitTrainer", mae=1, weights=None), SmallModel()
    )
    assert chosen_path(catalogue, trainer="LinearRegressionTrainer") == "LinearRegressionTrainer_0"
    assert chosen_path(catalogue, trainer="XgboostFitTrainer") == "XgboostFitTrainer_0"
    assert "did you mean LinearRegressionTrainer" in no_model_message(catalogue, trainer="LinearRegresionTrainer")
    for name in ("linearregressiontrainer", "LinearRegression", "../../x", "x" * 10_000, "a\0b"):
        assert len(no_model_message(catalogue, trainer=name)) < 1000


def test_pipeline() -> None:
    catalogue = make_catalogue(one=pipeline(SmallModel(mae=2)), two=pipeline(SmallModel(mae=1)))
    assert catalogue.select(request_for()).model.pipeline == "two"
    assert catalogue.select(request_for(pipeline="one")).model.pipeline == "one"
    assert "did you mean one?" in no_model_message(catalogue, pipeline="onee")
    assert len(no_model_message(catalogue, pipeline="../../etc/passwd")) < 1000


def test_an_empty_store() -> None:
    assert "no models" in no_model_message(Catalogue([], {}, {"x": "half copied"}, compare=SpecTable))


def test_find_lists_models_by_their_error() -> None:
    catalogue = make_catalogue(
        SmallModel(mae=3),
        SmallModel("LinearRegressionTrainer", mae=2),
        SmallModel(mae=1, output_type="DynPower", node_type=4),
        SmallModel(source="acpi", group="CounterOnly", mae=9),
    )
    assert [model.metadata["mae"] for model in catalogue.find()] == [1, 2, 3, 9]
    assert [model.metadata["mae"] for model in catalogue.find(source="intel_rapl", output_type="AbsPower")] == [2, 3]
    assert [
        model.metadata["mae"] for model in catalogue.find(trainer="SGDRegressorTrainer", filter=parse_filter("mae:3"))
    ] == [
        1,
        3,
    ]
    assert [model.metadata["mae"] for model in catalogue.find(node_type=4)] == [1]
    assert [model.metadata["mae"] for model in catalogue.find(feature_group="CounterOnly")] == [9]
    assert catalogue.find(pipeline="nobody") == []
    assert catalogue.by_path("made", "acpi/AbsPower/CounterOnly/SGDRegressorTrainer_0") is not None
    assert catalogue.by_path("made", "../x") is None
