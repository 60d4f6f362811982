"""Reader of the fields of protobuf messages, for the part of the wire format that ONNX graphs of trees use.

Resident processes such as the estimator use this reader instead of the `onnx` package, because the package
takes too much memory. Malformed messages raise `ValueError` or `IndexError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

Field = tuple[int, bytes | int]
"""A field of a protobuf message: its number and its value.

The value is an integer, or the bytes of a string, of a submessage or of a number with fixed size.
"""

_INTEGERS_FIELD = 8
_INTEGER = re.compile(rb"@([\x80-\xff]{0,9}[\x00-\x7f])")
"""Pattern of one integer: the key 0x40 ("@") and a varint. It is in field 8, an ONNX attribute's list of integers."""
_INTEGERS = re.compile(rb"(?:@[\x80-\xff]{0,9}[\x00-\x7f])+")


def fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a message in their order.

    Consecutive integers in field 8 are yielded as one field with packed integers. Such integers are the
    largest part of a graph, and a regular expression finds them much faster than a loop over bytes.
    """
    position = 0
    while position < len(message):
        if integers := _INTEGERS.match(message, position):
            yield _INTEGERS_FIELD, b"".join(_INTEGER.findall(integers[0]))
            position = integers.end()
            continue
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("truncated")
        yield key >> 3, message[position : position + length]
        position += length


def unpack_integers(varints: bytes) -> list[int]:
    """Decode consecutive varints."""
    data = np.frombuffer(varints, dtype=np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not data.size:
        return []
    if not ends.size or ends[-1] != data.size - 1:
        raise ValueError("truncated")
    starts = np.concatenate([[0], ends[:-1] + 1])
    longest = int((ends - starts).max()) + 1
    if longest > 10:
        raise ValueError("a varint of more than ten bytes")
    numbers = np.zeros(len(ends), dtype=np.int64)
    for byte in range(longest):
        long_enough = np.flatnonzero(starts + byte <= ends)
        numbers[long_enough] |= (data[starts[long_enough] + byte] & 0x7F).astype(np.int64) << (7 * byte)
    integers: list[int] = numbers.tolist()
    return integers


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Decode the varint at a position. Return its value and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")
