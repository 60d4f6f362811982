"""Test that any bytes and any JSON are read or rejected, and that all valid spellings of a number are read."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recording_json import ENCODED, all_samples, plain_reading

from kepler_core.errors import RecordingError
from kepler_core.recording.reader import read_recording
from kepler_core.recording.samples import _decode_flat, decode_samples


def read_or_reject(content: bytes) -> None:
    """Read a recording; check that no exception except `RecordingError` is raised, and that all values are finite."""
    try:
        recording = read_recording(content, name="Monday")
    except RecordingError:
        return
    for metric in recording.metrics.values():
        assert np.isfinite(metric.values).all()


@given(st.binary(max_size=200) | st.binary(max_size=50).map(b"\x1f\x8b\x08\x00".__add__))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    read_or_reject(content)


@settings(max_examples=400)
@given(st.data())
def test_any_damaged_recording_is_read_or_rejected(data: st.DataObject) -> None:
    answer = {"status": "success", "data": {"result": [{"metric": {"__name__": "m"}, "values": [[1, "2"], [2, "3"]]}]}}
    content = data.draw(st.sampled_from([ENCODED, json.dumps(answer).encode(), gzip.compress(ENCODED, mtime=0)]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 4) | st.just(len(content)))
        # brackets, quotes and digits damage a document in more ways than random bytes do
        new = data.draw(st.binary(max_size=3) | st.text('[]{},:"01.eE-+ \\n', max_size=3).map(str.encode))
        content = content[:at] + new + content[at + length :]
    read_or_reject(content)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["m", "metric", "values", "data", "result"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    anything | st.fixed_dictionaries({"m": st.lists(st.fixed_dictionaries({"metric": anything, "values": anything}))})
)
def test_any_json_is_read_or_rejected(document: Any) -> None:
    # Python's json module writes NaN and Infinity, which are not valid JSON. The reader must reject such documents.
    read_or_reject(json.dumps(document).encode())


finite = st.floats(allow_nan=False, allow_infinity=False)
MAX_ROUNDED = 1.797693134e308
"""Largest random float that is rounded. Larger floats could become infinite, which JSON cannot express."""


json_number = st.one_of(
    finite.map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.builds("{:.3f}".format, st.floats(-1e9, 1e9)),
    st.builds("{:.10e}".format, st.floats(-MAX_ROUNDED, MAX_ROUNDED)),
    st.builds("{:G}".format, st.floats(-MAX_ROUNDED, MAX_ROUNDED)),
    st.sampled_from(["0", "-0", "-0.0", "0e5", "1E+05", "1e-400", "4.9e-324", "1.7976931348623157e308"]),
)


odd_number = st.one_of(
    st.sampled_from(["NaN", "nan", "+Inf", "-Inf", "Inf", "Infinity", "1e400", "-1e999"]),
    st.sampled_from(["+5", "5.", ".5", "-.5e1", "007", "00", "+0.0", "1.e2"]),
    json_number.map(" {}".format),
    json_number.map("{} ".format),
    st.integers(0, 10**40).map("0{}".format),
)


plain_value = json_number.map('"{}"'.format)


any_value = plain_value | odd_number.map('"{}"'.format) | json_number | st.just("null")


timestamp = st.one_of(
    st.integers(1_700_000_000, 1_700_000_020).map(str),
    st.integers(1_700_000_000, 1_700_000_003).map("{}.250".format),
    st.sampled_from(["1.7e9", "1.7E+9", "17e8", "0", "0.5"]),
    st.floats(0, 9e10).map(repr),
)


@given(st.lists(st.tuples(timestamp, plain_value), min_size=1, max_size=5))
def test_samples_of_a_long_series_are_decoded_as_those_of_a_short_one(pairs: list[tuple[str, str]]) -> None:
    text = f"[{','.join(f'[{time},{value}]' for time, value in pairs)}]".encode()
    flat = _decode_flat(text)
    assert flat is not None
    assert flat.tobytes() == decode_samples(text).tobytes()


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "[[1,2]]", '[["1","2"]]', '[["1",2]]', '[[1,"2",3]]', '[[1,"nan"]]', '[[1,""]]', '[[1,"2"],[3]]'),
        *('[[1, "2"]]', '[[1,"2,3"]]', '[[1,"-"]]', '[[1,"02"]]', '[[[1,"2"]]]', "[[1,null]]", '[1,"2"]'),
    ],
)
def test_only_plain_samples_are_decoded_as_one_list(text: str) -> None:
    assert _decode_flat(text.encode()) is None


label = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


space = st.sampled_from(["", "", " ", "\n", "\t ", "\r\n"])


@st.composite
def recording_texts(draw: st.DrawFn) -> bytes:
    """Generate a valid recording with random white space, spelling of numbers and order of keys."""
    gaps = itertools.cycle(draw(st.lists(space, min_size=1, max_size=7)))
    ascii_only = draw(st.booleans())

    def joined(opening: str, items: list[str], closing: str) -> str:
        inner = ",".join(f"{next(gaps)}{item}{next(gaps)}" for item in items)
        return f"{opening}{next(gaps)}{inner}{closing}"

    def quoted(content: Any) -> str:
        return json.dumps(content, ensure_ascii=ascii_only)

    metrics = []
    for name in draw(st.lists(st.text(max_size=8), unique=True, max_size=3)):
        value = draw(st.sampled_from([plain_value, any_value]))
        all_series = []
        for labels in draw(st.lists(label, max_size=4)):
            pairs = [joined("[", [draw(timestamp), draw(value)], "]") for _ in range(draw(st.integers(0, 5)))]
            keys = [f'"metric"{next(gaps)}:{quoted(labels)}', f'"values":{next(gaps)}{joined("[", pairs, "]")}']
            if draw(st.booleans()):
                keys.append('"histograms":[[1,{"count":"2"}]]')
            all_series.append(joined("{", draw(st.permutations(keys)), "}"))
        metrics.append(f"{quoted(name)}{next(gaps)}:{joined('[', all_series, ']')}")
    return joined("{", metrics, "}").encode()


@settings(max_examples=300)
@given(recording_texts())
def test_every_spelling_is_read_as_by_a_plain_loop(content: bytes) -> None:
    samples, not_finite, repeated = plain_reading(content)
    recording = read_recording(content)
    assert all_samples(recording) == samples
    assert {name: metric.not_finite for name, metric in recording.metrics.items()} == not_finite
    assert {name: metric.repeated for name, metric in recording.metrics.items()} == repeated
