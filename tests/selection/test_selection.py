"""Which model is chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import SHARED
from support.server_process import BPF, CAPTURED, COUNTERS, Made, catalogue, check_one_line, curve, linear, pipeline

from kepler_core.errors import NoModelError, RequestError
from kepler_core.models.kepler_weights import KEPLER_CURVES, LINEAR_TRAINER
from kepler_core.selection import Catalogue, ModelRequest, read_catalogue
from kepler_core.selection.filters import MAX_CONDITIONS, Filter, Threshold, parse_filter
from kepler_core.store import open_store
from kepler_core.store.models import StoredModel
from kepler_profiler.similarity import SpecTable, compare

EVERY = (*COUNTERS, *BPF)
DATABASE = SHARED / "data" / "model_db"

HASWELL = {"processor": "intel_xeon_e5_2630v3", "cores": 32, "chips": 2, "memory": 64, "frequency": 3200}
ICELAKE = {"processor": "intel_xeon_platinum_8358", "cores": 128, "chips": 2, "memory": 512, "frequency": 3400}
EPYC = {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 512, "frequency": 3500}
TYPES = {0: HASWELL, 1: ICELAKE, 2: EPYC}


def ask(**keys: Any) -> ModelRequest:
    keys.setdefault("output_type", "AbsPower")
    keys.setdefault("metrics", EVERY)
    if isinstance(keys.get("filter"), str):
        keys["filter"] = parse_filter(keys["filter"])
    return ModelRequest(**keys)


def chosen(there: Catalogue, **keys: Any) -> str:
    """The model's path, without the parts that most tests leave as they are."""
    found = there.select(ask(**keys)).model
    return found.path.removeprefix("rapl-sysfs/").removeprefix("AbsPower/").removeprefix("BPFOnly/")


def none(there: Catalogue, **keys: Any) -> str:
    with pytest.raises(NoModelError) as caught:
        there.select(ask(**keys))
    message = str(caught.value)
    assert "\n" not in message
    candidates = caught.value.explanation["candidates"]
    assert candidates["considered"] == len(there.models)
    assert sum(drop["count"] for drop in candidates["dropped"]) <= len(there.models)
    return message


def wrong(there: Catalogue, **keys: Any) -> str:
    with pytest.raises(RequestError) as caught:
        there.select(ask(**keys))
    return str(caught.value)


# --- narrowing ---


def test_output_type() -> None:
    there = catalogue(Made(mae=1), Made(mae=0.1, output_type="DynPower"))
    assert there.select(ask()).model.output_type == "AbsPower"
    assert there.select(ask(output_type="DynPower")).model.output_type == "DynPower"
    assert "output type 'DynPower'" in none(catalogue(Made()), output_type="DynPower")


SOURCES = [Made(source=source, mae=index + 1) for index, source in enumerate(("rapl-sysfs", "rapl-msr", "acpi", "hmc"))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rapl-sysfs", "rapl-sysfs"), ("rapl", "rapl-sysfs"), ("intel_rapl", "rapl-sysfs"), ("rapl-msr", "rapl-msr"),
     ("acpi", "acpi"), ("hmc", "hmc")],
)  # fmt: skip
def test_source(name: str, expected: str) -> None:
    assert catalogue(*SOURCES).select(ask(source=name)).model.source == expected


def test_a_name_that_kepler_uses_for_several_sources() -> None:
    assert catalogue(Made(source="hmc")).select(ask(source="acpi")).model.source == "hmc"
    assert catalogue(Made(source="redfish")).select(ask(source="acpi")).model.source == "redfish"
    assert catalogue(Made(source="rapl-msr")).select(ask(source="intel_rapl")).model.source == "rapl-msr"
    assert "source 'hmc'" in none(catalogue(Made(source="acpi")), source="hmc")
    assert catalogue(Made(source="acpi", mae=2), Made(source="hmc", mae=1)).select(ask(source="acpi")).model


def test_a_source_that_nobody_knows() -> None:
    assert "did you mean rapl" in wrong(catalogue(Made()), source="rapl-sysf")
    assert "unknown energy source" in wrong(catalogue(Made()), source="../../etc")
    # a pipeline of somebody else's plugin is served nevertheless
    assert catalogue(Made(source="my-meter")).select(ask(source="my-meter")).model.source == "my-meter"


def test_a_subset_of_the_metrics_in_any_order() -> None:
    there = catalogue(Made(mae=3), Made(group="CounterOnly", mae=2), Made(group="Basic", mae=1))
    assert chosen(there) == "Basic/SGDRegressorTrainer_0"
    assert chosen(there, metrics=EVERY[::-1]) == "Basic/SGDRegressorTrainer_0"
    assert chosen(there, metrics=(*COUNTERS, "bpf_cpu_time_ms", "unknown")) == "CounterOnly/SGDRegressorTrainer_0"
    assert chosen(there, metrics=("x", *reversed(BPF))) == "SGDRegressorTrainer_0"
    assert chosen(there, metrics=None) == "Basic/SGDRegressorTrainer_0"
    for metrics in ((), ("bpf_cpu_time_ms",), ("x",)):
        assert "missing: bpf_" in none(there, metrics=metrics)


def test_trainer() -> None:
    there = catalogue(Made("LinearRegressionTrainer", mae=2), Made("XgboostFitTrainer", mae=1, weights=None), Made())
    assert chosen(there, trainer="LinearRegressionTrainer") == "LinearRegressionTrainer_0"
    assert chosen(there, trainer="XgboostFitTrainer") == "XgboostFitTrainer_0"
    assert "did you mean LinearRegressionTrainer" in none(there, trainer="LinearRegresionTrainer")
    for name in ("linearregressiontrainer", "LinearRegression", "../../x", "x" * 10_000, "a\0b"):
        assert len(none(there, trainer=name)) < 1000


def test_pipeline() -> None:
    there = catalogue(one=pipeline(Made(mae=2)), two=pipeline(Made(mae=1)))
    assert there.select(ask()).model.pipeline == "two"
    assert there.select(ask(pipeline="one")).model.pipeline == "one"
    assert "did you mean one?" in none(there, pipeline="onee")
    assert len(none(there, pipeline="../../etc/passwd")) < 1000


def test_an_empty_store() -> None:
    assert "no models" in none(Catalogue([], {}, {"x": "half copied"}, compare=SpecTable))


# --- weights ---


def test_kepler_gets_the_best_linear_weights_under_the_name_that_it_knows() -> None:
    there = catalogue(
        Made(mae=3), Made("LinearRegressionTrainer", mae=2), Made("XgboostFitTrainer", mae=1, weights=None)
    )
    for trainer in (None, LINEAR_TRAINER):
        found = there.select(ask(weights=True, trainer=trainer)).model
        assert found.trainer == "LinearRegressionTrainer"
        assert found.weights is not None
        assert found.weights.model_name(found.node_type) == "SGDRegressorTrainer_0"
    assert chosen(there, trainer=LINEAR_TRAINER) == "SGDRegressorTrainer_0"
    assert "safe to serve" in none(there, weights=True, trainer="XgboostFitTrainer")


def test_unsafe_weights_are_never_chosen() -> None:
    there = catalogue(Made(mae=1, weights={"package": linear(-1)}), Made("LinearRegressionTrainer", mae=9))
    assert chosen(there) == "SGDRegressorTrainer_0"
    assert chosen(there, weights=True) == "LinearRegressionTrainer_0"
    assert "W at idle" in none(catalogue(Made(weights={"package": linear(-1)})), weights=True)


CURVE = Made("ExponentialRegressionTrainer", mae=0.1, weights={"package": curve([2.0, 0.001, 30.0])})


def test_a_curve_only_to_a_client_that_names_it() -> None:
    there = catalogue(CURVE, Made(mae=5))
    assert chosen(there, weights=True, metrics=BPF) == "SGDRegressorTrainer_0"
    assert chosen(there, weights=True, metrics=BPF, trainer=LINEAR_TRAINER) == "SGDRegressorTrainer_0"
    assert chosen(there, weights=True, metrics=BPF, trainer=CURVE.trainer) == "ExponentialRegressionTrainer_0"
    message = none(catalogue(CURVE), weights=True, metrics=BPF)
    assert "a curve over bpf_cpu_time_ms" in message


def test_a_curve_only_where_the_first_metric_is_its_own() -> None:
    there = catalogue(CURVE)
    for metrics in (BPF, ("bpf_cpu_time_ms", "x", *BPF[1:])):
        assert chosen(there, weights=True, metrics=metrics, trainer=CURVE.trainer) == CURVE.name
    for metrics in (BPF[::-1], ("cpu_architecture", *BPF)):
        message = none(there, weights=True, metrics=metrics, trainer=CURVE.trainer)
        assert "a curve over bpf_cpu_time_ms: right only for a client that names it" in message
    # as a zip it is as good in any order
    assert chosen(there, metrics=BPF[::-1], trainer=CURVE.trainer) == CURVE.name


def test_a_curve_that_the_components_disagree_on() -> None:
    weights = {"package": curve([2.0, 0.001, 30.0]), "dram": curve([2.0, 0.001, 3.0], "bpf_page_cache_hit")}
    there = catalogue(Made("ExponentialRegressionTrainer", weights=weights))
    assert "a curve over bpf_cpu_time_ms and bpf_page_cache_hit" in none(
        there, weights=True, metrics=BPF, trainer=CURVE.trainer
    )


# --- the filter language ---


def measured(mae: float, **more: float) -> Made:
    r2 = more.pop("r2", None)
    validation = {"components": {"package": {"mae": mae, **({} if r2 is None else {"r2": r2})}}}
    return Made(f"T{mae:g}Trainer", mae=mae, more={**more, "validation": validation})


def test_each_kind_of_key() -> None:
    there = catalogue(measured(1, abs_max_corr=0.5, r2=0.6, custom=7), measured(2, abs_max_corr=0.9, r2=0.9, custom=3))
    for text, expected in (
        ("mae:1", "T1"), ("mae:1;", "T1"), (";;mae: 1 ; ", "T1"), ("mae:99", "T1"), ("", "T1"), (" ; ", "T1"),
        ("custom:5", "T2"), ("r2:0.8", "T2"), ("package_r2:0.8", "T2"), ("abs_max_corr:0.6", "T2"),
        ("mape:10", "T1"), ("package_mae:1.5", "T1"), ("dram_mae:0.5", "T1"), ("mae:99;r2:0.8", "T2"),
        ("features:bpf_cpu_time_ms,bpf_page_cache_hit", "T1"), ("mae:1e1;mape:+15", "T1"), ("mae:1.0;mae:5", "T1"),
        ("features:bpf_cpu_time_ms , bpf_page_cache_hit,more;custom:3", "T2"),
    ):  # fmt: skip
        assert chosen(there, filter=text) == f"{expected}Trainer_0", text


def test_nothing_meets_the_filter() -> None:
    there = catalogue(measured(1, r2=0.5), measured(2))
    for text in (
        "mae:0.5",
        "mae:1;mape:5",
        "r2:0.51",
        "core_mae:5",
        "mae:-1",
        "features:bpf_cpu_time_ms",
        "features:,",
    ):
        message = none(there, filter=text)
        assert "none of 2 models meets" in message
        assert "made/rapl-sysfs/AbsPower/BPFOnly/T1Trainer_0" in message, "what came closest"


def test_a_figure_that_is_not_known_is_not_met() -> None:
    """-1 stands for an unknown error in the public database."""
    there = catalogue(Made(more={"core_mape": -1}))
    assert "unknown" in none(there, filter="core_mape:5")


def test_keys_that_nobody_knows() -> None:
    there = catalogue(Made())
    assert "filter: unknown attribute 'maee'; did you mean mae" in wrong(there, filter="maee:5")
    assert "package_mae" in wrong(there, filter="packagemae:5")
    for key in ("../../x", "x" * 10_000, "a\0b", "lineage", "features2", "model_name", "node_type"):
        message = wrong(there, filter=f"{key}:5")
        assert "unknown attribute" in message
        assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    ["mae", "mae:", ":5", ":", "mae=5", "mae:five", "mae:nan", "mae:NaN", "mae:inf", "mae:-inf", "mae:1e999",
     "mae:5,6", "features", "features:", "mae:5;x", "mae:5:6"],
)  # fmt: skip
def test_filters_that_cannot_be_right(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(text)
    assert caught.value.key == "filter"


def test_parsed() -> None:
    assert parse_filter("mae:5;features:a,b;package_r2:.5") == Filter(
        (Threshold("mae", 5.0), Threshold("package_r2", 0.5)), frozenset("ab")
    )
    assert parse_filter("features:a,b;features:b,c").features == {"b"}
    assert not parse_filter("")
    assert [t.at_least for t in parse_filter("mae:1;r2:1;abs_max_corr:1;dram_r2:1").thresholds] == [
        False, True, True, True,
    ]  # fmt: skip
    parse_filter("mae:1;" * MAX_CONDITIONS)


@given(st.text() | st.text("mae:;5.features,-ein r2"))
def test_any_filter(text: str) -> None:
    try:
        found = parse_filter(text)
    except RequestError as error:
        check_one_line(error, 200)
        return
    assert bool(found) == bool(text.replace(";", "").strip())


# --- node types ---


def types(**more: Any) -> Catalogue:
    return catalogue(made=pipeline(*(Made(node_type=n, mae=3 - n, **more) for n in TYPES), node_types=TYPES))


def match(there: Catalogue, **keys: Any) -> tuple[str, int]:
    found = there.select(ask(**keys))
    said = found.explain()["node_type"]
    assert said["number"] == found.model.node_type
    assert said["machine_spec"] == dict(found.model.machine_spec)
    return said["match"], said["number"]


def test_by_number() -> None:
    assert match(types(), node_type=0) == ("given", 0)
    assert match(types(), node_type=1) == ("given", 1)
    assert "no model of node type 7 (there: 0, 1, 2)" in none(types(), node_type=7)
    assert "no model of node type 7" in none(types(), node_type=7, machine_spec=HASWELL, loose_node_type=False)
    assert match(types(), node_type=7, machine_spec=EPYC) == ("exact", 2)
    assert match(types(), node_type=1, machine_spec=EPYC) == ("given", 1)


@pytest.mark.parametrize("number", TYPES)
def test_each_machine_gets_its_own(number: int) -> None:
    for loose in (True, False):
        spec = {**TYPES[number], "vendor": "x", "threads_per_core": 2}
        assert match(types(), machine_spec=spec, loose_node_type=loose) == ("exact", number)


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("attribute", ["cores", "chips", "memory", "frequency"])
def test_one_attribute_differs(number: int, attribute: str) -> None:
    spec = {**TYPES[number], attribute: TYPES[number][attribute] + 1}  # type: ignore[operator]
    assert match(types(), machine_spec=spec) == ("nearest", number)
    message = none(types(), machine_spec=spec, loose_node_type=False)
    assert f"the nearest is type {number} of made" in message
    assert "similarity 1.000" not in message, "it is not the same"


def test_a_machine_that_nobody_knows() -> None:
    spec = {"processor": "amd_epyc_7713", "cores": 128, "chips": 2, "memory": 256, "frequency": 3700}
    said = types().select(ask(machine_spec=spec)).explain()["node_type"]
    assert (said["match"], said["number"]) == ("nearest", 2)
    likeness = compare(spec, EPYC)
    assert said["similarity"] == pytest.approx(likeness.similarity, abs=1e-6)
    assert said["looseness"] == pytest.approx(likeness.looseness, abs=1e-6)
    assert said["attributes"] == likeness.attributes


def test_nobody_says_what_machine_it_is() -> None:
    assert match(types()) == ("any", 2), "the lowest error of any"
    assert match(types(), machine_spec={"processor": "", "cores": 0, "memory": None}) == ("any", 2)


def test_models_whose_machine_is_not_known() -> None:
    there = catalogue(Made())
    assert match(there, machine_spec=HASWELL) == ("unknown", 0)
    assert "not known" in none(there, machine_spec=HASWELL, loose_node_type=False)
    # any machine that is like it goes before
    there = catalogue(one=pipeline(Made(mae=1)), two=pipeline(Made(mae=9), node_types={0: ICELAKE}))
    assert there.select(ask(machine_spec=HASWELL)).model.pipeline == "two"


def test_the_node_type_goes_before_the_error() -> None:
    there = catalogue(
        near=pipeline(Made(mae=50), node_types={0: HASWELL}), far=pipeline(Made(mae=0.1), node_types={0: EPYC})
    )
    assert there.select(ask(machine_spec={**HASWELL, "memory": 63})).model.pipeline == "near"
    # but the filter before the node type
    assert there.select(ask(machine_spec=HASWELL, filter="mae:1")).model.pipeline == "far"
    assert "nearest" in str(there.select(ask(machine_spec=HASWELL, filter="mae:1")).explain())


def test_machines_described_alike_in_two_pipelines() -> None:
    there = catalogue(
        one=pipeline(Made(mae=2), node_types={0: HASWELL}),
        two=pipeline(Made(node_type=5, mae=1), node_types={5: HASWELL}),
    )
    found = there.select(ask(machine_spec=HASWELL))
    assert (found.model.pipeline, found.model.node_type) == ("two", 5)
    assert found.runner_up is not None
    assert found.runner_up.pipeline == "one"


# --- comparing errors ---


def test_the_same_data() -> None:
    there = catalogue(
        Made("A", mae=3, data="x", constant_mae=10), Made("B", mae=2, data="x", constant_mae=10),
        Made("C", mae=2.5, data="x", constant_mae=100), Made("D", mae=float("1e9"), data="x", constant_mae=1),
    )  # fmt: skip
    said = there.select(ask()).explain()
    assert said["trainer"] == "B"
    assert said["error"] == {"mae": 2, "compared_by": "mae on the same data"}
    assert said["runner_up"] == {"model": "made/rapl-sysfs/AbsPower/BPFOnly/C_0", "mae": 2.5}


def unlike(**constants: float | None) -> Catalogue:
    """An easy recording with a low error, and a hard one with a higher error that means more."""
    models = {
        "easy": Made(mae=2, data="easy", constant_mae=constants.get("easy", 2.5)),
        "hard": Made(mae=5, data="hard", constant_mae=constants.get("hard", 100)),
    }
    return catalogue(**{name: pipeline(model) for name, model in models.items()})


def test_unlike_data() -> None:
    said = unlike().select(ask()).explain()
    assert said["pipeline"] == "hard"
    assert said["error"]["mae"] == 5
    assert "relative" in said["error"]["compared_by"]
    assert said["runner_up"]["mae"] == 2


def test_unlike_data_whose_difficulty_nobody_knows() -> None:
    said = unlike(easy=None).select(ask()).explain()
    assert said["pipeline"] == "easy"
    assert "not known" in said["error"]["compared_by"]


def test_on_each_data_the_best_competes() -> None:
    """The relative error of a model that is not the best on its own data does not matter."""
    there = catalogue(
        a=pipeline(Made("A", mae=4, data="a", constant_mae=8), Made("B", mae=5, data="a", constant_mae=500)),
        b=pipeline(Made("C", mae=6, data="b", constant_mae=20)),
    )
    assert there.select(ask()).model.trainer == "C"


def test_another_error_key() -> None:
    models = [Made("A", mae=1, more={"mape": 50}), Made("B", mae=2, more={"mape": 5})]
    assert catalogue(*models, error_key="mape").select(ask()).model.trainer == "B"
    assert catalogue(*models).select(ask()).model.trainer == "A"


def test_a_model_without_the_error_comes_last() -> None:
    there = catalogue(Made("A", mae=-1), Made("B", mae=99))
    assert there.select(ask()).model.trainer == "B"
    assert there.select(ask(trainer="A")).explain()["error"]["mae"] is None


# --- the public database ---


@pytest.fixture(scope="module")
def database() -> Catalogue:
    if not DATABASE.is_dir():
        pytest.skip("the public database (../shared/data/model_db) is not here")
    return read_catalogue(open_store(str(DATABASE)), compare=SpecTable)


def test_the_database_as_it_is(database: Catalogue) -> None:
    assert len(database.models) == 61
    assert database.broken == {}
    assert set(database.node_types["ec2-0.7.11"]) == set(range(6))
    assert not any(model.portable for model in database.models)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("weights", [True, False])
def test_each_of_its_machines_gets_its_own_type(database: Catalogue, number: int, weights: bool) -> None:
    spec = database.node_types["ec2-0.7.11"][number].spec
    keys = {"metrics": COUNTERS, "source": "intel_rapl", "weights": weights, "machine_spec": spec}
    assert match(database, **keys) == ("exact", number)
    assert match(database, **keys, loose_node_type=False) == ("exact", number)
    assert match(database, **{**keys, "machine_spec": {**spec, "memory": spec["memory"] + 4}}) == ("nearest", number)


def test_the_captured_request_in_the_database(database: Catalogue) -> None:
    metrics, spec = tuple(CAPTURED["metrics"]), CAPTURED["machine_spec"]
    request = ask(metrics=metrics, source="intel_rapl", trainer=LINEAR_TRAINER, weights=True, machine_spec=spec)
    found = database.select(request)
    assert found.model.path == "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
    assert found.explain()["node_type"]["match"] == "nearest"
    assert found.explain()["node_type"]["similarity"] > 0.99


# --- whatever is there and whatever is asked ---

TRAINERS = ("SGDRegressorTrainer", "LinearRegressionTrainer", "XgboostFitTrainer", "ExponentialRegressionTrainer")


@st.composite
def models(draw: st.DrawFn) -> Made:
    trainer = draw(st.sampled_from(TRAINERS))
    weights: Mapping[str, Any] | None = {"package": linear(draw(st.sampled_from([10.0, -1.0])))}
    if trainer in KEPLER_CURVES:
        over = draw(st.sampled_from(["bpf_cpu_time_ms", "bpf_page_cache_hit"]))
        weights = {"package": curve([2.0, 0.001, 30.0], over)}
    elif trainer == "XgboostFitTrainer":
        weights = None
    return Made(
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
    st.sampled_from(["one", "two"]), st.lists(models(), max_size=8, unique_by=lambda m: m.path), max_size=2
)
requests = st.builds(
    ask,
    output_type=st.sampled_from(["AbsPower", "AbsPower", "DynPower"]),
    metrics=st.sampled_from([EVERY, EVERY[::-1], BPF, BPF[::-1], COUNTERS, (), ("x", *BPF), None]),
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
    "rapl-sysfs": {"rapl-sysfs"}, "rapl": {"rapl-sysfs"}, "intel_rapl": {"rapl-sysfs", "rapl-msr"},
    "rapl-msr": {"rapl-msr"}, "acpi": {"acpi", "hmc", "redfish"}, "hmc": {"hmc"},
}  # fmt: skip


def fits(model: StoredModel, request: ModelRequest) -> bool:
    """Whether a model will do, its machine aside: the rules once more, one model at a time."""
    metadata = model.metadata
    figures = {key: value for key, value in metadata.items() if isinstance(value, float) and value >= 0}
    package = metadata.get("validation", {}).get("components", {}).get("package", {})
    if "r2" in package:
        figures["r2"] = package["r2"]
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
        value = figures.get(threshold.key)
        if value is None:
            right = False
        elif threshold.key == "r2":
            right &= value >= threshold.limit
        else:
            right &= value <= threshold.limit
    allowed = request.filter.features
    return right and (allowed is None or set(model.features) <= allowed)


def check(there: Catalogue, request: ModelRequest) -> StoredModel | None:
    left = []
    if request.source in SOURCES_OF:
        left = [model for model in there.models if fits(model, request)]
    problem: RequestError | NoModelError | None = None
    try:
        found = there.select(request)
    except (RequestError, NoModelError) as error:
        problem = error
    if isinstance(problem, RequestError):
        assert request.source == "nobody" or any(t.key == "nobody" for t in request.filter.thresholds), problem
        return None
    if problem is not None:
        said = problem.explanation["candidates"]
        assert said["considered"] == len(there.models)
        of_type = [model for model in left if model.node_type == request.node_type]
        assert not left or request.node_type is not None or not request.loose_node_type, "something would have fitted"
        assert not left or not of_type
        assert sum(drop["count"] for drop in said["dropped"]) == len(there.models) - len(left)
        return None
    model = found.model
    assert model in left
    said = found.explain()
    assert said["candidates"]["considered"] == len(there.models)
    assert sum(drop["count"] for drop in said["candidates"]["dropped"]) == len(there.models) - len(left)
    node_type = said["node_type"]
    spec = {key: value for key, value in request.machine_spec.items() if value}
    # the machine
    if node_type["match"] == "given":
        assert model.node_type == request.node_type
        left = [other for other in left if other.node_type == request.node_type]
    elif node_type["match"] == "any":
        assert not spec
    else:
        similarity = {id(other): compare(spec, other.machine_spec).similarity for other in left}
        most = max(similarity.values())
        if node_type["match"] == "unknown":
            assert compare(spec, model.machine_spec).uncertainty == 1.0
        else:
            assert node_type["similarity"] == pytest.approx(most, abs=1e-6)
        assert similarity[id(model)] == pytest.approx(most)
        assert (node_type["match"] == "exact") == (most == 1.0)
        assert most == 1.0 or request.loose_node_type
        left = [other for other in left if similarity[id(other)] >= most - 1e-9]
    # the error
    mae = {id(other): error if (error := other.metadata["mae"]) >= 0 else float("inf") for other in left}
    data: dict[Any, list[StoredModel]] = {}
    for other in left:
        lineage = other.metadata.get("lineage")
        key = (other.pipeline if lineage is None else lineage["data"], lineage is None, other.source, other.node_type)
        data.setdefault(key, []).append(other)
    winners = [min(others, key=lambda other: mae[id(other)]) for others in data.values()]
    known = all("validation" in winner.metadata for winner in winners)
    if len(data) > 1 and known and all(mae[id(winner)] < float("inf") for winner in winners):

        def relative(of: StoredModel) -> float:
            package = of.metadata["validation"]["components"]["package"]
            return float(package["mae"] / package["constant_mae"])

        assert relative(model) == min(map(relative, winners))
        assert mae[id(model)] in [mae[id(winner)] for winner in winners]
    elif all(mae[id(winner)] < float("inf") for winner in winners):
        assert mae[id(model)] == min(mae.values())
    return model


def build(store: dict[str, list[Made]]) -> Catalogue:
    return catalogue(**{name: pipeline(*made, node_types=TYPES) for name, made in store.items()})


@settings(max_examples=500)
@given(stores, st.lists(requests, min_size=1, max_size=6))
def test_any_request(store: dict[str, list[Made]], asked: list[ModelRequest]) -> None:
    """One catalogue for several requests: what it keeps of one must not change the next."""
    there = build(store)
    for request in [*asked, *asked]:
        found = check(there, request)
        if request.metrics is not None and not (request.weights and request.trainer in KEPLER_CURVES):
            turned = attrs.evolve(request, metrics=request.metrics[::-1])
            assert check(there, turned) is found, "the order of the metrics does not matter"


@given(
    st.lists(st.text(max_size=5), max_size=3),
    st.text(max_size=9),
    st.text(max_size=9),
    st.dictionaries(
        st.text(max_size=9) | st.sampled_from(["cores", "processor"]), st.text() | st.floats() | st.integers()
    ),
    st.booleans(),
)
def test_any_text(metrics: list[str], source: str, trainer: str, spec: dict[str, Any], weights: bool) -> None:
    there = types()
    for request in (
        ask(metrics=tuple(metrics), source=source, trainer=trainer, machine_spec=spec, weights=weights),
        ask(pipeline=trainer, feature_group=source, machine_spec=spec),
        ask(machine_spec=spec, weights=weights),
    ):
        try:
            assert there.select(request).model in there.models
        except (RequestError, NoModelError) as error:
            check_one_line(error)


def test_find() -> None:
    there = catalogue(
        Made(mae=3), Made("LinearRegressionTrainer", mae=2), Made(mae=1, output_type="DynPower", node_type=4),
        Made(source="acpi", group="CounterOnly", mae=9),
    )  # fmt: skip
    assert [m.metadata["mae"] for m in there.find()] == [1, 2, 3, 9]
    assert [m.metadata["mae"] for m in there.find(source="intel_rapl", output_type="AbsPower")] == [2, 3]
    assert [m.metadata["mae"] for m in there.find(trainer="SGDRegressorTrainer", filter=parse_filter("mae:3"))] == [
        1,
        3,
    ]
    assert [m.metadata["mae"] for m in there.find(node_type=4)] == [1]
    assert [m.metadata["mae"] for m in there.find(feature_group="CounterOnly")] == [9]
    assert there.find(pipeline="nobody") == []
    assert there.by_path("made", "acpi/AbsPower/CounterOnly/SGDRegressorTrainer_0") is not None
    assert there.by_path("made", "../x") is None
