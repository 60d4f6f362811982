"""Snapshots of pipelines: each snapshot reads the files of one version of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import attrs

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import StoreError
from kepler_core.models.power_model import max_bytes_of
from kepler_core.store.documents import check_document
from kepler_core.store.manifest import MANIFEST_FILE, FileRecord, Manifest

_READER_THREADS = 16


@attrs.frozen(eq=False)
class Snapshot:
    """The files of one version of a pipeline. Versions that are published later do not change a snapshot."""

    pipeline: str
    version: int | None
    """Number of the version; None if Kepler Core did not publish the pipeline."""
    where: str
    """The snapshot's folder or URL, for messages."""
    manifest: Manifest | None
    """Sizes and digests that the files must have; None if the pipeline has no manifest."""
    names: frozenset[str]
    """Paths of all files below the pipeline, with `/` between folders."""
    _read: Callable[[str, int], bytes]
    """Function that returns the content of a file, given the file's path and the maximum number of bytes. It raises
    `StoreError` if the file is larger."""
    folder: Path | None = None
    """The snapshot's folder if the store is in the local file system; None otherwise."""

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return a file's content.

        Raises `StoreError` if the file is missing, differs from the manifest, or is larger than `max_bytes`. The
        default of `max_bytes` is `max_bytes_of(name)`.
        """
        if name not in self.names:
            raise StoreError(f"{self.where}: no file {name}")
        if self.manifest is None or name == MANIFEST_FILE:
            return self._read(name, max_bytes_of(name) if max_bytes is None else max_bytes)
        if (record := self.manifest.files.get(name)) is None:
            raise StoreError(f"{self.where}: {name} is not in the manifest: not a file of the published version")
        return self.read_as(name, record, max_bytes)

    def read_as(self, name: str, record: FileRecord, max_bytes: int | None = None) -> bytes:
        """Return a file's content, or raise `StoreError` if it differs from the size and digest in `record`."""
        content = self._read(name, max_bytes_of(name) if max_bytes is None else max_bytes)
        if (problem := record.problem(content)) is not None:
            raise StoreError(f"{self.where}: {name} {problem}: damaged or half copied")
        return content

    def bare(self) -> Snapshot:
        """Return a copy of the snapshot without manifest and names. The copy takes less memory.

        Only the method `read_as` can read files from the copy.
        """
        return attrs.evolve(self, manifest=None, names=frozenset())

    def with_names(self, names: Iterable[str]) -> Snapshot:
        """Return a copy of the snapshot that has only the files with the paths `names`."""
        return attrs.evolve(self, names=frozenset(names))

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield each file's name and content, in the order of `names`. Files of remote stores are read in parallel."""
        if self.folder is not None:
            for name in names:
                yield name, self.read(name)
            return
        remaining = iter(names)
        with ThreadPoolExecutor(_READER_THREADS) as pool:
            # read a limited number of files at a time, because all files of a pipeline may not fit into memory
            while window := list(islice(remaining, 4 * _READER_THREADS)):
                yield from zip(window, pool.map(self.read, window), strict=True)

    def problems(self) -> dict[str, str]:
        """Read every file in the pipeline's folder and in its manifest; return the problems by file name.

        A document that does not fit its schema is a problem too, even if it agrees with the manifest.
        """

        def problem(name: str) -> str | None:
            try:
                content = self.read(name)
                if name != MANIFEST_FILE:
                    check_document(name, content, self.where)
            except StoreError as error:
                return str(error)
            return None

        names = sorted(self.names | set(self.manifest.files if self.manifest is not None else ()))
        with ThreadPoolExecutor(1 if self.folder is not None else _READER_THREADS) as pool:
            return {name: why for name, why in zip(names, pool.map(problem, names), strict=True) if why is not None}

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file, or raise `StoreError` if the file is missing or contains no JSON object."""
        try:
            return decode_object(self.read(name))
        except DocumentError as error:
            raise StoreError(f"{self.where}: {name} is damaged: {error}") from error

    def check_complete(self) -> None:
        """Raise `StoreError` if a file that the manifest lists is missing."""
        if self.manifest is not None and (missing := sorted(set(self.manifest.files) - self.names)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise StoreError(f"{self.where}: half copied: {missing[0]}{more} is in the manifest, but is missing")
