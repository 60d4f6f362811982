"""Tests of the import and export of pipelines as archives and folders, and of content that the import refuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SHARED
from support.pipeline_archive import MODEL, PIPELINE

from kepler_core.errors import StoreError
from kepler_core.store import archive
from kepler_core.store.archive import archive_bytes, read_archive, read_pipeline
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore
from kepler_core.store.manifest import make_manifest
from kepler_core.store.safe_zip import read_zip


@pytest.fixture
def public() -> Path:
    """The folder of a pipeline in the public model database. The database is not part of the project."""
    folder = SHARED / "data" / "model_db" / "ec2-0.7.11"
    if not folder.is_dir():
        pytest.skip("the public models (../shared/data/model_db) are not here")
    return folder


@given(st.data())
def test_cut_zips(data: st.DataObject) -> None:
    content = zip_bytes(PIPELINE)
    with pytest.raises(StoreError):
        read_archive(content[: data.draw(st.integers(0, len(content) - 1))], "x.zip")


def test_pipelines_at_the_top_or_in_a_folder() -> None:
    assert read_archive(zip_bytes(PIPELINE), "x.zip") == PIPELINE
    assert read_archive(zip_bytes({f"folder/{name}": data for name, data in PIPELINE.items()}), "x.zip") == PIPELINE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metadata.json": None}, "no metadata.json"),
        ({MODEL: None}, "no model"),
        ({MODEL: None, "rapl-sysfs/Power/BPFOnly/X_0.zip": b""}, "no model"),
        ({"metadata.json": b"{"}, "metadata.json is damaged"),
        ({"metadata.json": b"[]"}, "metadata.json is damaged"),
        ({"metadata.json": b"[" * 9999}, "metadata.json is damaged"),
        ({"manifest.json": b"{}"}, "damaged manifest.json"),
    ],
)
def test_not_a_pipeline(tmp_path: Path, change: dict[str, bytes | None], why: str) -> None:
    files = {name: data for name, data in {**PIPELINE, **change}.items() if data is not None}
    with pytest.raises(StoreError, match=why):
        read_archive(zip_bytes(files), "x.zip")
    write(tmp_path / "f", files)
    with pytest.raises(StoreError, match=why):
        read_pipeline(str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"node_type_index.json": b"[]"}, "SHA-256"),
        ({"node_type_index.json": b"{}\n"}, "has 3 bytes"),
        ({"node_type_index.json": None}, "is missing"),
        ({"extra": b""}, "not in the manifest"),
    ],
)
def test_files_must_match_the_manifest(change: dict[str, bytes | None], why: str | None) -> None:
    files: dict[str, bytes | None] = {**PIPELINE, "manifest.json": make_manifest(PIPELINE).encode(), **change}
    content = zip_bytes({name: data for name, data in files.items() if data is not None})
    if why is None:
        assert read_archive(content, "x.zip") == PIPELINE, "the manifest is not among the files"
    else:
        with pytest.raises(StoreError, match=why):
            read_archive(content, "x.zip")


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_names_of_imported_pipelines(tmp_path: Path) -> None:
    nameless = {**PIPELINE, "metadata.json": b"{}"}
    unsafe = {**PIPELINE, "metadata.json": b'{"name":"../evil"}'}
    cases = {
        "a.zip": (zip_bytes({f"top/{name}": data for name, data in PIPELINE.items()}), "top"),
        "b.zip": (zip_bytes(PIPELINE), "own"),
        "c-1.2.zip": (zip_bytes(nameless), "c-1.2"),
        "d.zip": (zip_bytes(unsafe), "d"),
        "é.zip": (zip_bytes(unsafe), None),
    }
    for file, (content, name) in cases.items():
        (tmp_path / file).write_bytes(content)
        if name is None:
            with pytest.raises(StoreError, match="no name"):
                read_pipeline(str(tmp_path / file))
        else:
            assert read_pipeline(str(tmp_path / file))[0] == name
        assert read_pipeline((tmp_path / file).as_uri(), "given")[0] == "given"
    write(tmp_path / "f", PIPELINE)
    write(tmp_path / "g", nameless)
    assert read_pipeline(str(tmp_path / "f")) == ("own", PIPELINE)
    assert read_pipeline(f"{tmp_path}/g/") == ("g", nameless)


def in_folder(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def test_exports_have_the_pipeline_at_their_top_and_keep_its_name(tmp_path: Path) -> None:
    """If the metadata or the file name of an exported pipeline have other names, the name in the manifest counts."""
    store = LocalStore(tmp_path / "store")
    store.publish("renamed", PIPELINE)
    exported = archive_bytes(store.snapshot("renamed"))
    assert set(read_zip(exported, "x.zip")) == {*PIPELINE, "manifest.json"}
    (tmp_path / "x.zip").write_bytes(exported)
    assert read_pipeline(str(tmp_path / "x.zip")) == ("renamed", PIPELINE)
    write(tmp_path / "unpacked", read_zip(exported, "x.zip"))
    assert read_pipeline(str(tmp_path / "unpacked")) == ("renamed", PIPELINE)
    write(tmp_path / "outer", in_folder("inner", read_zip(exported, "x.zip")))
    assert read_pipeline(str(tmp_path / "outer")) == ("inner", PIPELINE), "the folder may have been renamed"


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "/etc", "n" * 300])
def test_invalid_names_in_manifests_are_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.zip").write_bytes(
        zip_bytes({**PIPELINE, "manifest.json": make_manifest(PIPELINE, name).encode()}),
    )
    assert read_pipeline(str(tmp_path / "x.zip"))[0] == "own"


def test_imports_from_folders_with_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "f", in_folder("top", PIPELINE))
    assert read_pipeline(str(tmp_path / "f")) == ("top", PIPELINE)
    write(tmp_path / "f", in_folder("other", PIPELINE))
    with pytest.raises(StoreError, match="at its top or in its only folder"):
        read_pipeline(str(tmp_path / "f"))


def test_imports_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f", PIPELINE)
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert read_pipeline(str(tmp_path / "link")) == ("own", PIPELINE), "the pipeline of a local store is a link"
    (tmp_path / "f" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="a link or a device"):
        read_pipeline(str(tmp_path / "f"))
    (tmp_path / "f" / "secret").unlink()
    os.mkfifo(tmp_path / "f" / "fifo")
    with pytest.raises(StoreError, match="a link or a device"):
        read_pipeline(str(tmp_path / "f"))
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        read_pipeline(str(tmp_path / "f" / "fifo"))
    (tmp_path / "f" / "fifo").unlink()
    monkeypatch.setattr(archive, "MAX_PIPELINE_FILES", 2)
    with pytest.raises(StoreError, match="more than 2 files"):
        read_pipeline(str(tmp_path / "f"))
    with pytest.raises(StoreError, match="No such file"):
        read_pipeline(str(tmp_path / "nothing"))
    with pytest.raises(StoreError, match="comes from a file"):
        read_pipeline("ftp://host/x.zip")


@pytest.mark.shared_data
def test_public_models_survive_export_and_import(public: Path, tmp_path: Path) -> None:
    name, files = read_pipeline(str(public))
    assert name == "ec2-0.7.11"
    assert files == {str(path.relative_to(public)): path.read_bytes() for path in public.rglob("*") if path.is_file()}
    store = LocalStore(tmp_path / "s")
    store.publish(name, files)
    exported = archive_bytes(store.snapshot(name))
    assert exported == archive_bytes(store.snapshot(name)), "reproducible bytes"
    (tmp_path / "x.zip").write_bytes(exported)
    assert read_pipeline(str(tmp_path / "x.zip")) == (name, files)
    packed = shutil.make_archive(str(tmp_path / "y"), "zip", public)
    assert read_pipeline(packed) == (name, files)


def test_damaged_pipelines_are_not_exported(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.publish("p", PIPELINE)
    (store.path("p") / MODEL).write_bytes(b"x")
    with pytest.raises(StoreError, match="damaged"):
        archive_bytes(store.snapshot("p"))
    (store.path("p") / MODEL).unlink()
    with pytest.raises(StoreError, match="half copied"):
        archive_bytes(store.snapshot("p"))
