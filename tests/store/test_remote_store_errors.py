"""Tests of remote stores: commands, errors of servers and file systems, and stores on a plain web server."""

from __future__ import annotations

import functools
import http.server
import json
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler
from support.remote_store import FILES, SECRET, file_names, put
from support.server_process import free_port

from kepler_core.errors import MissingExtraError, StoreError
from kepler_core.store import Store, open_store, remote
from kepler_core.store.archive import read_pipeline
from kepler_core.store.local import LocalStore


def test_commands_on_a_bucket(s3: str, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = kepler("store", *arguments, "-s", s3)
        assert done.returncode == code, done.stderr
        return done.stdout

    model = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.zip"
    LocalStore(tmp_path / "local").publish("mine", {"metadata.json": b"{}", model: b"zip"})
    for version in (1, 2):
        expected = f"mine: version {version} with 1 models\n"
        assert run("import", str(tmp_path / "local" / "mine"), "--name", "mine") == expected
    assert run("rollback", "mine") == "mine: version 1 is current (before: 2)\n"
    assert run("verify", "--all-versions") == "mine version 1: ok\nmine version 2: ok\n"
    run("export", "mine", "-o", str(tmp_path / "x.zip"))
    assert read_pipeline(str(tmp_path / "x.zip")) == ("mine", {"metadata.json": b"{}", model: b"zip"})
    assert [row["current"] for row in json.loads(run("history", "mine", "--json"))["versions"]] == [True, False]
    folder = open_store(s3).snapshot("mine").where.removeprefix(s3 + "/")
    put(s3, f"{folder}/{model}", b"zap")
    assert model in run("verify", code=1)
    assert "damaged" in json.loads(run("verify", "--json", code=1))[0]["state"]


def is_safe_line(error: BaseException, url: str) -> bool:
    """Return whether an error's text is one line that contains the URL and does not contain the secret key."""
    text = str(error)
    return "\n" not in text and url in text and SECRET not in text


def test_no_server(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = open_store(s3)
    for access in (
        store.pipelines,
        lambda: store.snapshot("p"),
        lambda: store.signature("p"),
        lambda: store.versions("p"),
        lambda: store.publish("p", FILES),
        lambda: store.roll_back("p", 1),
        lambda: store.check_writable("p"),
    ):
        with pytest.raises(StoreError, match="Could not connect") as caught:
            access()
        assert is_safe_line(caught.value, s3)


def test_a_silent_server(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreError, match=r"(?i)timeout") as caught:
            open_store(s3).pipelines()
    assert is_safe_line(caught.value, s3)


def test_no_bucket(s3: str) -> None:
    url = "s3://no-such-bucket-here/models"
    store = open_store(url)
    for access in (
        store.pipelines,
        lambda: store.snapshot("p"),
        lambda: store.signature("p"),
        lambda: store.versions("p"),
        lambda: store.publish("p", FILES),
        lambda: store.check_writable("p"),
    ):
        with pytest.raises(StoreError, match="bucket") as caught:
            access()
        assert is_safe_line(caught.value, url)


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="credentials") as caught:
        open_store(s3).pipelines()
    assert is_safe_line(caught.value, s3)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "x" * 101, ".current"])
def test_unsafe_names(name: str) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store: Store = open_store(url)
    for access in (lambda: store.publish(name, FILES), lambda: store.snapshot(name), lambda: store.versions(name)):
        with pytest.raises(StoreError, match="is not a name"):
            access()
    assert file_names(url) == set()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense://x/y", "is not known"),
        ("s3://", "no bucket"),
        ("s3://me:password@bucket/x", "credentials come from the environment"),
        ("https://me:password@host/x", "credentials come from the environment"),
        ("s3://bucket/x?secret=password", "credentials come from the environment"),
        ("s3://bucket::file:///etc", "a store's URL is"),
    ],
)
def test_urls_that_are_not_a_store(url: str, why: str) -> None:
    if url.startswith("s3"):
        pytest.importorskip("s3fs", reason="s3fs is not installed")
    with pytest.raises(StoreError, match=why) as caught:
        open_store(url)
    assert "password" not in str(caught.value).replace("user, password,", "")


@pytest.mark.parametrize("module", ["fsspec", "s3fs"])
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """The error about a missing library shows the pip command that installs it.

    The test needs a new process, because fsspec caches imports.
    """
    script = (
        f"import sys; sys.modules[{module!r}] = None\nfrom kepler_core.store import open_store\nopen_store('s3://b')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"kepler_core.errors.{MissingExtraError.__name__}: "
        f"a store at s3://b needs {module}: pip install 'kepler-core[s3]'"
    )


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_plain_web_server_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    theirs = tmp_path / "theirs"
    (theirs / "rapl-sysfs").mkdir(parents=True)
    (theirs / "metadata.json").write_bytes(b"{}")
    (theirs / "rapl-sysfs" / "x").write_bytes(b"12")
    LocalStore(tmp_path).publish("ours", FILES)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        store = open_store(f"http://127.0.0.1:{server.server_port}/")
        assert store.pipelines() == ["ours", "theirs"]
        snapshot = store.snapshot("theirs")
        assert snapshot.names == {"metadata.json", "rapl-sysfs/x"}
        assert snapshot.read("rapl-sysfs/x") == b"12"
        assert store.snapshot("ours").problems() == {}, "with its manifest"
        for change in (lambda: store.publish("p", FILES), lambda: store.check_writable("p")):
            with pytest.raises(StoreError, match=r"can only be read|cannot write"):
                change()
        with pytest.raises(StoreError, match="no pipeline 'nobody'"):
            store.snapshot("nobody")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(StoreError, match="cannot read the store"):
        store.pipelines()
