"""Tests of remote stores: publishing, reading, rolling back, and damaged files."""

from __future__ import annotations

import pytest
from support.remote_store import FILES, file_names, put

from kepler_core.errors import StoreError
from kepler_core.store import open_store
from kepler_core.store.remote import RemoteStore

SECOND = {"metadata.json": b'{"name":"second"}'}


def test_check_writable_leaves_no_files(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    assert store.pipelines() == []
    store.check_writable("p")
    assert file_names(url) == set()


def test_publish_and_read(url: str) -> None:
    store = open_store(url)
    assert store.publish("p", FILES) == 1
    snapshot, signature = store.snapshot("p"), store.signature("p")
    assert store.publish("p", SECOND) == 2
    assert {name: snapshot.read(name) for name in FILES} == FILES, "a reader keeps its version"
    assert snapshot.names == {*FILES, "manifest.json"}
    assert open_store(url).snapshot("p").read("metadata.json") == SECOND["metadata.json"]
    assert (store.pipelines(), store.versions("p"), store.current_version("p")) == (["p"], [1, 2], 2)
    assert store.signature("p") != signature


def test_roll_back(url: str) -> None:
    store = open_store(url)
    assert store.publish("p", FILES) == 1
    signature = store.signature("p")
    assert store.publish("p", SECOND) == 2
    store.roll_back("p", 1)
    assert (store.current_version("p"), store.signature("p")) == (1, signature)
    assert dict(store.snapshot("p").read_many(sorted(FILES))) == FILES
    assert store.snapshot("p", 2).read_json("metadata.json") == {"name": "second"}
    assert store.publish("p", FILES) == 3, "a number is never used again"
    for missing in (store.roll_back, store.snapshot):
        with pytest.raises(StoreError, match=r"no version 9 \(kept: 1, 2, 3\)"):
            missing("p", 9)
    with pytest.raises(StoreError, match=r"no pipeline 'q' \(available: p\)"):
        store.snapshot("q")


def test_an_open_store_sees_versions_of_other_publishers(url: str) -> None:
    """An open store sees versions that others publish later, because it does not cache listings of its folders."""
    reader, writer = open_store(url), open_store(url)
    assert reader.pipelines() == []
    for number in (1, 2):
        writer.publish("p", {**FILES, f"n{number}": b""})
        assert reader.pipelines() == ["p"]
        assert reader.current_version("p") == number
        assert f"n{number}" in reader.snapshot("p").names


def test_foreign_pipelines_can_be_read_but_not_written(url: str) -> None:
    put(url, "theirs/metadata.json", b"{}")
    put(url, "theirs/rapl-sysfs/AbsPower/BPFOnly/X_0.zip", b"zip")
    put(url, ".hidden/metadata.json", b"{}")
    store = open_store(url)
    store.publish("ours", FILES)
    assert store.pipelines() == ["ours", "theirs"]
    snapshot = store.snapshot("theirs")
    assert (snapshot.version, snapshot.manifest, store.versions("theirs")) == (None, None, [])
    assert store.current_version("theirs") is None
    assert snapshot.read("rapl-sysfs/AbsPower/BPFOnly/X_0.zip") == b"zip"
    before = store.signature("theirs")
    assert store.signature("theirs") == before
    put(url, "theirs/metadata.json", b'{"changed": 1}')
    assert store.signature("theirs") != before
    for change in (lambda: store.publish("theirs", FILES), lambda: store.check_writable("theirs")):
        with pytest.raises(StoreError, match="was not published by kepler-model"):
            change()
    assert store.snapshot("theirs").read("metadata.json") == b'{"changed": 1}'


def test_damaged_files_are_reported(url: str) -> None:
    store = open_store(url)
    store.publish("p", FILES)
    folder = store.snapshot("p").where.removeprefix(url + "/")
    put(url, f"{folder}/a/b/c.json", b"2")
    put(url, f"{folder}/extra", b"")
    snapshot = store.snapshot("p")
    assert set(snapshot.problems()) == {"a/b/c.json", "extra"}
    put(url, ".current/p", b'{"version":1,"folder":"../../elsewhere"}')
    with pytest.raises(StoreError, match="is damaged"):
        store.snapshot("p")
    put(url, ".current/p", b"{")
    with pytest.raises(StoreError, match="is damaged"):
        store.signature("p")
