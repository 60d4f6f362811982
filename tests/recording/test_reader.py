"""Reading recordings: what is taken, what is left out and counted, what is refused and how."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kepler_core.errors import RecordingError
from kepler_core.recording import Recording, reader
from kepler_core.recording.reader import read_recording

Samples = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""Per series its labels and its (timestamp, value) pairs."""

DOCUMENT = {
    "cpu": [
        {"metric": {"id": "a"}, "values": [[1, "10"], [2, "12.5"], [3, "1e3"]]},
        {"metric": {"id": "b"}, "values": [[2, "7"]]},
    ],
    "joules": [{"metric": {}, "values": [[1, "0.001"], [2.5, "-4"]]}],
}
SAMPLES = {
    "cpu": [({"id": "a"}, [(1.0, 10.0), (2.0, 12.5), (3.0, 1000.0)]), ({"id": "b"}, [(2.0, 7.0)])],
    "joules": [({}, [(1.0, 0.001), (2.5, -4.0)])],
}
ENCODED = json.dumps(DOCUMENT).encode()


def samples_of(recording: Recording, metric: str) -> Samples:
    """A metric as lists, series by series."""
    found = recording.metrics[metric]
    assert len(found.timestamps) == len(found.values) == len(found.series) == found.n_samples
    return [
        (
            dict(labels),
            list(
                zip(
                    found.timestamps[found.series == index].tolist(),
                    found.values[found.series == index].tolist(),
                    strict=True,
                )
            ),
        )
        for index, labels in enumerate(found.labels)
    ]


def all_samples(recording: Recording) -> dict[str, Samples]:
    return {metric: samples_of(recording, metric) for metric in recording.metrics}


def one_series(*pairs: Any) -> bytes:
    return json.dumps({"m": [{"metric": {}, "values": list(pairs)}]}).encode()


def refusal(source: Any, **arguments: Any) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(RecordingError) as caught:
        read_recording(source, **arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


# --- what is taken --------------------------------------------------------------------------------


def test_the_same_samples_from_every_kind_of_source(tmp_path: Path) -> None:
    plain, packed, misnamed = tmp_path / "r.json", tmp_path / "r.json.gz", tmp_path / "packed.json"
    plain.write_bytes(ENCODED)
    packed.write_bytes(gzip.compress(ENCODED))
    misnamed.write_bytes(gzip.compress(ENCODED))
    for source in (plain, str(plain), packed, misnamed, ENCODED, gzip.compress(ENCODED), DOCUMENT):
        assert all_samples(read_recording(source)) == SAMPLES


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "r.json", tmp_path / "r.json.gz"
    plain.write_bytes(ENCODED)
    packed.write_bytes(gzip.compress(ENCODED, mtime=5))
    digest = read_recording(plain).digest
    assert digest == read_recording(packed).digest == read_recording(ENCODED).digest
    assert digest != read_recording(ENCODED.replace(b"12.5", b"12.6")).digest


def test_a_recording_has_the_name_of_its_file_or_the_given_one(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(ENCODED)
    assert read_recording(path).name == str(path)
    assert read_recording(path, name="Monday").name == "Monday"
    assert read_recording(ENCODED, name="Monday").name == "Monday"


def test_one_answer_of_the_prometheus_api() -> None:
    answer = {
        "status": "success",
        "data": {
            "resultType": "matrix",
            "result": [
                {"metric": {"__name__": "cpu", "id": "a"}, "values": [[1, "10"], [2, "12"]]},
                {"metric": {"__name__": "joules"}, "values": [[1, "5"]]},
                {"metric": {"__name__": "cpu", "id": "b"}, "values": [[2, "7"]]},
            ],
        },
    }
    recording = read_recording(json.dumps(answer).encode())
    assert all_samples(recording) == {
        "cpu": [
            ({"__name__": "cpu", "id": "a"}, [(1.0, 10.0), (2.0, 12.0)]),
            ({"__name__": "cpu", "id": "b"}, [(2.0, 7.0)]),
        ],
        "joules": [({"__name__": "joules"}, [(1.0, 5.0)])],
    }


def test_only_wanted_metrics_are_kept() -> None:
    recording = read_recording(ENCODED, wanted=lambda metric: metric == "joules")
    assert all_samples(recording) == {"joules": SAMPLES["joules"]}
    assert recording.other_metrics == ("cpu",)
    assert recording.n_samples == 2


def test_columns_cannot_be_changed() -> None:
    metric = read_recording(ENCODED).metrics["cpu"]
    for column in (metric.timestamps, metric.values, metric.series):
        with pytest.raises(ValueError):
            column[0] = 5


def test_series_of_many_lengths_beyond_one_chunk() -> None:
    # Series are turned into numbers a MiB at a time; one odd series must not disturb its neighbours.
    document: dict[str, Any] = {"m": []}
    for index in range(80):
        values = [[1_700_000_000 + 3 * at, f"{index * 1000 + at}.25"] for at in range(0 if index % 9 == 4 else 1500)]
        if index == 30:
            values[7][1] = "NaN"
        document["m"].append({"metric": {"id": str(index)}, "values": values})
    encoded = json.dumps(document).encode()
    assert len(encoded) > 2 * 2**20
    recording = read_recording(encoded)
    assert all_samples(recording) == plain_reading(encoded)[0]
    assert recording.metrics["m"].not_finite == 1
    assert recording.empty_series == {"m": 9}


# --- what is left out and counted -----------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "Inf", "inf", "1e400", None])
def test_values_that_are_not_finite_are_left_out_and_counted(value: str | None) -> None:
    metric = read_recording(one_series([1, "10"], [2, value], [3, "30"])).metrics["m"]
    assert metric.timestamps.tolist() == [1, 3]
    assert metric.values.tolist() == [10, 30]
    assert metric.not_finite == 1


def test_the_staleness_marker_in_a_dict_is_left_out() -> None:
    stale = float(np.array(0x7FF0000000000002, dtype=np.uint64).view(np.float64))  # a NaN with a payload
    metric = read_recording({"m": [{"metric": {}, "values": [[1, 10.0], [2, stale], [3, "30"]]}]}).metrics["m"]
    assert metric.values.tolist() == [10, 30]
    assert metric.not_finite == 1


def test_unsorted_samples_are_sorted_within_their_series() -> None:
    document = {
        "m": [
            {"metric": {"id": "a"}, "values": [[3, "30"], [1, "10"], [2, "20"]]},
            {"metric": {"id": "b"}, "values": [[2, "200"], [1, "100"]]},
        ]
    }
    assert samples_of(read_recording(document), "m") == [
        ({"id": "a"}, [(1, 10), (2, 20), (3, 30)]),
        ({"id": "b"}, [(1, 100), (2, 200)]),
    ]


def test_of_repeated_timestamps_the_first_sample_stays() -> None:
    metric = read_recording(one_series([1, "10"], [2, "20"], [2, "21"], [1, "11"], [3, "30"])).metrics["m"]
    assert metric.timestamps.tolist() == [1, 2, 3]
    assert metric.values.tolist() == [10, 20, 30]
    assert metric.repeated == 2


def test_equal_timestamps_of_two_series_are_no_repetition() -> None:
    assert read_recording(ENCODED).metrics["cpu"].repeated == 0


def test_empty_series_stay_without_samples_and_are_counted() -> None:
    document = {
        "m": [{"metric": {"id": "a"}, "values": []}, {"metric": {"id": "b"}, "values": [[1, "2"]]}],
        "n": [],
    }
    recording = read_recording(document)
    assert all_samples(recording) == {"m": [({"id": "a"}, []), ({"id": "b"}, [(1, 2)])], "n": []}
    assert recording.empty_series == {"m": 1}
    assert recording.metrics["m"].lengths.tolist() == [0, 1]


# --- what is refused ------------------------------------------------------------------------------

NOT_JSON = {
    "nothing": b"",
    "text": b"metric,timestamp,value\n",
    "web page": b"<html></html>",
    "not UTF-8": b'{"m\xff":[]}',
    "label not UTF-8": b'{"m":[{"metric":{"a":"\xff"},"values":[]}]}',
    "trailing comma": b'{"m":[{"metric":{},"values":[[1,"2"],]}]}',
    "two documents": b"{}{}",
    "NaN without quotes": b'{"m":[{"metric":{},"values":[[1,NaN]]}]}',
    "truncated in the values": ENCODED[: ENCODED.index(b"1e3")],
    "truncated at the end": ENCODED[:-1],
}

OTHER_SHAPES = {
    "list": b"[]",
    "list of series": b'[{"metric":{},"values":[]}]',
    "number": b"5",
    "string": b'"recording"',
    "null": b"null",
    "metric is a number": b'{"m":1}',
    "metric is an object": b'{"m":{}}',
    "series is a number": b'{"m":[1]}',
    "series without anything": b'{"m":[{}]}',
    "series without values": b'{"m":[{"metric":{}}]}',
    "series without labels": b'{"m":[{"values":[]}]}',
    "labels are null": b'{"m":[{"metric":null,"values":[]}]}',
    "label is a number": b'{"m":[{"metric":{"a":1},"values":[]}]}',
    "API answer: an error": b'{"status":"error","errorType":"bad_data","error":"parse error"}',
    "API answer: an instant vector": b'{"status":"success","data":{"resultType":"vector","result":'
    b'[{"metric":{"__name__":"m"},"value":[1,"2"]}]}}',
}

BAD_VALUES = {
    "null": b"null",
    "number": b"5",
    "object": b"{}",
    "string": b'"1"',
    "numbers, not pairs": b"[1,2]",
    "no value": b"[[1]]",
    "three": b'[[1,"2",3]]',
    "pair is an object": b'[{"t":1,"v":"2"}]',
    "value is a word": b'[[1,"many"]]',
    "value is empty": b'[[1,""]]',
    "value is blank": b'[[1," "]]',
    "value is two numbers": b'[[1,"1 2"]]',
    "value has a comma": b'[[1,"1,5"]]',
    "value has a unit": b'[[1,"5W"]]',
    "value with underscores": b'[[1,"1_000"]]',
    "value is hexadecimal": b'[[1,"0x10"]]',
    "value is a list": b"[[1,[2]]]",
    "value is true": b"[[1,true]]",
    "value not UTF-8": b'[[1,"\xff"]]',
    "timestamp is text": b'[["noon","2"]]',
    "timestamp is null": b'[[null,"2"]]',
    "timestamp is true": b'[[true,"2"]]',
    "timestamp is a list": b'[[[],"2"]]',
    "timestamp is too large": b'[[1e999,"2"]]',
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_not_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert "not JSON" in message
    assert refusal(content, name="Monday").startswith("Monday: ")


@pytest.mark.parametrize("content", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_json_of_another_shape(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert "values" in message  # it says what a recording looks like


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_values_of_another_shape(values: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    good = b'{"metric":{},"values":[[1,"2"]]}'
    path.write_bytes(b'{"good":[%s],"broken":[%s,%s,{"metric":{},"values":%s}]}' % (good, good, good, values))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert "broken[2]" in message


def test_the_place_of_a_bad_number_is_named() -> None:
    assert "m[0].values[2]" in refusal(one_series([1, "1"], [2, "2"], [3, "three"]))


@pytest.mark.parametrize("series", [b"1", b"[1]", b"[{}]", b'[{"metric":{"a":1},"values":[]}]'])
def test_a_metric_of_another_shape_is_named(series: bytes) -> None:
    assert "broken" in refusal(b'{"good":[],"broken":%s}' % series)


@pytest.mark.parametrize(
    "content",
    [
        b'{"m": 1',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"m"},"values":[[1,"2"',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"\xff"},"values":[]}]}}',
    ],
    ids=["number", "API answer", "API answer not UTF-8"],
)
def test_json_of_another_shape_that_is_broken_further_on(content: bytes) -> None:
    assert refusal(content, name="Monday").startswith("Monday: ")


@pytest.mark.parametrize("depth", [2_000, 200_000])
@pytest.mark.parametrize(
    "start",
    [b"", b'{"m":', b'{"m":[', b'{"m":[{"metric":{},"values":', b'{"m":[{"metric":{},"values":[[1,'],
    ids=["document", "metric", "series", "values", "value"],
)
@pytest.mark.parametrize("opening", [b"[", b'{"m":'], ids=["lists", "objects"])
def test_huge_nesting(start: bytes, opening: bytes, depth: int) -> None:
    assert refusal(start + opening * depth, name="Monday").startswith("Monday: ")
    if opening == b"[":
        closing = {b"": b"", b'{"m":': b"}", b'{"m":[': b"]}"}.get(start, b"}]}")
        refusal(start + b"[" * depth + b"]" * depth + closing)


def test_a_name_with_line_breaks_gives_one_line() -> None:
    refusal(json.dumps({"first\nsecond": [{"metric": {}, "values": [[1, "x"]]}]}).encode())


def test_a_long_value_is_not_repeated_in_full() -> None:
    assert len(refusal(one_series([1, "x" * 100_000]))) < 500


@pytest.mark.parametrize(
    "source", [{"m": object()}, {"m": {1}}, {"m": 5}, {"m": [{"metric": {"a": "\ud800"}, "values": []}]}]
)
def test_a_dict_of_another_shape(source: dict[str, Any]) -> None:
    refusal(source)


def test_a_dict_that_holds_itself() -> None:
    endless: dict[str, Any] = {}
    endless["m"] = endless
    refusal(endless)


def test_not_gzip(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(ENCODED)
    assert refusal(path).startswith(f"{path}: not gzip")


@pytest.mark.parametrize("kept", [2, 5, 10, 40, -8, -1])
def test_truncated_gzip(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(ENCODED)[:kept])
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert "gzip" in message


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    packed = bytearray(gzip.compress(ENCODED))
    packed[-6] ^= 0xFF  # in the checksum
    path.write_bytes(packed)
    assert "gzip" in refusal(path)
    path.write_bytes(gzip.compress(ENCODED) + b"more")
    assert "gzip" in refusal(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert refusal(path) == f"{path}: No such file or directory"
    assert refusal(tmp_path).startswith(f"{tmp_path}: ")


def test_too_large_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 10_000)
    packed, plain = tmp_path / "r.json.gz", tmp_path / "r.json"
    packed.write_bytes(gzip.compress(b" " * 1_000_000))
    plain.write_bytes(b" " * 10_001)
    assert "more than 10000 bytes" in refusal(packed)
    assert "larger than 10000 bytes" in refusal(plain)


# --- any bytes ------------------------------------------------------------------------------------


def taken_or_refused(content: bytes) -> None:
    try:
        recording = read_recording(content, name="Monday")
    except RecordingError:
        return
    for metric in recording.metrics.values():
        assert np.isfinite(metric.values).all()


@given(st.binary(max_size=200) | st.binary(max_size=50).map(b"\x1f\x8b\x08\x00".__add__))
def test_any_bytes(content: bytes) -> None:
    taken_or_refused(content)


@settings(max_examples=400)
@given(st.data())
def test_any_damage_to_a_recording(data: st.DataObject) -> None:
    answer = {"status": "success", "data": {"result": [{"metric": {"__name__": "m"}, "values": [[1, "2"], [2, "3"]]}]}}
    content = data.draw(st.sampled_from([ENCODED, json.dumps(answer).encode(), gzip.compress(ENCODED, mtime=0)]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 4) | st.just(len(content)))
        # brackets, quotes and digits break a document in more places than random bytes do
        new = data.draw(st.binary(max_size=3) | st.text('[]{},:"01.eE-+ \\n', max_size=3).map(str.encode))
        content = content[:at] + new + content[at + length :]
    taken_or_refused(content)


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
def test_any_json(document: Any) -> None:
    # the json module writes NaN and Infinity, which JSON does not have: refused as well
    taken_or_refused(json.dumps(document).encode())


# --- the same as a plain parser -------------------------------------------------------------------


def plain_reading(content: bytes) -> tuple[dict[str, Samples], dict[str, int], dict[str, int]]:
    """Samples, not-finite and repeated samples by metric, the plain way."""
    samples: dict[str, Samples] = {}
    not_finite: dict[str, int] = {}
    repeated: dict[str, int] = {}
    for name, series in json.loads(content).items():
        samples[name], not_finite[name], repeated[name] = [], 0, 0
        for item in series:
            seen: dict[float, float] = {}
            for timestamp, text in item["values"]:
                value = math.nan if text is None else float(text)
                if not math.isfinite(value):
                    not_finite[name] += 1
                elif float(timestamp) in seen:
                    repeated[name] += 1
                else:
                    seen[float(timestamp)] = value
            samples[name].append((item["metric"], sorted(seen.items())))
    return samples, not_finite, repeated


finite = st.floats(allow_nan=False, allow_infinity=False)
json_number = st.one_of(
    finite.map(repr),
    st.integers(-(10**25), 10**25).map(str),
    st.builds("{:.3f}".format, st.floats(-1e9, 1e9)),
    st.builds("{:.10e}".format, finite),
    st.builds("{:G}".format, finite),
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
label = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
space = st.sampled_from(["", "", " ", "\n", "\t ", "\r\n"])


@st.composite
def recording_texts(draw: st.DrawFn) -> bytes:
    """A valid recording as text, however strangely written."""
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
def test_every_spelling_gives_what_a_plain_parser_gives(content: bytes) -> None:
    samples, not_finite, repeated = plain_reading(content)
    recording = read_recording(content)
    assert all_samples(recording) == samples
    assert {name: metric.not_finite for name, metric in recording.metrics.items()} == not_finite
    assert {name: metric.repeated for name, metric in recording.metrics.items()} == repeated
