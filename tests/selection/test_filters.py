"""Test the filters in requests, such as `mae:5;mape:10`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.selection import chosen_path, no_model_message, request_error
from support.server_process import check_one_line
from support.small_pipelines import SmallModel
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.errors import RequestError
from kepler_core.selection.filters import MAX_CONDITIONS, Filter, Threshold, parse_filter


def measured(mae: float, **more: float) -> SmallModel:
    """Return a model with the scores `mae` and `more`. The component `package` gets the same mae and r2."""
    r2 = more.pop("r2", None)
    validation = {"components": {"package": {"mae": mae, **({} if r2 is None else {"r2": r2})}}}
    return SmallModel(f"T{mae:g}Trainer", mae=mae, more={**more, "validation": validation})


def test_conditions_of_each_kind() -> None:
    catalogue = make_catalogue(
        measured(1, abs_max_corr=0.5, r2=0.6, custom=7), measured(2, abs_max_corr=0.9, r2=0.9, custom=3)
    )
    for text, expected in (
        ("mae:1", "T1"), ("mae:1;", "T1"), (";;mae: 1 ; ", "T1"), ("mae:99", "T1"), ("", "T1"), (" ; ", "T1"),
        ("custom:5", "T2"), ("r2:0.8", "T2"), ("package_r2:0.8", "T2"), ("abs_max_corr:0.6", "T2"),
        ("mape:10", "T1"), ("package_mae:1.5", "T1"), ("dram_mae:0.5", "T1"), ("mae:99;r2:0.8", "T2"),
        ("features:bpf_cpu_time_ms,bpf_page_cache_hit", "T1"), ("mae:1e1;mape:+15", "T1"), ("mae:1.0;mae:5", "T1"),
        ("features:bpf_cpu_time_ms , bpf_page_cache_hit,more;custom:3", "T2"),
    ):  # fmt: skip
        assert chosen_path(catalogue, filter=text) == f"{expected}Trainer_0", text


def test_the_error_names_the_nearest_model_if_none_meets_the_filter() -> None:
    catalogue = make_catalogue(measured(1, r2=0.5), measured(2))
    for text in (
        "mae:0.5",
        "mae:1;mape:5",
        "r2:0.51",
        "core_mae:5",
        "mae:-1",
        "features:bpf_cpu_time_ms",
        "features:,",
    ):
        message = no_model_message(catalogue, filter=text)
        assert "none of 2 models meets" in message
        assert "made/rapl-sysfs/AbsPower/BPFOnly/T1Trainer_0" in message, "the nearest one"


def test_a_model_with_an_unknown_score_does_not_meet_the_condition() -> None:
    """A model whose error is -1 is not selected: in the public model database, -1 means that the error is not known."""
    catalogue = make_catalogue(SmallModel(more={"core_mape": -1}))
    assert "unknown" in no_model_message(catalogue, filter="core_mape:5")


def test_unknown_keys() -> None:
    catalogue = make_catalogue(SmallModel())
    assert "filter: unknown attribute 'maee'; did you mean mae" in request_error(catalogue, filter="maee:5")
    assert "package_mae" in request_error(catalogue, filter="packagemae:5")
    for key in ("../../x", "x" * 10_000, "a\0b", "lineage", "features2", "model_name", "node_type"):
        message = request_error(catalogue, filter=f"{key}:5")
        assert "unknown attribute" in message
        assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    ["mae", "mae:", ":5", ":", "mae=5", "mae:five", "mae:nan", "mae:NaN", "mae:inf", "mae:-inf", "mae:1e999",
     "mae:5,6", "features", "features:", "mae:5;x", "mae:5:6"],
)  # fmt: skip
def test_malformed_filters(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(text)
    assert caught.value.key == "filter"


def test_parse_filter() -> None:
    assert parse_filter("mae:5;features:a,b;package_r2:.5") == Filter(
        (Threshold("mae", 5.0), Threshold("package_r2", 0.5)), frozenset("ab")
    )
    assert parse_filter("features:a,b;features:b,c").features == {"b"}
    assert not parse_filter("")
    assert [threshold.at_least for threshold in parse_filter("mae:1;r2:1;abs_max_corr:1;dram_r2:1").thresholds] == [
        False, True, True, True,
    ]  # fmt: skip
    parse_filter("mae:1;" * MAX_CONDITIONS)


@given(st.text() | st.text("mae:;5.features,-ein r2"))
def test_any_text_is_a_filter_or_an_error_of_one_line(text: str) -> None:
    try:
        conditions = parse_filter(text)
    except RequestError as error:
        check_one_line(error, 200)
        return
    assert bool(conditions) == bool(text.replace(";", "").strip())
