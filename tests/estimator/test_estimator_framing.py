"""Tests that the estimator finds the end of a request for any content, and for any division of it into pieces."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_servers.estimator.framing import NotAnObjectError, RequestBuffer

# Texts in which the end of a request is hard to find: with braces, quotes, backslashes and multi-byte characters.
_texts = st.text(alphabet=st.sampled_from('{}[]"\\/:, \n\t\0abué€😀'), max_size=12)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)
_objects = st.dictionaries(_texts, _values, max_size=5)
_blanks = st.text(alphabet=" \t\r\n", max_size=5).map(str.encode)


def end_of(data: bytes, cuts: list[int]) -> int | None:
    """Cut the data at the positions `cuts`, and feed the pieces to a buffer. Return where the buffer finds the end."""
    buffer = RequestBuffer()
    bounds = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in itertools.pairwise(bounds):
        if (length := buffer.feed(data[start:end])) is not None:
            return length
    return None


@given(
    _objects,
    _blanks,
    st.booleans(),
    st.sampled_from([None, 0, 3]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 2000), max_size=8),
)
def test_an_object_is_complete_at_its_end_whatever_follows(
    document: Any, blank: bytes, ascii_only: bool, indent: int | None, after: bytes, cuts: list[int]
) -> None:
    encoded = blank + json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert end_of(encoded + after, cuts) == len(encoded)
    assert end_of(encoded[:-1], cuts) is None


@given(_objects, st.binary(max_size=5))
def test_the_end_is_found_byte_by_byte(document: Any, after: bytes) -> None:
    encoded = json.dumps(document, ensure_ascii=False).encode()
    buffer = RequestBuffer()
    lengths = [buffer.feed(encoded[at : at + 1]) for at in range(len(encoded))]
    assert lengths == [None] * (len(encoded) - 1) + [len(encoded)]
    assert bytes(buffer.data) == encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"{}",
        b'{"a":"}"}',
        b'{"a":"{"}',
        rb'{"a":"\""}',
        rb'{"a":"\\"}',
        rb'{"a":"\\\""}',
        rb'{"a":"\\\\","}":{"\\\"{":[]}}',
        rb'{"\u007d":"\u0022"}',
        b'{"a":"\x00\xff\xfe"}',
        b'{"a":{"b":{"c":{}}},"d":[{},{"e":{}}]}',
    ],
)
def test_braces_in_strings_do_not_count(encoded: bytes) -> None:
    for cut in range(len(encoded) + 1):
        assert end_of(encoded + b'}{"', [cut]) == len(encoded)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_only_data_that_starts_with_a_brace_is_an_object(data: bytes, cuts: list[int]) -> None:
    stripped = data.lstrip(b" \t\r\n")
    if stripped and not stripped.startswith(b"{"):
        with pytest.raises(NotAnObjectError, match=f"0x{stripped[0]:02x}"):
            end_of(data, cuts)
    else:
        end = end_of(data, cuts)
        assert end is None or data[end - 1 : end] == b"}"
        # The result does not depend on how the data is cut into pieces.
        assert end == end_of(data, [])


@given(st.text(alphabet='{}"\\ax', max_size=80), st.lists(st.integers(0, 80), max_size=6))
def test_the_end_is_that_of_a_simple_scan(text: str, cuts: list[int]) -> None:
    data = b"{" + text.encode()
    depth, in_string, escaped, end = 0, False, False, None
    for at, byte in enumerate(data.decode()):
        if in_string:
            in_string = escaped or byte != '"'
            escaped = not escaped and byte == "\\"
        elif byte == '"':
            in_string, escaped = True, False
        elif byte == "\\":
            with pytest.raises(NotAnObjectError, match="backslash"):
                end_of(data, cuts)
            return
        elif byte in "{}":
            depth += 1 if byte == "{" else -1
            if depth == 0:
                end = at + 1
                break
    assert end_of(data, cuts) == end


_SIZE = 20_000


@pytest.mark.parametrize("piece", [1, 7, 4096, _SIZE])
@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + b"x" * _SIZE,
        b'{"a":"' + b"\\" * _SIZE,
        b'{"a":"' + b'\\"' * (_SIZE // 2),
        b'{"a":"' + b"\\\\\\" * (_SIZE // 3) + b'"',
        b"{" * _SIZE,
        b'{"a":' + b"{}" * (_SIZE // 2),
        b'{"a":[' + b'"",' * (_SIZE // 3),
        b'{"a":[' + b'"{}",' * (_SIZE // 5),
        b'{"a":[' + b"1," * (_SIZE // 2),
        b" " * _SIZE,
        b"{" + b'"' * (_SIZE - 1),
        b"{" * (_SIZE // 2) + b"}" * (_SIZE // 2 - 1) + b'"' * 10,
    ],
    ids=lambda data: repr(data[:12]) + repr(data[-6:]),
)
def test_each_byte_is_scanned_once(data: bytes, piece: int) -> None:
    buffer = RequestBuffer()
    scanned = 0
    scan = buffer._scan

    def counting(part: bytes) -> int | None:
        nonlocal scanned
        scanned += len(part)
        return scan(part)

    buffer._scan = counting  # type: ignore[method-assign]
    for start in range(0, len(data), piece):
        buffer.feed(data[start : start + piece])
    assert scanned <= len(data)
    assert len(buffer) == len(data)
