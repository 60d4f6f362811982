"""Archives from elsewhere: what is read, and what is refused in one line."""

from __future__ import annotations

import http.server
import io
import os
import shutil
import socket
import stat
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SHARED

from kepler_core.errors import StoreError
from kepler_core.store import archive, download, safe_zip
from kepler_core.store.archive import archive_bytes, read_archive, read_pipeline
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore
from kepler_core.store.manifest import make_manifest
from kepler_core.store.safe_zip import read_zip

MODEL = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.zip"
PIPELINE = {
    "metadata.json": b'{"name":"mine"}',
    MODEL: zip_bytes({"metadata.json": b"{}"}),
    "node_type_index.json": b"{}",
}


@pytest.fixture
def public() -> Path:
    """A pipeline of the public model database; it is not part of the project."""
    folder = SHARED / "data" / "model_db" / "ec2-0.7.11"
    if not folder.is_dir():
        pytest.skip("the public models (../shared/data/model_db) are not here")
    return folder


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return buffer.getvalue()


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # the constructor would clean it
    info.external_attr = mode << 16
    return info


def refused(content: bytes, match: str, **limits: Any) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        read_zip(content, "x.zip", **limits)
    text = str(caught.value)
    assert text.startswith("x.zip: ")
    assert "\n" not in text
    assert "\0" not in text
    assert len(text) < 400


# --- zips ---


def test_read_zip() -> None:
    files = {"a": b"1", "b/c": b"2" * 9999, "ü/é": b""}
    assert read_zip(zip_bytes(files), "x.zip") == files
    assert read_zip(zipped(*files.items(), ("folder/", b""), method=zipfile.ZIP_STORED), "x.zip") == files
    assert read_zip(zip_bytes(files), "x.zip", only={"c"}) == {"b/c": b"2" * 9999}
    assert read_zip(b"first some other program" + zip_bytes(files), "x.zip") == files
    assert read_zip(zipped(), "x.zip") == {}


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "//host/share",
        "a//b",
        "./a",
        "..",
        "C:/evil",
        "c:evil",
        "..\\evil",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "x" * 2000,
        "",
        "/",
    ],
)
def test_hostile_names(name: str) -> None:
    refused(zipped((member(name), b"x")), "not a name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFSOCK])
def test_links_and_devices(kind: int) -> None:
    refused(zipped((member("a", kind | 0o777), b"/etc/passwd")), "a link or a device")


def test_twice() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped(("a", b"1"), ("a", b"2"))
    refused(content, "twice")
    refused(zipped(("a", b"1"), ("a/b", b"2")), "a file and a folder")
    refused(zipped(("a/", b""), ("a", b"2")), "a file and a folder")


def test_encrypted_and_odd_methods() -> None:
    content = bytearray(zipped(("a", b"1")))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    refused(bytes(content), "encrypted")
    refused(zipped(("a", b"1"), method=zipfile.ZIP_LZMA), "method other than")
    refused(zipped(("a", b"1"), method=zipfile.ZIP_BZIP2), "method other than")


def test_bombs() -> None:
    bomb = zipped(("a", bytes(50 * 2**20)))
    assert len(bomb) < 100_000
    refused(bomb, "'a' is larger than 1000000 bytes", max_file_bytes=10**6)
    refused(bomb, "its files are larger than 1000000 bytes", max_total_bytes=10**6)
    refused(zipped(*((str(i), bytes(1000)) for i in range(11))), "its files are", max_total_bytes=10_000)
    refused(zipped(*((str(i), b"") for i in range(11))), "more than 10 files", max_files=10)
    assert len(read_zip(zipped(*((str(i), bytes(1000)) for i in range(10))), "x", max_files=10, max_total_bytes=10_000))


@pytest.mark.parametrize("claimed", [0, 10, 10**6 - 1, 2**32 - 2])
def test_a_bomb_that_lies_about_its_size(claimed: int) -> None:
    content = bytearray(zipped(("a", bytes(5 * 2**20))))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, claimed)
    refused(bytes(content), "larger than|damaged", max_file_bytes=10**6)


def test_a_directory_that_says_it_has_fewer_files() -> None:
    """The number in the archive's end is not what zipfile goes by."""
    content = bytearray(zipped(*((str(i), b"") for i in range(50))))
    struct.pack_into("<HH", content, len(content) - 14, 1, 1)
    refused(bytes(content), "more than 10 files", max_files=10)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\5\6", b"<html>not found</html>", zip_bytes(PIPELINE)[:-9]],
)
def test_no_zip(content: bytes) -> None:
    refused(content, "not a zip archive")


def one_line(error: StoreError) -> None:
    assert "\n" not in str(error)


@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    for extra in (b"", b"PK\5\6" + bytes(18)):
        try:
            read_zip(content + extra, "x.zip")
        except StoreError as error:
            one_line(error)


@given(st.data())
def test_mutated_zips(data: st.DataObject) -> None:
    """Read or refused: nothing else is raised, and no name leads outside."""
    files = {"a": b"some content, some content", "b/c": b"more"}
    content = bytearray(zip_bytes(files))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        files = read_zip(bytes(content), "x.zip", max_total_bytes=1000)
    except StoreError as error:
        one_line(error)
    else:
        assert all(part not in ("", "..") for name in files for part in name.split("/"))


@given(st.data())
def test_cut_zips(data: st.DataObject) -> None:
    content = zip_bytes(PIPELINE)
    with pytest.raises(StoreError):
        read_archive(content[: data.draw(st.integers(0, len(content) - 1))], "x.zip")


# --- pipelines ---


def test_at_the_top_or_in_a_folder() -> None:
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
        ({"node_type_index.json": None}, "is not there"),
        ({"extra": b""}, "not in the manifest"),
    ],
)
def test_the_manifest_is_kept_to(change: dict[str, bytes | None], why: str | None) -> None:
    files: dict[str, bytes | None] = {**PIPELINE, "manifest.json": make_manifest(PIPELINE).encode(), **change}
    content = zip_bytes({name: data for name, data in files.items() if data is not None})
    if why is None:
        assert read_archive(content, "x.zip") == PIPELINE, "without the manifest"
    else:
        with pytest.raises(StoreError, match=why):
            read_archive(content, "x.zip")


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_names(tmp_path: Path) -> None:
    nameless = {**PIPELINE, "metadata.json": b"{}"}
    unsafe = {**PIPELINE, "metadata.json": b'{"name":"../evil"}'}
    cases = {
        "a.zip": (zip_bytes({f"top/{name}": data for name, data in PIPELINE.items()}), "top"),
        "b.zip": (zip_bytes(PIPELINE), "mine"),
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
    assert read_pipeline(str(tmp_path / "f")) == ("mine", PIPELINE)
    assert read_pipeline(f"{tmp_path}/g/") == ("g", nameless)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f", PIPELINE)
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert read_pipeline(str(tmp_path / "link")) == ("mine", PIPELINE), "a store's pipeline is such a link"
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


def test_public_models_in_and_out_and_in(public: Path, tmp_path: Path) -> None:
    name, files = read_pipeline(str(public))
    assert name == "ec2-0.7.11"
    assert files == {str(path.relative_to(public)): path.read_bytes() for path in public.rglob("*") if path.is_file()}
    store = LocalStore(tmp_path / "s")
    store.publish(name, files)
    exported = archive_bytes(store.snapshot(name))
    assert exported == archive_bytes(store.snapshot(name)), "the same bytes"
    (tmp_path / "x.zip").write_bytes(exported)
    assert read_pipeline(str(tmp_path / "x.zip")) == (name, files)
    packed = shutil.make_archive(str(tmp_path / "y"), "zip", public)
    assert read_pipeline(packed) == (name, files)


def test_nothing_damaged_is_exported(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.publish("p", PIPELINE)
    (store.path("p") / MODEL).write_bytes(b"x")
    with pytest.raises(StoreError, match="damaged"):
        archive_bytes(store.snapshot("p"))
    (store.path("p") / MODEL).unlink()
    with pytest.raises(StoreError, match="half copied"):
        archive_bytes(store.snapshot("p"))


# --- URLs ---

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Answer]]]:
    """A web server and what it answers, by path."""
    answers_by_path: dict[str, Answer] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers_by_path.get(self.path.partition("?")[0])
            if answer is None:
                self.send_error(404)
            else:
                answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers_by_path
    server.shutdown()
    thread.join()
    server.server_close()


def sends(content: bytes, length: int | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if length is not None:
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirects(target: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.end_headers()

    return answer


def test_download(answers: tuple[str, dict[str, Answer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, answers_by_path = answers
    content = zip_bytes({**PIPELINE, "metadata.json": b"{}"})
    answers_by_path["/p-1.0.zip"] = sends(content)
    answers_by_path["/moved"] = redirects("/p-1.0.zip")
    answers_by_path["/loop"] = redirects("/loop")
    (tmp_path / "local.zip").write_bytes(content)
    answers_by_path["/inside"] = redirects((tmp_path / "local.zip").as_uri())
    answers_by_path["/ftp"] = redirects("ftp://127.0.0.1/x.zip?secret")
    answers_by_path["/cut"] = sends(content[:-50], len(content))
    answers_by_path["/no-zip"] = sends(b"<html>")
    assert read_pipeline(f"{url}/p-1.0.zip?signature=secret")[0] == "p-1.0"
    assert read_pipeline(f"{url}/moved")[0] == "moved"
    for path, why in {
        "/nothing": "404",
        "/loop": "redirect",
        "/inside": "not http",
        "/ftp": "not http",
        "/cut": "bytes came|not a zip",
        "/no-zip": "not a zip",
    }.items():
        with pytest.raises(StoreError, match=why) as caught:
            read_pipeline(f"{url}{path}?signature=secret")
        assert str(caught.value).startswith(url + path)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    monkeypatch.setattr(safe_zip, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(StoreError, match="larger than 100 bytes"):
        read_pipeline(f"{url}/p-1.0.zip")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip"
        with pytest.raises(StoreError, match="refused"):
            read_pipeline(url)
        silent.listen()
        monkeypatch.setattr(download, "SOCKET_TIMEOUT_SECONDS", 0.2)
        with pytest.raises(StoreError, match="timed out"):
            read_pipeline(url)
    for url in ("http://me:secret@localhost/x", "http://[", "http:///x", "http://localhost:99999/", "http://a b/"):
        with pytest.raises(StoreError) as caught:
            read_pipeline(url)
        assert "secret" not in str(caught.value)
