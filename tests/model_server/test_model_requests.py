"""Tests of the parser of model requests. For any bytes, the parser returns a request or raises `RequestError`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.server_process import check_one_line
from support.small_pipelines import CAPTURED

from kepler_core.errors import RequestError
from kepler_core.selection import ModelRequest
from kepler_servers.model_request import MAX_METRICS, MAX_TEXT, integers, read_model_request

MINIMAL: dict[str, Any] = {"metrics": ["bpf_cpu_time_ms"], "output_type": "AbsPower"}


def read(request: Any) -> ModelRequest:
    return read_model_request(json.dumps(request).encode())


def rejected(body: bytes, key: str) -> str:
    with pytest.raises(RequestError) as caught:
        read_model_request(body)
    message = str(caught.value)
    assert caught.value.key == key, message
    assert message.startswith(f"{key}: ")
    assert "\n" not in message
    assert len(message) < 1000
    return message


# --- requests that the parser accepts ---


def test_captured_request() -> None:
    request = read(CAPTURED)
    assert request.metrics == tuple(CAPTURED["metrics"])
    assert request.output_type == "AbsPower"
    assert request.source == "intel_rapl"
    assert request.trainer == "SGDRegressorTrainer"
    assert request.weights
    assert request.node_type is None, "0 beside a machine's description counts as absent"
    assert request.loose_node_type
    assert not request.filter
    assert dict(request.machine_spec) == CAPTURED["machine_spec"]


def test_minimal_request() -> None:
    assert read(MINIMAL) == ModelRequest(output_type="AbsPower", metrics=("bpf_cpu_time_ms",), source="rapl-sysfs")


TEXTS = ("source", "trainer_name", "pipeline_name", "filter")


@pytest.mark.parametrize("key", [*TEXTS, "node_type", "machine_spec", "weight", "loose_node_type"])
def test_null_and_empty_are_absent(key: str) -> None:
    assert read({**MINIMAL, key: None}) == read(MINIMAL)
    if key != "machine_spec":
        assert read({**MINIMAL, key: ""}) == read(MINIMAL)


@pytest.mark.parametrize(
    ("number", "spec", "expected"),
    [(0, {}, None), (0, CAPTURED["machine_spec"], None), (0, None, 0), (3, None, 3), (3, {}, 3), (-1, None, None)],
)
def test_node_type(number: int, spec: dict[str, Any] | None, expected: int | None) -> None:
    request = {**MINIMAL, "node_type": number}
    assert read(request if spec is None else {**request, "machine_spec": spec}).node_type == expected


def test_keys_of_newer_clients_are_ignored() -> None:
    assert read({**MINIMAL, "colour": {"deep": [1]}}) == read(MINIMAL)
    assert read({**MINIMAL, "machine_spec": {"cores": 4, "numa": [1, 2]}}).machine_spec == {"cores": 4}


def test_last_of_two_equal_keys_counts() -> None:
    body = b'{"metrics":["a"],"output_type":"DynPower","output_type":"AbsPower","metrics":["b"]}'
    request = read_model_request(body)
    assert (request.output_type, request.metrics) == ("AbsPower", ("b",))


def test_fractions_in_a_machine_spec() -> None:
    assert read({**MINIMAL, "machine_spec": {"frequency": 2899.5}}).machine_spec == {"frequency": 2899.5}


# --- requests that the parser rejects ---

WRONG: dict[str, list[Any]] = {
    "metrics": [None, "a", 5, {}, [5], [None], [["a"]], True, {"a": 1}, ["x" * (MAX_TEXT + 1)]],
    "output_type": [None, 5, [], {}, True, "abspower", "", "AbsPower ", "x" * 5000, "../..", "Abs\0Power"],
    "weight": ["tRUE", " true", "null", 1, 0, 1.0, [], {}, "yes", "x" * 5000],
    "filter": [5, [], {}, True, "mae", "mae:", ":5", "mae:x", "mae:nan", "mae:inf", "mae:-Infinity", "x" * 5000],
    "source": [5, [], {}, True, "x" * 5000],
    "trainer_name": [5, [], {}, False, "x" * 5000],
    "pipeline_name": [5, [], {}, 1.5, "x" * 5000],
    "node_type": [
        1.5,
        "1.5",
        "x",
        "-2",
        "nan",
        "inf",
        "1e999",
        "9" * 5000,
        "0x1",
        " 1",
        "١",
        [],
        {},
        True,
        -2,
        2**40,
        10**40,
    ],
    "machine_spec": ["x", [], 5, True],
    "loose_node_type": ["no", "off", "2", 1, 0],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_wrong_types(key: str, value: Any) -> None:
    body = json.dumps({**MINIMAL, key: value}).encode()
    with pytest.raises(RequestError) as caught:
        read_model_request(body)
    message = str(caught.value)
    assert caught.value.key.startswith(key), message
    assert "\n" not in message
    assert len(message) < 1000, "the message repeats a long value in full"


@pytest.mark.parametrize("key", ["cores", "chips", "memory", "frequency", "threads_per_core"])
@pytest.mark.parametrize("value", [-1, True, [], {}, 1e300, "x", "-1", "1e13", "96 ", "96,5", "NaN", "9" * 5000])
def test_wrong_numbers_of_a_machine(key: str, value: Any) -> None:
    rejected(json.dumps({**MINIMAL, "machine_spec": {key: value}}).encode(), f"machine_spec.{key}")


@pytest.mark.parametrize("key", ["vendor", "processor"])
@pytest.mark.parametrize("value", [5, [], {}, True, "x" * 5000])
def test_wrong_names_of_a_machine(key: str, value: Any) -> None:
    rejected(json.dumps({**MINIMAL, "machine_spec": {key: value}}).encode(), f"machine_spec.{key}")


@pytest.mark.parametrize("key", ["metrics", "output_type"])
def test_missing(key: str) -> None:
    request = {k: v for k, v in MINIMAL.items() if k != key}
    assert "missing" in rejected(json.dumps(request).encode(), key)


def test_unknown_output_type_gets_the_close_matches() -> None:
    assert "did you mean AbsPower?" in rejected(b'{"metrics":[],"output_type":"abs"}', "output_type")


BODIES = [
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b"{]", b"\xff\xfe", b'{"metrics":["a"],"output_type":"AbsPower"}x',
    b"{'metrics':[]}", b"\0", b'{"metrics":["a"],"output_type":"AbsPower"}' * 2, b"<html>", b"[" * 100_000,
    b'{"metrics":' * 50_000, b'{"x":' + b"[" * 100_000, b'{"metrics":["\xff"],"output_type":"AbsPower"}',
    b"\xef\xbb\xbf{}", b'{"metrics":["\\ud800"],"output_type":"AbsPower"}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_model_request(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "01", "0x10"])
def test_numbers_that_are_not_json(number: str) -> None:
    with pytest.raises(RequestError):
        read_model_request(json.dumps({**MINIMAL, "machine_spec": {"cores": 7}}).replace("7", number).encode())


def test_limits() -> None:
    read({**MINIMAL, "metrics": ["x"] * MAX_METRICS, "trainer_name": "x" * MAX_TEXT})
    assert "500" in rejected(json.dumps({**MINIMAL, "metrics": ["x"] * (MAX_METRICS + 1)}).encode(), "metrics")
    assert "at most" in rejected(json.dumps({**MINIMAL, "filter": "mae:1;" * 51}).encode(), "filter")


# --- randomly generated requests ---

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["AbsPower", "DynPower", "mae:5", "features:a,b;r2:0.5", "../../etc/passwd", "a\0b", "96", ";;"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)
valid_values = {
    "metrics": st.lists(st.text(max_size=10), max_size=5),
    "output_type": st.sampled_from(["AbsPower", "DynPower"]),
    "weight": st.booleans(),
    "filter": st.text(max_size=20) | st.sampled_from(["mae:5", "mae:5;", "features:a"]),
    "source": st.text(max_size=10),
    "trainer_name": st.text(max_size=10),
    "pipeline_name": st.text(max_size=10),
    "node_type": st.integers(-1, 10),
    "machine_spec": st.fixed_dictionaries({}, optional={"cores": st.integers(0, 999), "processor": st.text()}),
    "loose_node_type": st.booleans(),
}
nearly_valid = st.fixed_dictionaries(
    {}, optional={key: st.one_of(value, value, json_values) for key, value in valid_values.items()}
)
mostly_valid = st.fixed_dictionaries(
    {key: valid_values[key] for key in ("metrics", "output_type")},
    optional={key: value | json_values for key, value in valid_values.items() if key not in ("metrics", "output_type")},
)


def check(body: bytes) -> None:
    try:
        request = read_model_request(body)
    except RequestError as error:
        check_one_line(error)
        return
    assert isinstance(request, ModelRequest)
    assert request.output_type in ("AbsPower", "DynPower")
    assert request.metrics is not None
    assert all(isinstance(name, str) for name in request.metrics)
    assert request.node_type is None or request.node_type >= 0
    for key, value in request.machine_spec.items():
        assert isinstance(value, str if key in ("vendor", "processor") else int | float)
        assert isinstance(value, str) or 0 <= value <= 10**12
        assert not isinstance(value, bool)
    for threshold in request.filter.thresholds:
        assert abs(threshold.limit) < float("inf")


@settings(max_examples=500)
@given(st.binary(max_size=300))
@example(b"\x80")
def test_any_bytes(body: bytes) -> None:
    check(body)


@settings(max_examples=500)
@given(nearly_valid | mostly_valid | json_values)
def test_nearly_valid_json(request: Any) -> None:
    check(json.dumps(request).encode())


@given(mostly_valid, st.data())
def test_valid_json_with_a_byte_changed(request: Any, data: st.DataObject) -> None:
    body = bytearray(json.dumps(request).encode())
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] = data.draw(st.integers(0, 255))
    check(bytes(body))
    check(bytes(body[:position]))


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=6))
def test_spec_for_kepler_has_whole_numbers(spec: dict[str, Any]) -> None:
    values = integers(spec)
    assert set(values) <= set(spec)
    for value in json.loads(json.dumps(values, allow_nan=False)).values():
        assert isinstance(value, int | str)
        assert not isinstance(value, bool)


def test_spec_with_fractions() -> None:
    assert integers({"cores": 96.0, "frequency": 2899.6, "memory": None, "ok": True, "processor": "x"}) == {
        "cores": 96,
        "frequency": 2900,
        "processor": "x",
    }
