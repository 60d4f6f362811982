"""Texts that are much alike, kept small: a store may have ten thousand models' metadata in memory."""

from __future__ import annotations

import zlib

import attrs

_FAST = 1


@attrs.frozen(eq=False)
class PackedText:
    """A text, compressed with another one as a dictionary."""

    _content: bytes
    _like: bytes

    def unpack(self) -> bytes:
        """The text."""
        unpacker = zlib.decompressobj(zdict=self._like)
        return unpacker.decompress(self._content) + unpacker.flush()


class Packer:
    """Packs texts with the first one as the dictionary of all."""

    def __init__(self) -> None:
        self._like = b""

    def __call__(self, text: bytes) -> PackedText:
        # zlib looks back 32 KiB at most
        self._like = self._like or text[:32768]
        packer = zlib.compressobj(_FAST, zdict=self._like)
        return PackedText(packer.compress(text) + packer.flush(), self._like)
