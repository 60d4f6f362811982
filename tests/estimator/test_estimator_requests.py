"""Tests of the decoding and checking of requests for watts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kepler_servers.estimator.request import (
    MAX_NAMES_CHARACTERS,
    MAX_PER_SECOND,
    MAX_ROWS,
    Command,
    InvalidRequestError,
    WattsRequest,
    read_watts_request,
)
from kepler_servers.model_request import MAX_METRICS, MAX_TEXT

BASE: dict[str, Any] = {"metrics": ["a", "b"], "output_type": "AbsPower", "values": [[1, 2.5], [0, 0]]}


def body(**changes: Any) -> bytes:
    """Return `BASE` as JSON with some keys replaced. A key with the value None is removed."""
    document = {**BASE, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def read(content: bytes) -> WattsRequest:
    """Decode a request for watts, check the decoded request, and return it."""
    request = read_watts_request(content)
    assert isinstance(request, WattsRequest)
    check(request)
    return request


def check(request: WattsRequest) -> None:
    """Check that a decoded request has the properties on which models rely."""
    assert request.values.dtype == np.float64
    assert request.values.ndim == 2
    assert request.values.shape[1] == len(request.metrics)
    assert np.isfinite(request.values).all()
    assert (request.values >= 0).all()
    assert (request.values <= MAX_PER_SECOND).all()
    assert not request.values[request.invalid].any()
    assert len(set(request.metrics)) == len(request.metrics)
    assert request.key.output_type in ("AbsPower", "DynPower")
    assert request.key.metrics == set(request.metrics)


def with_rows(*rows: str) -> bytes:
    """Return a request for DynPower whose rows are the JSON texts `rows`."""
    return b'{"metrics":["a","b"],"output_type":"DynPower","values":[%s]}' % ",".join(rows).encode()


SHIFTED_ROWS = [
    "[1,2,3],[4]",
    "[1],[2,3,4]",
    "[1,[2]],[3,4]",
    "[[1,2]],[3,4]",
    "[1,2]],[[3,4]",
    "[],[1,2,3,4]",
    "[1 2,3],[4,5]",
]


@pytest.mark.parametrize("rows", SHIFTED_ROWS)
def test_numbers_stay_in_their_row(rows: str) -> None:
    try:
        request = read(with_rows(rows))
    except InvalidRequestError:
        with pytest.raises(json.JSONDecodeError):
            json.loads(with_rows(rows))
        return
    document = json.loads(with_rows(rows))["values"]
    expected = [
        row if len(row) == 2 and not any(isinstance(value, list) for value in row) else [0, 0] for row in document
    ]
    assert request.values.tolist() == expected
    assert len(request.invalid) == sum(row == [0, 0] for row in expected)


# --- valid requests ---


def test_a_request_of_kepler() -> None:
    request = read(
        body(
            source="intel_rapl", system_features=["cpu_architecture"], system_values=["Haswell"],
            trainer_name="", filter="mae:5",
        )
    )  # fmt: skip
    assert request.values.tolist() == [[1.0, 2.5], [0.0, 0.0]]
    assert request.invalid.tolist() == []
    assert (request.metrics, request.key.output_type, request.key.source) == (("a", "b"), "AbsPower", "intel_rapl")
    assert (request.key.trainer, request.key.filter) == ("", "mae:5")


def test_absent_and_empty_keys_have_defaults() -> None:
    for content in (body(), body(source="", trainer_name="", filter=""), body(unknown={"a": [1]}, powers=3)):
        request = read(content)
        assert (request.key.source, request.key.trainer, request.key.filter) == ("rapl-sysfs", "", "")


def test_null_is_the_same_as_absent() -> None:
    content = b'{"metrics":["a"],"output_type":"AbsPower","values":[[1]],"source":null,"filter":null,"command":null}'
    assert read(content).key.source == "rapl-sysfs"


def test_whitespace_is_ignored() -> None:
    assert read(b" \r\n\t" + json.dumps(BASE, indent=4).encode()).values.tolist() == [[1.0, 2.5], [0.0, 0.0]]


def test_a_request_without_rows() -> None:
    assert read(body(values=[])).values.shape == (0, 2)


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_bytes_like_objects_are_accepted(view: Any) -> None:
    for content in (body(), with_rows("[NaN,1]", "[1,2]")):
        assert isinstance(read_watts_request(view(content)), WattsRequest)


def test_a_command() -> None:
    assert read_watts_request(b'{"command":"status"}') == Command("status")
    assert read_watts_request(b'{"command":"status","values":[[NaN]]}') == Command("status")


# --- invalid rows ---

INVALID_ROWS = {
    "NaN": "[NaN,1]",
    "Infinity": "[Infinity,1]",
    "minus Infinity": "[1,-Infinity]",
    "1e999": "[1e999,1]",
    "-1e999": "[1,-1e999]",
    "negative": "[-1,1]",
    "slightly negative": "[1,-1e-300]",
    "absurd": "[1.1e16,1]",
    "null": "[null,1]",
    "all null": "[null,null]",
    "text": '["x",1]',
    "a number as text": '["1",1]',
    "numbers as text": '["1","2"]',
    "true": "[true,1]",
    "all true": "[true,true]",
    "false": "[false,1]",
    "too short": "[1]",
    "empty": "[]",
    "too long": "[1,2,3]",
    "a list in it": "[[1],2]",
    "lists in it": "[[1],[2]]",
    "an object in it": '[{"a":1},2]',
    "null for a row": "null",
    "a number for a row": "5",
    "a text for a row": '"12"',
    "an object for a row": '{"a":1,"b":2}',
    "true for a row": "true",
    "a whole number of 400 digits": "[" + "9" * 400 + ",1]",
    "a whole number of 5000 digits": "[" + "9" * 5000 + ",1]",
    "a whole number above all others": "[18446744073709551616,1]",
}


@pytest.mark.parametrize("row", INVALID_ROWS.values(), ids=INVALID_ROWS.keys())
def test_an_invalid_row_is_zeroed_and_the_others_stay(row: str) -> None:
    request = read(with_rows("[1,2]", row, "[3,4.5]"))
    assert request.invalid.tolist() == [1]
    assert request.values.tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.5]]


@pytest.mark.parametrize("row", INVALID_ROWS.values(), ids=INVALID_ROWS.keys())
def test_an_invalid_row_alone(row: str) -> None:
    request = read(with_rows(row))
    assert request.invalid.tolist() == [0]
    assert request.values.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("row", INVALID_ROWS.values(), ids=INVALID_ROWS.keys())
def test_several_invalid_rows(row: str) -> None:
    request = read(with_rows(row, "[1,2]", '["x",NaN]', "[1]"))
    assert request.invalid.tolist() == [0, 2, 3]
    assert request.values[1].tolist() == [1.0, 2.0]


_numbers = st.one_of(
    st.floats(0, 1e16).map(repr),
    st.integers(0, 10**16).map(str),
    st.just("-0.0"),
    st.just("0"),
    st.just("1E3"),
)


@given(
    st.lists(st.tuples(st.booleans(), _numbers, _numbers, st.sampled_from(list(INVALID_ROWS.values()))), max_size=12)
)
def test_valid_and_invalid_rows_mixed(rows: list[tuple[bool, str, str, str]]) -> None:
    request = read(with_rows(*(f"[{a},{b}]" if valid else invalid for valid, a, b, invalid in rows)))
    assert request.invalid.tolist() == [i for i, row in enumerate(rows) if not row[0]]
    for i, (valid, a, b, _) in enumerate(rows):
        assert request.values[i].tolist() == ([float(a), float(b)] if valid else [0.0, 0.0])


def test_a_request_without_metrics() -> None:
    request = read(body(metrics=[], values=[[], []]))
    assert request.values.shape == (2, 0)


# --- invalid requests ---

INVALID_REQUESTS: dict[str, tuple[bytes, str, str | None, int]] = {
    "no output type": (body(output_type=None), "output_type: missing", None, 2),
    "unknown output type": (body(output_type="AbsPowr"), "did you mean AbsPower", "AbsPowr", 2),
    "no metrics": (body(metrics=None), "metrics: missing", "AbsPower", 2),
    "no values": (body(values=None), "values: missing", "AbsPower", 0),
    "values no list": (body(values={"a": 1}), "values: not a list", "AbsPower", 0),
    "values a text": (body(values="NaN"), "values: not a list", "AbsPower", 0),
    "metrics no list": (body(metrics="a,b"), "metrics", "AbsPower", 2),
    "metrics of numbers": (body(metrics=[1, 2], output_type="DynPower"), "metrics", "DynPower", 2),
    "source a number": (body(source=3), "source", "AbsPower", 2),
    "output type a number": (body(output_type=3), "output_type", None, 2),
    "filter a list": (body(filter=["mae:5"]), "filter", "AbsPower", 2),
    "trainer an object": (body(trainer_name={}, output_type="DynPower"), "trainer_name", "DynPower", 2),
    "a metric twice": (body(metrics=["a", "a"], output_type="DynPower"), "'a' is given twice", "DynPower", 2),
    "too many rows": (body(values=[[1, 2]] * (MAX_ROWS + 1)), f"at most {MAX_ROWS}", "AbsPower", MAX_ROWS + 1),
    "too many metrics": (
        body(metrics=[str(n) for n in range(MAX_METRICS + 1)]), f"more than {MAX_METRICS}", "AbsPower", 2,
    ),
    "too many with the system's": (
        body(metrics=[str(n) for n in range(MAX_METRICS - 1)], system_features=["x", "y"]), "more than", "AbsPower", 2,
    ),
    "a long metric": (body(metrics=["a", "b" * (MAX_TEXT + 1)]), "characters", "AbsPower", 2),
    "a long source": (body(source="s" * (MAX_TEXT + 1)), "characters", "AbsPower", 2),
    "a long trainer": (body(trainer_name="s" * (MAX_TEXT + 1)), "characters", "AbsPower", 2),
    "a long filter": (body(filter="s" * (MAX_TEXT + 1)), "characters", "AbsPower", 2),
    "long metrics": (
        body(metrics=[f"{n:0500}" for n in range(21)]), f"{MAX_NAMES_CHARACTERS} characters", "AbsPower", 2,
    ),
    "not JSON": (b"{metrics}", "not a JSON object", None, 0),
    "not UTF-8": (b'{"metrics":["\xff"]}', "not a JSON object", None, 0),
    "not UTF-8 in a name that is not ours": (b'{"\xc3\x28":1}', "", None, 0),
    "nested too deeply": (b'{"a":' * 200_000 + b"}" * 200_000, "deeply", None, 0),
    "lists nested too deeply": (b'{"values":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "than 21000 lists", None, 0),
    "a control character in a text": (b'{"metrics":["\x01"]}', "not a JSON object", None, 0),
    "empty": (b"{}", "output_type: missing", None, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message", "output_type", "rows"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS.keys()
)
def test_an_invalid_request_raises_with_its_reason(
    content: bytes, message: str, output_type: str | None, rows: int
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_watts_request(content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.output_type, caught.value.rows) == (output_type, rows)


@pytest.mark.parametrize(
    ("content", "message", "output_type", "rows"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS.keys()
)
def test_an_invalid_row_does_not_hide_the_reason(
    content: bytes, message: str, output_type: str | None, rows: int
) -> None:
    """An invalid request that also has NaN in a row must fail with the same message as without NaN.

    NaN makes the estimator use its lenient decoder, which must find the same mistake as the fast decoder.
    """
    if b"[[1, 2.5], [0, 0]]" not in content:
        pytest.skip("the request does not contain the rows that this test changes")
    with pytest.raises(InvalidRequestError) as caught:
        read_watts_request(content.replace(b"[[1, 2.5], [0, 0]]", b"[[NaN, 2.5], [0, 0]]"))
    assert message in str(caught.value)
    assert (caught.value.output_type, caught.value.rows) == (output_type, rows)


@pytest.mark.parametrize("content", [b"", b" ", b"[]", b"null", b"1", b'"a"', b"[[1]]", b"NaN", b"\xef\xbb\xbf{}"])
def test_anything_but_an_object_is_invalid(content: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read_watts_request(content)


def test_the_maximum_of_rows_and_metrics() -> None:
    assert read(body(values=[[1, 2]] * MAX_ROWS)).values.shape == (MAX_ROWS, 2)
    wide = body(metrics=[str(n) for n in range(MAX_METRICS)], values=[[1] * MAX_METRICS])
    assert read(wide).values.shape == (1, MAX_METRICS)


# --- requests with arbitrary content ---


def read_or_refuse(content: bytes) -> None:
    """Decode bytes that may be an invalid request. Check that the only exception is `InvalidRequestError`."""
    try:
        request = read_watts_request(content)
    except InvalidRequestError:
        return
    if isinstance(request, WattsRequest):
        check(request)


@given(st.binary(max_size=200))
@example(b"{")
@example(b'{"values":')
@example(b"\x00")
def test_arbitrary_bytes(content: bytes) -> None:
    read_or_refuse(content)


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["AbsPower", "DynPower", "a", "b", math.nan, math.inf, -1, 1e17, 10**400]),
)  # fmt: skip
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
_anything = _values | st.just("\ud800")  # a lone surrogate: JSON can contain it, but UTF-8 cannot encode it
_names = st.lists(st.sampled_from(["a", "b", "c"]) | st.text(max_size=3), max_size=4)
_rows = st.lists(st.lists(_scalars, max_size=4) | _values, max_size=6)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "metrics": _names | _anything,
            "values": _rows | _anything,
            "output_type": st.sampled_from(["AbsPower", "DynPower"]) | _anything,
            "source": st.sampled_from(["acpi", "intel_rapl"]) | _anything,
            "trainer_name": _anything,
            "filter": _anything,
            "system_features": _anything,
            "system_values": _anything,
            "command": st.just(None) | _anything,
            "other": _anything,
        },
    ),
    st.integers(0, 400),
    st.none() | st.binary(max_size=2),
)
def test_nearly_valid_requests(document: dict[str, Any], position: int, replacement: bytes | None) -> None:
    content = json.dumps(document).encode()
    if replacement is not None:
        position %= len(content)
        content = content[:position] + replacement + content[position + 1 :]
    read_or_refuse(content)


@given(_rows)
def test_a_row_is_valid_if_it_is_a_list_of_two_possible_rates(rows: list[Any]) -> None:
    def is_valid(row: Any) -> bool:
        if not (isinstance(row, list) and len(row) == 2):
            return False
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_PER_SECOND
            for value in row
        )

    request = read(json.dumps({**BASE, "values": rows}).encode())
    assert request.invalid.tolist() == [i for i, row in enumerate(rows) if not is_valid(row)]
