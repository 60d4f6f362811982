"""Recordings that are rejected, with an error of one line that names the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.recording_json import ENCODED, one_series

from kepler_core.errors import RecordingError
from kepler_core.recording import reader
from kepler_core.recording.reader import read_recording


def rejection(source: Any, **arguments: Any) -> str:
    """Return the error with which a source is rejected, which must be one line."""
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
    assert "values" in message  # the error shows the expected shape


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_values_of_another_shape_are_rejected(values: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    good = b'{"metric":{},"values":[[1,"2"]]}'
    path.write_bytes(b'{"good":[%s],"broken":[%s,%s,{"metric":{},"values":%s}]}' % (good, good, good, values))
    message = rejection(path)
    assert message.startswith(f"{path}: ")
    assert "broken[2]" in message


def test_the_error_names_the_path_of_a_wrong_number() -> None:
    assert "m[0].values[2]" in rejection(one_series([1, "1"], [2, "2"], [3, "three"]))


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
    rejection(json.dumps({"first\nsecond": [{"metric": {}, "values": [[1, "x"]]}]}).encode())


def test_a_long_value_is_shortened_in_the_error() -> None:
    assert len(rejection(one_series([1, "x" * 100_000]))) < 500


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
    packed[-6] ^= 0xFF  # in the checksum
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
