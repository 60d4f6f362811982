"""The manifest of a published pipeline: the size and SHA-256 digest of each of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from kepler_core.documents import DocumentError, Text, decode_json
from kepler_core.errors import StoreError
from kepler_core.json_files import indented_json

MANIFEST_FILE = "manifest.json"
LAYOUT_VERSION = 1


class FileRecord(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """The size in bytes and the SHA-256 digest that a file must have."""

    size: int
    sha256: str

    def problem(self, content: bytes) -> str | None:
        """Return how a file's content differs from the size or digest in the manifest; None if it does not differ."""
        if len(content) != self.size:
            return f"has {len(content)} bytes, the manifest says {self.size}"
        return None if sha256(content) == self.sha256 else "does not have the SHA-256 digest of the manifest"


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The content of `manifest.json`: sizes and digests of all files of a pipeline except `manifest.json` itself."""

    layout: int
    files: dict[str, FileRecord]
    pipeline: Text | msgspec.UnsetType = msgspec.UNSET
    """Name of the pipeline in the store that it was exported from. Only the manifests of archives have this name."""

    def encode(self) -> bytes:
        """Return the content of `manifest.json`."""
        return indented_json(self)


def make_manifest(files: Mapping[str, bytes], pipeline: str | None = None) -> Manifest:
    """Return the manifest of `files`, a mapping from path below the pipeline to content.

    `pipeline` is the name that the manifest gives to the pipeline; if it is None, the manifest contains no name.
    """
    return Manifest(
        LAYOUT_VERSION,
        {name: make_record(content) for name, content in sorted(files.items()) if name != MANIFEST_FILE},
        msgspec.UNSET if pipeline is None else pipeline,
    )


def make_record(content: bytes) -> FileRecord:
    """Return the size and the digest of a file with this content."""
    return FileRecord(len(content), sha256(content))


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in a file's content, or raise `StoreError` if the content is not a manifest."""
    try:
        manifest = decode_json(content, Manifest)
    except DocumentError as error:
        raise StoreError(f"{where}: damaged {MANIFEST_FILE}: {error}") from error
    if manifest.layout != LAYOUT_VERSION:
        raise StoreError(
            f"{where}: layout {manifest.layout} of {MANIFEST_FILE}; this kepler-core reads {LAYOUT_VERSION}"
        )
    return manifest


def sha256(content: bytes) -> str:
    """Return the SHA-256 digest of the content in hexadecimal, the form in which manifests contain it."""
    return hashlib.sha256(content).hexdigest()
