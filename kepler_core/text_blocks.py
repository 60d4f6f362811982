"""Texts that are much alike, kept small: a store may have ten thousand models' metadata in memory."""

from __future__ import annotations

import zlib
from itertools import accumulate

import attrs

_FAST = 1
_TEXTS = 8
"""So many are compressed as one: more would take less memory, and longer to get one of them out."""


@attrs.define(eq=False)
class _Block:
    """Texts that are compressed together, once there are `_TEXTS` of them."""

    texts: list[bytes] = attrs.field(factory=list)
    packed: bytes = b""
    ends: tuple[int, ...] = ()

    def add(self, text: bytes) -> int:
        """Its number in the block."""
        self.texts.append(text)
        return len(self.texts) - 1

    @property
    def full(self) -> bool:
        return len(self.texts) >= _TEXTS

    def close(self) -> None:
        self.ends = tuple(accumulate(map(len, self.texts)))
        self.packed = zlib.compress(b"".join(self.texts), _FAST)
        self.texts = []

    def text(self, number: int) -> bytes:
        # taken once: closing sets `packed` before it lets the texts go
        texts = self.texts
        if texts:
            return texts[number]
        return zlib.decompress(self.packed)[self.ends[number - 1] if number else 0 : self.ends[number]]


@attrs.frozen(eq=False)
class PackedText:
    """A text, compressed together with others."""

    _block: _Block
    _number: int

    def unpack(self) -> bytes:
        """The text."""
        return self._block.text(self._number)


class Packer:
    """Packs texts, those that come after each other together."""

    def __init__(self) -> None:
        self._block = _Block()

    def __call__(self, text: bytes) -> PackedText:
        block = self._block
        found = PackedText(block, block.add(text))
        if block.full:
            block.close()
            self._block = _Block()
        return found
