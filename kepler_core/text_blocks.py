"""Compressed blocks of similar texts.

A store may have the metadata of ten thousand models in memory. Compressed together with its neighbours,
such a text takes a fraction of its size.
"""

from __future__ import annotations

import zlib
from itertools import accumulate

import attrs

_COMPRESSION_LEVEL = 1
_TEXTS_PER_BLOCK = 8
"""More texts per block would take less memory, but reading one of them would take longer."""


@attrs.define(eq=False)
class _Block:
    """Texts that are compressed together, once the block is full."""

    texts: list[bytes] = attrs.field(factory=list)
    packed: bytes = b""
    ends: tuple[int, ...] = ()

    def add(self, text: bytes) -> int:
        """Add a text and return its number in the block."""
        self.texts.append(text)
        return len(self.texts) - 1

    @property
    def full(self) -> bool:
        return len(self.texts) >= _TEXTS_PER_BLOCK

    def close(self) -> None:
        """Compress the texts."""
        self.ends = tuple(accumulate(map(len, self.texts)))
        self.packed = zlib.compress(b"".join(self.texts), _COMPRESSION_LEVEL)
        self.texts = []

    def text(self, number: int) -> bytes:
        # Another thread may close the block meanwhile. `close` sets `packed` before it empties `texts`,
        # so reading `texts` once is safe without a lock.
        texts = self.texts
        if texts:
            return texts[number]
        return zlib.decompress(self.packed)[self.ends[number - 1] if number else 0 : self.ends[number]]


@attrs.frozen(eq=False)
class PackedText:
    """A text in a compressed block."""

    _block: _Block
    _number: int

    def unpack(self) -> bytes:
        """Return the text."""
        return self._block.text(self._number)


class Packer:
    """Packs texts into blocks, in the order in which they are added."""

    def __init__(self) -> None:
        self._block = _Block()

    def __call__(self, text: bytes) -> PackedText:
        """Add a text. Until its block is full, it is stored uncompressed."""
        block = self._block
        packed_text = PackedText(block, block.add(text))
        if block.full:
            block.close()
            self._block = _Block()
        return packed_text
