"""A model store at a URL that fsspec supports, e.g. s3://bucket/prefix. A store at an http(s) URL is read-only.

    <root>/.current/<pipeline>              the current version: {"version": 3, "folder": "9f3c…"}
    <root>/.versions/<pipeline>/3.json      number and folder of version 3, as in `.current`
    <root>/.versions/<pipeline>/9f3c…/      the files of version 3
    <root>/.decisions/<pipeline>/           the decisions about the pipeline, one object each

Object stores have neither renames nor links, but they write each object as a whole. So a publisher first writes the
files of a version, the manifest last, to a folder with a random name. Then it claims the next free version number n: it
creates `<n>.json`. This fails if another publisher has created this object. Then it replaces `.current/<pipeline>`,
which publishes the version. Publishers that run at the same time get different numbers and different folders. A
publisher that is killed leaves behind a folder without a number, or a complete version that is not current.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError, MissingExtraError, NameTakenError, StoreError, VersionTakenError
from kepler_core.messages import quoted, reason_of, shortened
from kepler_core.models.power_model import MAX_FILE_BYTES, METADATA_FILE
from kepler_core.names import is_name
from kepler_core.store.decisions import DECISIONS, decision_files, is_decision, outdated, read_decision
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store, checked_name
from kepler_core.store.time_limits import TimeLimitedFiles
from kepler_core.urls import shown_url, split_url, without_secrets

CURRENT = ".current"
VERSIONS = ".versions"
PROBE = ".probe"

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 15
"""Maximum time to wait for the next bytes from the server. botocore and s3fs repeat a request that timed out. So
a request to a server that does not answer fails after four times this timeout."""

_log = logging.getLogger(__name__)

_VERSION_FILE = re.compile(r"([1-9][0-9]{0,8})\.json")
_FOLDER = re.compile(r"[0-9a-f]{32}")

_S3 = ("s3", "s3a")

# Names of file attributes that change with a file's content. Each fsspec file system has some of them.
_STATE_ATTRIBUTES = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created", "md5")

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_REASON_CHARACTERS = 300


class _Version(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The number of a version and the folder of its files."""

    version: int
    folder: str


class RemoteStore(Store):
    """A store at a URL. fsspec takes credentials and endpoints from the environment (`AWS_…`)."""

    def __init__(self, url: str) -> None:
        """Create the store object without a connection.

        Raises `StoreError` if the URL cannot be the URL of a store, and `MissingExtraError` if a Python package
        that the URL needs is not installed.
        """
        parts = split_url(url)
        if shown_url(url) != url or parts.query or parts.fragment or "::" in url:
            raise StoreError(
                f"{shown_url(url)}: a store's URL is scheme://place/folder, without user, password, ? or #; "
                "credentials come from the environment"
            )
        self.location = url.rstrip("/") if parts.netloc else url
        self._protocol = parts.scheme.lower()
        self._class = _filesystem_class(self._protocol, url)
        self._root = str(self._class._strip_protocol(url)).rstrip("/")
        if self._protocol in _S3 and not self._root:
            raise StoreError(f"{url}: the URL has no bucket; expected s3://bucket or s3://bucket/folder")
        self._opened: tuple[int, Any] | None = None
        """The id of the process that opened the file system, and the file system; None until it is opened."""

    @property
    def _fs(self) -> Any:
        # open the file system again after a fork, because its connections and its event loop do not survive the fork
        if self._opened is None or self._opened[0] != os.getpid():
            is_s3 = self._protocol in _S3
            filesystem = self._class(skip_instance_cache=True, **(_s3_options() if is_s3 else {}))
            if is_s3:
                filesystem.retries = 2  # s3fs tries this number of times, and botocore tries twice in each attempt
            self._opened = (os.getpid(), TimeLimitedFiles(filesystem))
        return self._opened[1]

    # --- reading ---

    def pipelines(self) -> list[str]:
        with self._errors("read"):
            names = {name for name, kind in self._entries(CURRENT) if kind == "file"}
            names |= {name for name, kind in self._entries("") if kind == "directory"}
        return sorted(name for name in names if is_name(name))

    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        checked_name(pipeline)
        with self._errors("read"):
            published = self._current(pipeline) if version is None else self._version(pipeline, version)
            if published is None and version is not None:
                raise self.no_such_version(pipeline, version)
            folder = pipeline if published is None else f"{VERSIONS}/{pipeline}/{published.folder}"
            files = self._files(folder)
            if published is None and not files:
                raise self.no_such_pipeline(pipeline)
        where = f"{self.location}/{folder}"
        if METADATA_FILE not in files:
            raise StoreError(f"{where}: no {METADATA_FILE}: half copied, or not a pipeline")
        if published is not None and MANIFEST_FILE not in files:
            raise StoreError(f"{where}: no {MANIFEST_FILE}: damaged, because each published version has this file")

        def read(name: str, max_bytes: int) -> bytes:
            with self._errors("read"):
                return self._read(f"{folder}/{name}", files[name].get("size"), max_bytes)

        manifest = read_manifest(read(MANIFEST_FILE, MAX_FILE_BYTES), where) if MANIFEST_FILE in files else None
        return Snapshot(pipeline, published.version if published else None, where, manifest, frozenset(files), read)

    def signature(self, pipeline: str) -> str:
        with self._errors("read"):
            if (current := self._current(checked_name(pipeline))) is not None:
                return f"{current.version} {current.folder}"
            files = self._files(pipeline)
            if not files:
                raise self.no_such_pipeline(pipeline)
        digest = hashlib.sha256()
        for name, info in sorted(files.items()):
            digest.update(f"{name}\0{[str(info[key]) for key in _STATE_ATTRIBUTES if key in info]}\0".encode())
        return digest.hexdigest()

    def versions(self, pipeline: str) -> list[int]:
        with self._errors("read"):
            entries = self._entries(f"{VERSIONS}/{checked_name(pipeline)}")
            return sorted(int(match[1]) for name, _ in entries if (match := _VERSION_FILE.fullmatch(name)))

    def current_version(self, pipeline: str) -> int | None:
        with self._errors("read"):
            if (current := self._current(checked_name(pipeline))) is not None:
                return current.version
            if not self._files(pipeline):
                raise self.no_such_pipeline(pipeline)
        return None

    # --- writing ---

    def _publish(self, pipeline: str, files: Mapping[str, bytes], version: int | None) -> int:
        checked_name(pipeline)
        if (outside := next((name for name in files if not _is_inside(name)), None)) is not None:
            raise StoreError(f"the file name {outside!r} leads outside of the pipeline")
        folder = uuid.uuid4().hex
        path = f"{self._root}/{VERSIONS}/{pipeline}/{folder}"
        with self._errors("write"):
            self._refuse_foreign(pipeline)
            try:
                self._fs.pipe({f"{path}/{name}": content for name, content in files.items() if name != MANIFEST_FILE})
                self._fs.pipe_file(f"{path}/{MANIFEST_FILE}", make_manifest(files).encode())
            except BaseException:
                self._remove(path)
                raise
            # From here on, no file is removed after an error: a write whose response was lost may have succeeded.
            claimed = self._claim(pipeline, folder, version)
            try:
                self._make_current(pipeline, claimed)
            except Exception as error:
                raise StoreError(
                    f"cannot make version {claimed.version} of {pipeline} current in {self.location}: "
                    f"{_reason(error)}; the version is stored, and a rollback to it makes it current"
                ) from error
        return claimed.version

    def _roll_back(self, pipeline: str, version: int) -> None:
        with self._errors("write"):
            if (published := self._version(checked_name(pipeline), version)) is None:
                raise self.no_such_version(pipeline, version)
            self._make_current(pipeline, published)

    def record_decision(self, pipeline: str, decision: Mapping[str, Any], page: bytes | None = None) -> None:
        folder = f"{DECISIONS}/{checked_name(pipeline)}"
        with self._errors("write"):
            for name, content in decision_files(pipeline, decision, page).items():
                self._fs.pipe_file(f"{self._root}/{folder}/{name}", content)
            for name in outdated(name for name, kind in self._entries(folder) if kind == "file"):
                self._fs.rm_file(f"{self._root}/{folder}/{name}")

    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        folder = f"{DECISIONS}/{checked_name(pipeline)}"
        with self._errors("read"):
            decisions = (read_decision(self._read(f"{folder}/{name}", None)) for name in self._decision_names(folder))
            return [decision for decision in decisions if decision is not None]

    def _decision_names(self, folder: str) -> list[str]:
        return sorted(name for name, kind in self._entries(folder) if kind == "file" and is_decision(name))

    def check_writable(self, pipeline: str) -> None:
        """Raise `StoreError` if the pipeline cannot be published. The check writes a small object and removes it."""
        probe = f"{self._root}/{PROBE}/{uuid.uuid4().hex}"
        with self._errors("write"):
            self._refuse_foreign(checked_name(pipeline))
            self._fs.pipe_file(probe, b"probe")
            self._fs.rm_file(probe)

    # --- the methods below must be called in a `with self._errors(…)` block ---

    def _claim(self, pipeline: str, folder: str, wanted: int | None) -> _Version:
        """Claim the next free number for the version in a folder.

        If `wanted` is not None and is not the next free number, the folder is removed and `VersionTakenError`
        is raised.
        """
        for number in itertools.count(self.next_version(pipeline)):
            if wanted not in (None, number):
                self._remove(f"{self._root}/{VERSIONS}/{pipeline}/{folder}")
                raise VersionTakenError(pipeline, number - 1)
            version = _Version(number, folder)
            path = f"{self._root}/{VERSIONS}/{pipeline}/{number}.json"
            content = msgspec.json.encode(version)
            try:
                self._fs.pipe_file(path, content, mode="create")
            except Exception as error:
                # If the object exists, another publisher wrote it, or this publisher wrote it and the response was
                # lost. If the object does not exist, the store does not support exclusive writes.
                if not self._fs.exists(path):
                    _log.debug("%s: exclusive writing failed, so a plain write is used: %s", self.location, error)
                    self._fs.pipe_file(path, content)
            # Some servers overwrite the object even in an exclusive write. Then the number belongs to the publisher
            # whose content is in the object.
            if self._fs.cat_file(path) == content:
                return version
        raise AssertionError("unreachable: the loop over version numbers has no end")

    def _make_current(self, pipeline: str, version: _Version) -> None:
        self._fs.pipe_file(f"{self._root}/{CURRENT}/{pipeline}", msgspec.json.encode(version))

    def _current(self, pipeline: str) -> _Version | None:
        return self._read_version(f"{CURRENT}/{pipeline}")

    def _version(self, pipeline: str, version: int) -> _Version | None:
        return self._read_version(f"{VERSIONS}/{pipeline}/{version}.json")

    def _read_version(self, name: str) -> _Version | None:
        try:
            content = self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError as error:
            self._check_bucket(error)
            return None
        try:
            version = decode_json(content, _Version)
        except DocumentError as error:
            raise StoreError(f"{self.location}/{name} is damaged: {error}") from error
        if not _FOLDER.fullmatch(version.folder):
            raise StoreError(
                f"{self.location}/{name} is damaged: {quoted(version.folder)} cannot be a version's folder"
            )
        return version

    def _refuse_foreign(self, pipeline: str) -> None:
        """Raise `NameTakenError` if the pipeline's name is taken by a folder that does not come from Kepler Core."""
        if self._current(pipeline) is None and self._files(pipeline):
            raise NameTakenError(f"{self.location}/{pipeline}")

    def _entries(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and kind (file or directory) of each entry of a folder. An absent folder has no entries."""
        path = f"{self._root}/{folder}".rstrip("/")
        self._fs.invalidate_cache()
        try:
            listing = self._fs.ls(path, detail=True)
        except FileNotFoundError as error:
            self._check_bucket(error)
            return
        for info in listing:
            name = str(info["name"]).rstrip("/")
            if name.startswith(path + "/") and "/" not in (name := name.removeprefix(path + "/")):
                yield name, str(info["type"])

    def _files(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """Return fsspec's information on each file below a folder, by path relative to the folder."""
        path = f"{self._root}/{folder}"
        self._fs.invalidate_cache()
        try:
            listing = self._fs.find(path, detail=True)
        except FileNotFoundError as error:
            self._check_bucket(error)
            return {}
        inside = {name.removeprefix(path + "/"): info for name, info in listing.items() if name.startswith(path + "/")}
        return {name: info for name, info in inside.items() if _is_inside(name)}

    def _read(self, name: str, size: int | None, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        path = f"{self._root}/{name}"
        if size is None:  # a simple web server may not report the size, so the file is read as a stream
            content = self._fs.read_start(path, max_bytes + 1)
        elif size > max_bytes:
            content = None
        else:  # do not request an empty object: S3 rejects requests for a range of its bytes
            content = self._fs.cat_file(path, start=0, end=max_bytes + 1) if size else b""
        if content is None or len(content) > max_bytes:
            raise StoreError(f"{self.location}/{name}: larger than {max_bytes} bytes")
        return bytes(content)

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raise `StoreError` if the bucket does not exist. A missing folder is no error: it is an empty store."""
        response = getattr(error.__cause__, "response", {})
        if response.get("Error", {}).get("Code") == "NoSuchBucket":
            raise StoreError(f"{self.location}: there is no bucket {self._root.partition('/')[0]!r}") from error

    def _remove(self, path: str) -> None:
        try:
            self._fs.invalidate_cache()
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)
        except Exception as error:
            _log.warning(
                "%s: cannot remove the files of a failed publication, which no version uses: %s", path, _reason(error)
            )

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Raise `StoreError` instead of any exception in the `with` block. `action` is "read" or "write".

        fsspec's file systems raise exceptions of different libraries. These exceptions have no common base class.
        """
        try:
            yield
        except KeplerError:
            raise
        except ImportError as error:
            raise StoreError(f"{self.location}: needs a package: {_reason(error)}") from error
        except NotImplementedError as error:
            raise StoreError(
                f"cannot {action} the store {self.location}: {self._protocol}:// can only be read"
            ) from error
        except Exception as error:
            raise StoreError(f"cannot {action} the store {self.location}: {_reason(error)}") from error


def _filesystem_class(protocol: str, url: str) -> Any:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a store at {shown_url(url)}", "s3", "fsspec") from error
    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        similar = difflib.get_close_matches(protocol, [*fsspec.available_protocols(), "s3"], cutoff=0.55)
        hint = (
            "did you mean " + " or ".join(similar) + "?"
            if similar
            else "a store is a folder, s3://bucket/folder, or another URL that fsspec knows"
        )
        raise StoreError(f"{shown_url(url)}: {protocol}:// is not known; {hint}") from error
    except ImportError as error:
        if protocol in _S3:
            raise MissingExtraError(f"a store at {shown_url(url)}", "s3", "s3fs") from error
        raise StoreError(f"a store at {shown_url(url)} needs a package: {_reason(error)}") from error


def _s3_options() -> dict[str, Any]:
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": READ_TIMEOUT_SECONDS,
            "retries": {"max_attempts": 1},
        },
    }


def _is_inside(name: str) -> bool:
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _reason(error: BaseException) -> str:
    """Return an error's text without credentials."""
    secrets = [os.environ.get(variable, "") for variable in _SECRET_VARIABLES]
    return shortened(without_secrets(reason_of(error), secrets), _REASON_CHARACTERS)
