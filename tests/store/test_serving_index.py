"""Tests that a server gets the same models from a version's index as from its files, and never trusts a wrong index."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.live_store import flip
from support.model_server import MODELS, store_files

from kepler_core.selection.reading import read_pipeline_models
from kepler_core.store import serving_index
from kepler_core.store.local import LocalStore
from kepler_core.store.manifest import MANIFEST_FILE
from kepler_core.store.serving_index import UnusableIndexError, _facts, decode_index, first_difference
from kepler_core.store.snapshot import Snapshot
from kepler_profiler.similarity import SpecTable
from kepler_servers.live_catalogue import LiveCatalogue

PATH = MODELS[0].path
HEAD_BYTES = len(serving_index._MAGIC) + 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with one version that has an index. Usually, only versions with many models have an index."""
    monkeypatch.setattr(serving_index, "MIN_INDEXED_MODELS", 1)
    store = LocalStore(tmp_path / "store")
    store.publish("made", store_files())
    return store


def index_of(store: LocalStore, version: int = 1) -> Path:
    return store.root / f".versions/made/{version}.index"


def live_catalogue(store: LocalStore) -> LiveCatalogue:
    live = LiveCatalogue(store, compare=SpecTable, error_key="mae", serving=True)
    live.refresh()
    return live


def rewrite(path: Path, body: bytes) -> None:
    """Write an index file with the content `body` and its right digest."""
    path.write_bytes(serving_index._MAGIC + hashlib.sha256(body).digest() + body)


def check_index(live: LiveCatalogue) -> None:
    """Compare a pipeline's index with its files, like the background thread of the model server."""
    pipeline = live._pipelines["made"]
    assert pipeline.index is not None
    live._check_index("made", pipeline, pipeline.index)


def test_models_of_the_index_are_those_of_the_files(store: LocalStore) -> None:
    models, node_types = read_pipeline_models(store.snapshot("made"), serving=True)
    indexed = store.indexed_models("made")
    assert indexed is not None
    assert [_facts(model) for model in indexed.models] == [_facts(model) for model in models]
    assert [model.archive() for model in indexed.models] == [model.archive() for model in models]
    assert [model.metadata for model in indexed.models] == [model.metadata for model in models]
    assert {n: (t.spec, t.members) for n, t in indexed.node_types.items()} == {
        n: (t.spec, t.members) for n, t in node_types.items()
    }
    assert first_difference(indexed, lambda: False) is None


def test_small_versions_have_no_index(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish("made", store_files())
    assert not index_of(store).exists()
    assert store.indexed_models("made") is None
    assert len(live_catalogue(store).current.models) == len(MODELS)


def test_each_version_has_its_own_index(store: LocalStore) -> None:
    files = {name: content for name, content in store_files().items() if not name.startswith(PATH)}
    store.publish("made", files)
    live = live_catalogue(store)
    assert len(live.current.models) == len(MODELS) - 1
    store.roll_back("made", 1)
    live.refresh()
    assert len(live.current.models) == len(MODELS)
    assert store.versions("made") == [1, 2]
    assert store.prune("made", 1).removed == []
    del live
    store.roll_back("made", 2)
    assert store.prune("made", 1).removed == [1]
    assert sorted(path.name for path in index_of(store).parent.iterdir()) == ["2", "2.index"]


def unusable(store: LocalStore, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that a model server does not use an index, reads the pipeline's files, and logs the reason in one line."""
    with pytest.raises(UnusableIndexError, match=why):
        store.indexed_models("made")
    with caplog.at_level(logging.WARNING):
        live = live_catalogue(store)
    assert len(live.current.models) == len(MODELS)
    assert not live.broken
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("pipeline made: its index is not used")
    assert why in message


def test_damaged_index(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    flip(index_of(store))
    unusable(store, "damaged", caplog)


def test_index_of_another_version(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    store.publish("made", {**store_files(), "metadata.json": b'{"name":"other"}'})
    index_of(store, 2).write_bytes(index_of(store, 1).read_bytes())
    unusable(store, "another manifest", caplog)


def test_index_of_another_release(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_index, "__version__", "9.9")
    unusable(store, "not by 9.9", caplog)


@pytest.mark.parametrize("position", [-1, 10**6])
def test_index_with_wrong_positions(store: LocalStore, position: int, caplog: pytest.LogCaptureFixture) -> None:
    document = msgspec.msgpack.decode(index_of(store).read_bytes()[HEAD_BYTES:])
    document[-1][0][2] = position
    rewrite(index_of(store), msgspec.msgpack.encode(document))
    unusable(store, "malformed", caplog)


def test_index_with_a_path_outside_of_the_version(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    document = msgspec.msgpack.decode(index_of(store).read_bytes()[HEAD_BYTES:])
    document[-1][0][0] = "../AbsPower/../secret_1"
    rewrite(index_of(store), msgspec.msgpack.encode(document))
    unusable(store, "not the path of a model", caplog)


def test_forged_index_is_replaced_by_the_files(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    document = msgspec.msgpack.decode(index_of(store).read_bytes()[HEAD_BYTES:])
    values = document[-1][0][4]
    document[-1][0][4] = bytes(len(values))  # all scores are 0
    rewrite(index_of(store), msgspec.msgpack.encode(document))
    live = live_catalogue(store)
    path = live.current.models[0].path
    assert live.current.models[0].scores.get("mae") == 0
    check_index(live)
    assert live.current.models[0].path == path
    assert live.current.models[0].scores.get("mae") != 0
    assert not live.broken
    assert "its index has another content than the files" in caplog.text


def test_no_model_of_an_index_with_damaged_texts_is_served(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    """The index of version 1 has a damaged text, and the files of version 2 are damaged. So no model can be served."""
    document = msgspec.msgpack.decode(index_of(store).read_bytes()[HEAD_BYTES:])
    document[-3][0][0] = b"not compressed"  # damage the packed metadata of the first models
    rewrite(index_of(store), msgspec.msgpack.encode(document))
    live = live_catalogue(store)
    assert len(live.current.models) == len(MODELS)
    store.publish("made", store_files())
    index_of(store, 2).unlink()
    flip(store.root / f"made/{PATH}.zip")
    live.refresh()
    check_index(live)
    assert len(live.current.models) == 0
    assert "its index cannot be compared with its files" in caplog.text


def test_index_that_cannot_be_read(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_index, "MAX_INDEX_BYTES", 10)
    unusable(store, "larger than", caplog)


def test_other_files_beside_models_do_not_matter(store: LocalStore) -> None:
    store.publish("made", {**store_files(), f"{PATH}.txt": b"a note"})
    indexed = store.indexed_models("made")
    assert indexed is not None
    assert first_difference(indexed, lambda: False) is None


def test_check_finds_a_damaged_file(store: LocalStore) -> None:
    flip(store.root / f"made/{PATH}.zip")
    live = live_catalogue(store)
    assert not live.broken
    check_index(live)
    assert f"{PATH}.zip" in live.broken["made"]
    assert len(live.current.models) == len(MODELS)  # the index itself is not damaged
    live._pipelines["made"].retry_at = 0
    live.refresh()
    assert "made" in live.broken


def test_damaged_archive_is_found_when_a_client_needs_it(store: LocalStore) -> None:
    flip(store.root / f"made/{PATH}.zip")
    live = live_catalogue(store)
    model = live.current.by_path("made", PATH)
    assert model is not None
    live.drop(model, "damaged")
    assert live.current.by_path("made", PATH) is None
    live.refresh()  # the server must not take the model from the index again
    assert live.current.by_path("made", PATH) is None
    assert "made" in live.broken


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(store: LocalStore, data: st.DataObject) -> None:
    """An index of random bytes with a right digest raises `UnusableIndexError`, or gives models with readable texts."""
    body = bytearray(index_of(store).read_bytes()[HEAD_BYTES:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(len(body) // 2, 3 * len(body))) :]
    content = serving_index._MAGIC + hashlib.sha256(body).digest() + bytes(body)
    manifest = (store.root / "made" / MANIFEST_FILE).read_bytes()
    snapshot = Snapshot("made", 1, "made", None, frozenset(), lambda name, max_bytes: b"")
    try:
        indexed = decode_index(content, manifest, snapshot)
    except UnusableIndexError:
        return
    assert len({model.path for model in indexed.models}) <= len(MODELS)
