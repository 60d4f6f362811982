"""Files and helpers for the tests of remote stores."""

from __future__ import annotations

import pytest

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

FILES = {"metadata.json": b'{"name":"p"}', "a/b/c.json": b"1", "empty": b""}
SECRET = "a-very-secret-key"


def put(url: str, name: str, content: bytes) -> None:
    """Write a file directly to the URL of a remote store, without using the store."""
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    filesystem.pipe_file(f"{root}/{name}", content)


def file_names(url: str) -> set[str]:
    """Return the paths of all files below a URL."""
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    filesystem.invalidate_cache()
    return {name.removeprefix(root + "/") for name in filesystem.find(root)}
