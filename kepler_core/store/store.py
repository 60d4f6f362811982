"""What a model store is, wherever it lies.

    <store>/<pipeline>/   metadata.json, node_type_index.json, …_model_metadata.csv, manifest.json,
                          <source>/<output_type>/<feature_group>/<Trainer>_<node_type>.zip, …

A store keeps versions of its pipelines. Readers take a `Snapshot` of a pipeline: it stays one
version while they read, whatever is published meanwhile. A pipeline that somebody copied into the
store by hand is read too; it has no versions and no manifest, and is never written to.
"""

from __future__ import annotations

import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import attrs
import msgspec

from kepler_core.errors import StoreError
from kepler_core.names import check_name
from kepler_core.store.manifest import MANIFEST_FILE, FileRecord, Manifest

_DECISION = re.compile(r"[0-9]{14}-[0-9a-f]{8}\.json")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

_READERS = 16

DECISIONS = ".decisions"
MOST_DECISIONS = 500


@attrs.frozen(eq=False)
class Snapshot:
    """One version of one pipeline, for reading."""

    pipeline: str
    version: int | None
    """None: not published by Kepler Core."""
    where: str
    """For messages."""
    manifest: Manifest | None
    """What its files must be; None where nobody said."""
    names: frozenset[str]
    """All its files, by path below the pipeline, `/` between folders."""
    _read: Callable[[str], bytes]
    folder: Path | None = None
    """Where it is in the local file system, if it is."""

    def read(self, name: str) -> bytes:
        """A file's content, as its manifest has it; `StoreError` for one that is missing or damaged."""
        if name not in self.names:
            raise StoreError(f"{self.where}: no file {name}")
        if self.manifest is None or name == MANIFEST_FILE:
            return self._read(name)
        if (record := self.manifest.files.get(name)) is None:
            raise StoreError(f"{self.where}: {name} is not in the manifest: nobody published it")
        return self.read_as(name, record)

    def read_as(self, name: str, record: FileRecord) -> bytes:
        """A file's content, if it is what the record says."""
        content = self._read(name)
        if (problem := record.problem(content)) is not None:
            raise StoreError(f"{self.where}: {name} {problem}: damaged or half copied")
        return content

    def bare(self) -> Snapshot:
        """The same without manifest and names, which take memory where files are many: only `read_as`
        works."""
        return attrs.evolve(self, manifest=None, names=frozenset())

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and contents, in the order of the names; from a remote store several at a time."""
        if self.folder is not None:
            for name in names:
                yield name, self.read(name)
            return
        ordered = iter(names)
        with ThreadPoolExecutor(_READERS) as pool:
            # a window, not all at once: a pipeline may be larger than what is to be held in memory
            while window := list(islice(ordered, 4 * _READERS)):
                yield from zip(window, pool.map(self.read, window), strict=True)

    def problems(self) -> dict[str, str]:
        """What is wrong, by file name: every file that is there or should be is read."""

        def problem(name: str) -> str | None:
            try:
                self.read(name)
            except StoreError as error:
                return str(error)
            return None

        names = sorted(self.names | set(self.manifest.files if self.manifest is not None else ()))
        with ThreadPoolExecutor(1 if self.folder is not None else _READERS) as pool:
            return {name: why for name, why in zip(names, pool.map(problem, names), strict=True) if why is not None}

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object from a file."""
        try:
            return msgspec.json.decode(self.read(name), type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise StoreError(f"{self.where}: {name} is damaged: {error}") from error

    def check_complete(self) -> None:
        """`StoreError` where a file of the manifest is missing."""
        if self.manifest is not None and (missing := sorted(set(self.manifest.files) - self.names)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise StoreError(f"{self.where}: {missing[0]}{more} of the manifest is not there: half copied")


class Store(ABC):
    """Pipelines of models. Making the object touches nothing."""

    location: str
    """The folder or URL, for messages."""

    @abstractmethod
    def pipelines(self) -> list[str]:
        """Names of the pipelines that can be read, sorted. An absent store has none."""

    def exists(self) -> bool:
        """Whether the store is there at all, be it empty."""
        return True

    @abstractmethod
    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        """The pipeline's current version, or one that is kept; `StoreError` if there is none or it
        cannot be read."""

    @abstractmethod
    def signature(self, pipeline: str) -> str:
        """Changes when something else became current; cheap enough to ask every second."""

    @abstractmethod
    def versions(self, pipeline: str) -> list[int]:
        """Numbers of the versions that are kept, oldest first."""

    def next_version(self, pipeline: str) -> int:
        """The number that the next version gets."""
        return max(self.versions(pipeline), default=0) + 1

    @abstractmethod
    def current_version(self, pipeline: str) -> int | None:
        """The number of the version that is current; None if it was not published by us."""

    def publish(self, pipeline: str, files: Mapping[str, bytes], *, version: int | None = None) -> int:
        """Make these files (by path below the pipeline), and a manifest of them, the current version;
        its number. All or nothing: on any error the store is as it was.

        `version` is for files that build on earlier ones: the number that they must get, as
        `next_version` said before those were read; `VersionTakenError` if it is taken by now."""
        number = self._publish(pipeline, files, version)
        self._changed(pipeline, "publish", number)
        return number

    def roll_back(self, pipeline: str, version: int) -> None:
        """Make another version that is kept the current one."""
        self._roll_back(pipeline, version)
        self._changed(pipeline, "roll back", version)

    def _changed(self, pipeline: str, action: str, version: int) -> None:
        from kepler_core.plugins.hooks import events

        events().send(
            "kepler_store_changed", store=shown_url(self.location), pipeline=pipeline, action=action, version=version
        )

    @abstractmethod
    def _publish(self, pipeline: str, files: Mapping[str, bytes], version: int | None) -> int: ...

    @abstractmethod
    def _roll_back(self, pipeline: str, version: int) -> None: ...

    @abstractmethod
    def record_decision(self, pipeline: str, decision: Mapping[str, Any]) -> None:
        """Keep what was decided about a pipeline (JSON), published or not; the newest `MOST_DECISIONS` stay."""

    @abstractmethod
    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        """What was recorded and is kept, oldest first. Damaged records are left out."""

    @abstractmethod
    def check_writable(self, pipeline: str) -> None:
        """`StoreError` now rather than after an hour of training."""

    def no_such_version(self, pipeline: str, version: int) -> StoreError:
        """The error for a version that is not kept."""
        kept = ", ".join(map(str, self.versions(pipeline))) or "none"
        return StoreError(f"{self.location}: pipeline {pipeline!r} has no version {version} (kept: {kept})")

    def no_such_pipeline(self, pipeline: str) -> StoreError:
        """The error for a name that is not there."""
        known = ", ".join(self.pipelines()) or "none"
        return StoreError(f"{self.location}: no pipeline {pipeline!r} (there: {known})")


def decision_name() -> str:
    """A file name for a decision of now: names sort as the times do."""
    return f"{time.time_ns() // 1_000_000:014d}-{uuid.uuid4().hex[:8]}.json"


def is_decision(name: str) -> bool:
    """Whether a file holds a decision."""
    return _DECISION.fullmatch(name) is not None


def read_decision(content: bytes) -> dict[str, Any] | None:
    """A decision from its file; None for one that is damaged."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None


def is_url(location: str) -> bool:
    """Whether a store's location is a URL rather than a folder."""
    return _URL.match(location) is not None


def shown_url(url: str) -> str:
    """A URL for messages, without what may be secret: user, password, query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])


def split_url(url: str) -> SplitResult:
    """The parts of a URL; `StoreError` for one that is malformed."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise StoreError(f"{shown_url(url)}: not a URL: {error}") from error


def open_store(location: str) -> Store:
    """The store in a local folder, or at a URL that fsspec knows (s3://bucket/prefix)."""
    if not is_url(location):
        from kepler_core.store.local import LocalStore

        return LocalStore(location)
    if location.startswith("file://"):
        from kepler_core.store.local import LocalStore

        return LocalStore(unquote(split_url(location).path))
    from kepler_core.store.remote import RemoteStore

    return RemoteStore(location)


def checked_name(pipeline: str) -> str:
    """The name, if it can be a pipeline's; `StoreError`."""
    try:
        return check_name(pipeline)
    except ValueError as error:
        raise StoreError(f"pipeline {error}") from error
