"""Open a store by its location."""

from __future__ import annotations

from kepler_core.store.local import LocalStore
from kepler_core.store.remote import RemoteStore
from kepler_core.store.store import Store
from kepler_core.urls import file_path, is_file_url, is_url


def open_store(location: str) -> Store:
    """Open the store in a local folder, at a file URL, or at a URL that fsspec supports (s3://bucket/prefix).

    Raises `StoreError` if the URL cannot be the URL of a store, and `MissingExtraError` if a Python package that
    the URL needs is not installed.
    """
    if not is_url(location):
        return LocalStore(location)
    if is_file_url(location):
        return LocalStore(file_path(location))
    return RemoteStore(location)
