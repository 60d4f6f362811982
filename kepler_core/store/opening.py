"""Open a store by its location."""

from __future__ import annotations

from urllib.parse import unquote

from kepler_core.store.local import LocalStore
from kepler_core.store.remote import RemoteStore
from kepler_core.store.store import Store
from kepler_core.store.urls import is_url, split_url


def open_store(location: str) -> Store:
    """Open the store in a local folder, at a file URL, or at a URL that fsspec supports (s3://bucket/prefix).

    Raises `StoreError` if the URL is not one of a store, `MissingExtraError` if a package is missing.
    """
    if not is_url(location):
        return LocalStore(location)
    if location.startswith("file://"):
        return LocalStore(unquote(split_url(location).path))
    return RemoteStore(location)
