"""The manifest of a published pipeline: the size and SHA-256 digest of each of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from kepler_core.errors import StoreError

MANIFEST_FILE = "manifest.json"
LAYOUT_VERSION = 1


class FileRecord(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """What a file must be."""

    size: int
    sha256: str

    def problem(self, content: bytes) -> str | None:
        """What is wrong with the content, if anything."""
        if len(content) != self.size:
            return f"has {len(content)} bytes, the manifest says {self.size}"
        return None if sha256(content) == self.sha256 else "does not have the SHA-256 digest of the manifest"


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`manifest.json`: every file of the pipeline but itself, by its path below the pipeline."""

    layout: int
    files: dict[str, FileRecord]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def make_manifest(files: Mapping[str, bytes]) -> Manifest:
    """The manifest of these files."""
    return Manifest(
        LAYOUT_VERSION,
        {name: make_record(content) for name, content in sorted(files.items()) if name != MANIFEST_FILE},
    )


def make_record(content: bytes) -> FileRecord:
    """What a file with this content must be."""
    return FileRecord(len(content), sha256(content))


def read_manifest(content: bytes, where: str) -> Manifest:
    """The manifest from its file; `StoreError` if it is not one."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{where}: damaged {MANIFEST_FILE}: {error}") from error
    if manifest.layout != LAYOUT_VERSION:
        raise StoreError(
            f"{where}: layout {manifest.layout} of {MANIFEST_FILE}; this kepler-core reads {LAYOUT_VERSION}"
        )
    return manifest


def sha256(content: bytes) -> str:
    """The digest as it is written in manifests."""
    return hashlib.sha256(content).hexdigest()
