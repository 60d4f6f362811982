"""Gzip files that have the same bytes whenever they are written."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from typing import BinaryIO

_LEVEL = 6


@contextlib.contextmanager
def compressed_by_name(raw: BinaryIO, name: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open a file for writing that is compressed if `name` ends in .gz, and plain otherwise.

    The gzip header holds neither a name nor a time, so that equal content gives equal bytes.
    """
    if not name.endswith(".gz"):
        yield raw
        return
    with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as file:
        yield file
