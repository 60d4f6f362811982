"""Tests of pipelines at URLs: downloads, redirects, and errors of downloads."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipeline_archive import PIPELINE

from kepler_core.errors import StoreError
from kepler_core.store import download, safe_zip
from kepler_core.store.archive import read_pipeline
from kepler_core.store.layout import zip_bytes

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Answer]]]:
    """The URL of a web server, and the dict of its answers by path. Tests add answers to this dict."""
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
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
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
        "/cut": "bytes arrived|not a zip",
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


def test_servers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
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
