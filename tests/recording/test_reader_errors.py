"""Test that malformed recordings are rejected with a one-line error that names the malformed part.

Malformed series are left out and counted if other series can be used.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.recording_json import ENCODED, SAMPLES, all_samples

from kepler_core.errors import RecordingError
from kepler_core.recording import reader
from kepler_core.recording.reader import read_recording


def rejection(source: Any, **arguments: Any) -> str:
    """Read a malformed source, check that the error is a single line, and return the error's text."""
    with pytest.raises(RecordingError) as caught:
        read_recording(source, **arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


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
}


MALFORMED_VALUES = {
    "null": b"null",
    "number": b"5",
    "object": b"{}",
    "string": b'"1"',
    "numbers, not pairs": b"[1,2]",
    "no value": b"[[1]]",
    "three": b'[[1,"2",3]]',
    "pair is an object": b'[{"t":1,"v":"2"}]',
    "value is a list": b"[[1,[2]]]",
    "value is true": b"[[1,true]]",
    "value not UTF-8": b'[[1,"\xff"]]',
    "timestamp is null": b'[[null,"2"]]',
    "timestamp is true": b'[[true,"2"]]',
    "timestamp is a list": b'[[[],"2"]]',
    "timestamp is too large": b'[[1e999,"2"]]',
    "timestamps in milliseconds": b'[[1700000000000,"2"]]',
    "timestamp is negative": b'[[-5,"2"]]',
}
"""Malformed samples of a series. The reader leaves out the whole series. A key describes the fault."""


NOT_NUMBERS = {
    "a word": b'"many"',
    "empty": b'""',
    "blank": b'" "',
    "two numbers": b'"1 2"',
    "a comma": b'"1,5"',
    "a unit": b'"5W"',
    "underscores": b'"1_000"',
    "hexadecimal": b'"0x10"',
}
"""Texts that are not numbers. The reader leaves out a sample with such a timestamp or value."""


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_content_that_is_not_json_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    message = rejection(path)
    assert message.startswith(f"{path}: ")
    assert "not JSON" in message
    assert rejection(content, name="Monday").startswith("Monday: ")


@pytest.mark.parametrize("content", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_json_of_another_shape_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    message = rejection(path)
    assert message.startswith(f"{path}: ")
    assert "values" in message  # the error message shows the expected JSON


def with_a_series(values: bytes) -> bytes:
    """Return a recording in which the third series of the metric "broken" has the malformed samples `values`.

    All other series are good.
    """
    good = b'{"metric":{},"values":[[1,"2"]]}'
    return b'{"good":[%s],"broken":[%s,%s,{"metric":{"id":"x"},"values":%s}]}' % (good, good, good, values)


@pytest.mark.parametrize("values", MALFORMED_VALUES.values(), ids=MALFORMED_VALUES)
def test_a_series_with_malformed_samples_is_left_out_and_counted(values: bytes) -> None:
    recording = read_recording(with_a_series(values))
    assert {name: metric.n_series for name, metric in recording.metrics.items()} == {"good": 1, "broken": 2}
    assert recording.malformed_series == {"broken": 1}
    example = recording.malformed_examples["broken"]
    assert example.startswith(("broken[2]", "[2]"))
    assert len(example.splitlines()) == 1


@pytest.mark.parametrize("value", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_a_sample_that_is_no_number_is_left_out_and_counted(value: bytes) -> None:
    for pair in (b"[2,%s]" % value, b'[%s,"20"]' % value):
        metric = read_recording(with_a_series(b'[[1,"10"],%s,[3,"30"]]' % pair)).metrics["broken"]
        assert metric.values[metric.series == 2].tolist() == [10, 30]
        assert metric.not_finite == 1


@pytest.mark.parametrize("series", [b"null", b"5", b"{}", b'{"metric":{"a":1},"values":[]}', b'{"metric":{}}'])
def test_a_malformed_series_is_left_out_and_counted(series: bytes) -> None:
    recording = read_recording(ENCODED.replace(b'"cpu": [', b'"cpu": [%s,' % series))
    assert all_samples(recording) == SAMPLES
    assert recording.malformed_series == {"cpu": 1}
    assert recording.malformed_examples["cpu"].startswith("[0]")


@pytest.mark.parametrize("metric", [b"null", b"5", b"{}", b'"x"'])
def test_a_malformed_metric_is_left_out_and_counted(metric: bytes) -> None:
    recording = read_recording(ENCODED.replace(b"{", b'{"gpu": %s,' % metric, 1))
    assert all_samples(recording) == SAMPLES
    assert recording.malformed_series == {"gpu": 1}


@pytest.mark.parametrize("values", [b"5", b"[[1700000000000,1]]"])
def test_a_recording_is_rejected_if_every_series_is_malformed(values: bytes) -> None:
    message = rejection(b'{"m":[{"metric":{},"values":%s},null]}' % values, name="Monday")
    assert message.startswith("Monday: ")
    assert "2 malformed series, e.g. m" in message


@pytest.mark.parametrize("series", [b"1", b"[1]", b"[{}]", b'[{"metric":{"a":1},"values":[]}]'])
def test_the_error_names_a_metric_of_another_shape(series: bytes) -> None:
    assert "broken" in rejection(b'{"good":[],"broken":%s}' % series)


@pytest.mark.parametrize(
    "content",
    [
        b'{"m": 1',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"m"},"values":[[1,"2"',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"\xff"},"values":[]}]}}',
    ],
    ids=["number", "API answer", "API answer not UTF-8"],
)
def test_json_of_another_shape_with_a_later_syntax_error_is_rejected(content: bytes) -> None:
    assert rejection(content, name="Monday").startswith("Monday: ")


@pytest.mark.parametrize("depth", [2_000, 200_000])
@pytest.mark.parametrize(
    "start",
    [b"", b'{"m":', b'{"m":[', b'{"m":[{"metric":{},"values":', b'{"m":[{"metric":{},"values":[[1,'],
    ids=["document", "metric", "series", "values", "value"],
)
@pytest.mark.parametrize("opening", [b"[", b'{"m":'], ids=["lists", "objects"])
def test_deep_nesting_is_rejected(start: bytes, opening: bytes, depth: int) -> None:
    assert rejection(start + opening * depth, name="Monday").startswith("Monday: ")
    if opening == b"[":
        closing = {b"": b"", b'{"m":': b"}", b'{"m":[': b"]}"}.get(start, b"}]}")
        rejection(start + b"[" * depth + b"]" * depth + closing)


def test_a_metric_name_with_line_breaks_is_shown_on_one_line() -> None:
    rejection(json.dumps({"first\nsecond": [{"metric": {}, "values": [[1, []]]}]}).encode())


def test_a_long_value_is_shortened_in_the_error() -> None:
    assert len(rejection(b'{"m":[{"metric":{},"values":[[1,{"%s":1}]]}]}' % (b"x" * 100_000))) < 500


@pytest.mark.parametrize(
    "source", [{"m": object()}, {"m": {1}}, {"m": 5}, {"m": [{"metric": {"a": "\ud800"}, "values": []}]}]
)
def test_a_dict_of_another_shape_is_rejected(source: dict[str, Any]) -> None:
    rejection(source)


def test_a_dict_that_contains_itself_is_rejected() -> None:
    endless: dict[str, Any] = {}
    endless["m"] = endless
    rejection(endless)


def test_a_gz_file_that_is_not_gzip_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(ENCODED)
    assert rejection(path).startswith(f"{path}: not gzip")


@pytest.mark.parametrize("kept", [2, 5, 10, 40, -8, -1])
def test_truncated_gzip_is_rejected(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(ENCODED)[:kept])
    message = rejection(path)
    assert message.startswith(f"{path}: ")
    assert "gzip" in message


def test_damaged_gzip_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "r.json.gz"
    packed = bytearray(gzip.compress(ENCODED))
    packed[-6] ^= 0xFF  # damages the checksum
    path.write_bytes(packed)
    assert "gzip" in rejection(path)
    path.write_bytes(gzip.compress(ENCODED) + b"more")
    assert "gzip" in rejection(path)


def test_a_missing_file_and_a_folder_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert rejection(path) == f"{path}: No such file or directory"
    assert rejection(tmp_path).startswith(f"{tmp_path}: ")


def test_a_recording_that_is_too_large_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 10_000)
    packed, plain = tmp_path / "r.json.gz", tmp_path / "r.json"
    packed.write_bytes(gzip.compress(b" " * 1_000_000))
    plain.write_bytes(b" " * 10_001)
    assert "more than 10000 bytes" in rejection(packed)
    assert "larger than 10000 bytes" in rejection(plain)


def test_many_empty_gzip_members_are_rejected() -> None:
    """A file with very many empty members is rejected, because each member needs a new decompressor."""
    packed = gzip.compress(ENCODED) + gzip.compress(b"") * 100_000
    assert "damaged gzip file (1025 gzip members hold only" in rejection(packed, name="Monday")


def test_a_gzip_file_in_members_is_read(tmp_path: Path) -> None:
    middle = len(ENCODED) // 2
    packed = gzip.compress(ENCODED[:middle]) + bytes(7) + gzip.compress(ENCODED[middle:]) + bytes(9)
    assert read_recording(packed).digest == read_recording(ENCODED).digest
    assert "damaged gzip" in rejection(packed + b"x", name="Monday")


@pytest.mark.parametrize("length", range(1, 40))
def test_a_gzip_file_that_is_cut_is_rejected(length: int) -> None:
    assert "damaged gzip" in rejection(gzip.compress(ENCODED)[:-length], name="Monday")
