"""Fixtures with a model server that serves a small store. The tests must not change this store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.model_server import SECRET, store_files
from support.server_process import ServerProcess, serving

from kepler_core.store.local import LocalStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("made") / "store")
    store.publish("made", store_files())
    (store.root.parent / "secret").write_text(SECRET)
    return store


@pytest.fixture(scope="module")
def server(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(store.root, tmp_path_factory.mktemp("log") / "server.log") as process:
        yield process
