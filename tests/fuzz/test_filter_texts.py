"""Fuzz filters and requests for models: each is answered, or refused with an error of one line."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz, mostly
from support.selection import MACHINES
from support.server_process import check_one_line
from support.small_pipelines import CAPTURED, SmallModel, catalogue, curve, pipeline

from kepler_core.errors import KeplerError
from kepler_core.selection.filters import parse_filter
from kepler_servers.model_request import integers, read_model_request

CATALOGUE = catalogue(
    one=pipeline(*(SmallModel(node_type=number, mae=1.0 + number) for number in MACHINES), node_types=MACHINES),
    two=pipeline(
        SmallModel("LogarithmicRegressionTrainer", weights={"package": curve([1.0, 2.0, 3.0])}, data="x", mae=4.0),
        SmallModel("XgboostFitTrainer", group="CounterOnly", weights=None),
        SmallModel(output_type="DynPower", source="acpi"),
    ),
)
SCORES = ["mae", "mape", "r2", "abs_max_corr", "package_mae", "package_r2", "features", "nope", "", "mae:mae", "é"]
LIMITS = [
    "5",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "0x1",
    "1_0",
    "",
    "bpf_cpu_time_ms,cpu_cycles",
    ",",
    "9" * 400,
    "٣",
    " 1 ",
]

good_conditions = st.builds(
    "{}:{}".format, st.sampled_from(["mae", "mape", "package_mae"]), st.floats(0, 100)
) | st.just("features:bpf_cpu_time_ms,bpf_page_cache_hit")
odd_conditions = (
    st.builds("{}:{}".format, st.sampled_from(SCORES) | st.text(max_size=4), st.sampled_from(LIMITS))
    | st.text(max_size=6)
    | st.sampled_from(["mae:5"]).map(lambda condition: condition * 60)
)
filters = st.lists(mostly(good_conditions, odd_conditions), max_size=6).map(";".join)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def check_filter(text: str) -> None:
    """Check that a filter can be parsed and used to find models, or that it is refused with an error of one line."""
    try:
        conditions = parse_filter(text)
        models = CATALOGUE.find(filter=conditions)
    except KeplerError as error:
        check_one_line(error, longest=6000)
        return
    assert models or conditions


def test_filters() -> None:
    fuzz(filters, check_filter)


def words(*known: str) -> st.SearchStrategy[Any]:
    return mostly(st.sampled_from(known), anything)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Generate the body of a random request for a model. The body is similar to requests that Kepler has sent."""
    spec = st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("vendor", "processor"), words("intel_xeon_e5_2630v3", "amd_epyc_7763", "")),
            **dict.fromkeys(
                ("cores", "chips", "memory", "frequency", "threads_per_core"), mostly(st.integers(0, 500), anything)
            ),
        },
    )
    changes = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "metrics": st.lists(words("bpf_cpu_time_ms", "cpu_cycles", ""), max_size=5),
                "output_type": words("AbsPower", "DynPower", "AbsModelWeight", "abs"),
                "source": words("rapl-sysfs", "acpi", "intel_rapl", "rapl", ""),
                "node_type": mostly(st.integers(-2, 4), anything),
                "weight": mostly(st.booleans(), anything),
                "trainer_name": words("SGDRegressorTrainer", "LogarithmicRegressionTrainer", "SGDRegressor", "x"),
                "pipeline_name": words("one", "two", "three", "../one"),
                "filter": mostly(filters, anything),
                "machine_spec": mostly(spec, anything),
                "loose_node_type": mostly(st.booleans(), anything),
                "portable": mostly(st.booleans(), anything),
            },
        )
    )
    return json.dumps({**CAPTURED, **changes}).encode()


def check_request(body: bytes) -> None:
    """Check that a request selects a model whose explanation is valid JSON, or fails with an error of one line."""
    try:
        request = read_model_request(body)
        selection = CATALOGUE.select(request)
    except KeplerError as error:
        check_one_line(error, longest=6000)
        return
    json.dumps(selection.explain(), allow_nan=False)
    json.dumps(integers(selection.model.machine_spec), allow_nan=False)


def test_requests_for_models() -> None:
    fuzz(requests() | damaged(requests()), check_request)
