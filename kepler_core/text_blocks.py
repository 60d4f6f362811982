"""Similar texts, compressed together to save memory.

A model store may keep the metadata of ten thousand models in memory. Several such texts that are compressed
together take a fraction of the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import attrs

_COMPRESSION_LEVEL = 1
_STORED_COMPRESSION_LEVEL = 6
"""Compression level of blocks that are written to a file once, and read often."""
_TEXTS_PER_BLOCK = 8
"""Number of texts that are compressed together. More texts would save memory, but make reading one text slower."""


@attrs.define(eq=False)
class _Block:
    """Texts that are compressed together as soon as the block has `_TEXTS_PER_BLOCK` texts."""

    texts: list[bytes] = attrs.field(factory=list)
    packed: bytes = b""
    ends: tuple[int, ...] = ()

    def add(self, text: bytes) -> int:
        """Add a text and return its index in the block."""
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
        # Another thread may close the block while this method runs. `close` sets `packed` before it empties `texts`, so
        # reading `texts` once is safe without a lock.
        texts = self.texts
        if texts:
            return texts[number]
        # The limit matters only for blocks from a file: such a block may be larger than it states.
        joined = zlib.decompressobj().decompress(self.packed, self.ends[-1])
        return joined[self.ends[number - 1] if number else 0 : self.ends[number]]


@attrs.frozen(eq=False)
class PackedText:
    """Handle of a text that a `Packer` has packed; `unpack` returns the text."""

    _block: _Block
    _number: int

    def unpack(self) -> bytes:
        """Return the text that was packed."""
        return _unpack(self._block, self._number)


def packed_blocks(texts: Sequence[bytes]) -> list[tuple[bytes, list[int]]]:
    """Compress texts in blocks. Return the blocks, each with the positions (in bytes) at which its texts end."""
    blocks = [texts[at : at + _TEXTS_PER_BLOCK] for at in range(0, len(texts), _TEXTS_PER_BLOCK)]
    return [
        (zlib.compress(b"".join(block), _STORED_COMPRESSION_LEVEL), list(accumulate(map(len, block))))
        for block in blocks
    ]


def texts_of_block(packed: bytes, ends: Sequence[int]) -> list[PackedText]:
    """Return a `PackedText` for each text in a block. The function `packed_blocks` has made the block."""
    block = _Block(packed=packed, ends=tuple(ends))
    return [PackedText(block, number) for number in range(len(ends))]


@lru_cache(maxsize=256)
def _unpack(block: _Block, number: int) -> bytes:
    # The texts of the models that many clients get are unpacked once. The cache has references to blocks, not to
    # models, so a catalogue that is no longer used can be freed.
    return block.text(number)


class Packer:
    """Packs texts into compressed blocks, in the order in which the texts are added."""

    def __init__(self) -> None:
        self._block = _Block()

    def __call__(self, text: bytes) -> PackedText:
        """Add a text and return its handle. The text is stored uncompressed until its block is full."""
        block = self._block
        packed_text = PackedText(block, block.add(text))
        if block.full:
            block.close()
            self._block = _Block()
        return packed_text


class Unpacked(Packer):
    """A packer that does not compress the texts. Use it for texts that are needed only for a short time."""

    def __call__(self, text: bytes) -> PackedText:
        return PackedText(_Block([text]), 0)
