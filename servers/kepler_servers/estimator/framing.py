"""Where a request ends: clients send one JSON object, no delimiter, and keep the connection open."""

from __future__ import annotations

import re

import numpy as np

_BLANK = b" \t\r\n"
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"\\{}'


class NotAnObjectError(ValueError):
    """What was sent is not the beginning of a JSON object."""


class RequestBuffer:
    """Bytes as they come in, until one JSON object is complete.

    Each piece is looked at once, as a whole: no byte takes a step of its own, whatever it is. Only
    braces and strings are followed: whether it is JSON at all is the decoder's business.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._begun = False
        self._depth = 0
        self._in_string = False
        self._after_backslash = False

    def __len__(self) -> int:
        return len(self.data)

    def feed(self, piece: bytes) -> int | None:
        """Add what came in; the length of the object once it is complete. `NotAnObjectError`."""
        start = len(self.data)
        self.data += piece
        if not self._begun:
            rest = piece.lstrip(_BLANK)
            if not rest:
                return None
            if rest[0] != _OPEN:
                raise NotAnObjectError(f"expected '{{', got byte 0x{rest[0]:02x}")
            self._begun = True
            start += len(piece) - len(rest)
            piece = rest
        end = self._scan(piece) if piece else None
        return None if end is None else start + end

    def _scan(self, piece: bytes) -> int | None:
        """How far into the piece the object reaches, if it ends there."""
        if self._after_backslash:
            piece = b"_" + piece[1:]
            self._after_backslash = False
        backslashes = None
        if b"\\" in piece:
            backslashes = np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == _BACKSLASH)
            piece = _ESCAPED.sub(b"__", piece)
            self._after_backslash = piece.endswith(b"\\")
        found = np.frombuffer(piece, dtype=np.uint8)
        quotes = found == _QUOTE
        strings = np.logical_xor.accumulate(quotes) ^ self._in_string
        braces = (found == _OPEN).astype(np.int32)
        braces -= found == _CLOSE
        braces[strings] = 0  # those within strings; the quotes themselves are no braces
        depth = np.cumsum(braces) + self._depth
        ends = np.flatnonzero((depth == 0) & (braces < 0))
        if backslashes is not None and len(outside := backslashes[~strings[backslashes]]):
            # up to there it was read rightly
            if len(ends) and ends[0] < outside[0]:
                return int(ends[0]) + 1
            raise NotAnObjectError("a backslash outside of a text")
        if len(ends):
            return int(ends[0]) + 1
        self._in_string = bool(strings[-1])
        self._depth = int(depth[-1])
        return None
