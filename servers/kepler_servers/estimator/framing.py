"""Find the end of a request in the bytes that a client sends.

Kepler sends one JSON object without a delimiter after it, and keeps the connection open. So only the
JSON text itself shows where the request ends.
"""

from __future__ import annotations

import re

import numpy as np

_BLANKS = b" \t\r\n"
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"\\{}'


class NotAnObjectError(ValueError):
    """Error for received bytes that cannot be the beginning of a JSON object."""


class RequestBuffer:
    """Buffer that collects received bytes until they contain one complete JSON object.

    The buffer scans each received byte once, with array operations. So no content can make the scan slow.
    The scan only counts braces outside of strings. The decoder finds all other errors of the JSON later.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._started = False
        self._depth = 0
        self._in_string = False
        self._after_backslash = False

    def __len__(self) -> int:
        return len(self.data)

    def feed(self, piece: bytes) -> int | None:
        """Add received bytes. Return the number of bytes up to the object's end; None if the object is incomplete.

        Raises `NotAnObjectError` if the bytes cannot be the beginning of a JSON object.
        """
        start = len(self.data)
        self.data += piece
        if not self._started:
            rest = piece.lstrip(_BLANKS)
            if not rest:
                return None
            if rest[0] != _OPEN:
                raise NotAnObjectError(f"expected '{{', got byte 0x{rest[0]:02x}")
            self._started = True
            start += len(piece) - len(rest)
            piece = rest
        end = self._scan(piece) if piece else None
        return None if end is None else start + end

    def _scan(self, piece: bytes) -> int | None:
        """Return the position after the object's closing brace in `piece`; None if the object does not end in
        `piece`."""
        if self._after_backslash:
            piece = b"_" + piece[1:]
            self._after_backslash = False
        backslashes = None
        if b"\\" in piece:
            backslashes = np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == _BACKSLASH)
            piece = _ESCAPED.sub(b"__", piece)
            self._after_backslash = piece.endswith(b"\\")
        received = np.frombuffer(piece, dtype=np.uint8)
        quotes = received == _QUOTE
        in_string = np.logical_xor.accumulate(quotes) ^ self._in_string
        braces = (received == _OPEN).astype(np.int32)
        braces -= received == _CLOSE
        braces[in_string] = 0
        depth = np.cumsum(braces) + self._depth
        ends = np.flatnonzero((depth == 0) & (braces < 0))
        if backslashes is not None and len(outside := backslashes[~in_string[backslashes]]):
            # A backslash outside of a string is an error, unless it comes after the end of the object.
            if len(ends) and ends[0] < outside[0]:
                return int(ends[0]) + 1
            raise NotAnObjectError("a backslash outside of a string")
        if len(ends):
            return int(ends[0]) + 1
        self._in_string = bool(in_string[-1])
        self._depth = int(depth[-1])
        return None
