"""Tests that the estimator's memory does not grow with needless files of models, or with texts in requests."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.estimator_clients import REQUEST, WATTS, connect, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import ABS, files_of, publish
from support.small_pipelines import BPF

from kepler_core.errors import ModelError, StoreError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import MAX_COMPONENT_BYTES, MAX_DOCUMENT_BYTES
from kepler_core.store.local import LocalStore
from kepler_core.store.model_archive import ModelArchive

LARGE_BYTES = 250 * 2**20
ALLOWED_KIB = 24 * 2**10
"""Allowed growth of memory, in KiB. Each large file has ten times this size."""


@pytest.fixture(scope="module")
def hostile_zip() -> bytes:
    """Return a zip of half a MiB with a good model and two needless files, which are 250 MiB of zeros each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ABS.stored()[1].items():
            archive.writestr(name, content)
        for name in ("a.json", "b.onnx"):
            with archive.open(name, "w") as file:
                for _ in range(LARGE_BYTES // 2**20):
                    file.write(bytes(2**20))
    assert len(buffer.getvalue()) < 2**20
    return buffer.getvalue()


@contextmanager
def serving(content: bytes) -> Iterator[str]:
    """Run an HTTP server that answers every GET and POST request with `content`, and yield the server's URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def memory_with(path: Path, content: bytes, way: str) -> tuple[int, int]:
    """Let an estimator load the model in a zip. Return the estimator's peak memory and resident memory, in KiB."""
    with serving(content) as url:
        environ = {"NODE_COMPONENTS_INIT_URL": f"{url}/model.zip"} if way == "url" else {}
        arguments = ("--model-server", url) if way == "model-server" else ()
        with running_estimator(path, *arguments, environ=environ) as estimator:
            estimator.wait_answer(REQUEST, WATTS)
            return estimator.peak_resident_kib(), estimator.resident_kib()


@pytest.mark.parametrize("way", ["url", "model-server"])
def test_large_files_in_the_zip_of_a_model(tmp_path: Path, hostile_zip: bytes, way: str) -> None:
    good = memory_with(tmp_path / "good.sock", ModelArchive(hostile_zip, "x").without_other_files().content, way)
    hostile = memory_with(tmp_path / "hostile.sock", hostile_zip, way)
    assert hostile[0] <= good[0] + ALLOWED_KIB, (good, hostile)
    assert hostile[1] <= good[1] + ALLOWED_KIB, (good, hostile)


def test_large_files_in_a_folder_of_a_store(tmp_path: Path) -> None:
    """The estimator does not read needless large files, and refuses a large file of the model itself.

    The pipeline has no manifest, like a pipeline that was copied by hand, so the store does not check file sizes.
    """
    publish(tmp_path / "store", ABS)
    shutil.copytree(tmp_path / "store" / "made", tmp_path / "copied" / "made", symlinks=False)
    folder = tmp_path / "copied" / "made" / "rapl-sysfs" / "AbsPower" / "BPFOnly" / ABS.name
    (tmp_path / "copied" / "made" / "manifest.json").unlink()
    for name in ("other.json", "other.onnx"):
        with (folder / name).open("wb") as file:
            file.truncate(LARGE_BYTES)
    with running_estimator(tmp_path / "good.sock", "-s", tmp_path / "store") as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        good = estimator.peak_resident_kib()
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "copied") as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        assert estimator.peak_resident_kib() <= good + ALLOWED_KIB
    with (folder / "package.json").open("ab") as file:
        file.truncate(LARGE_BYTES)
    with running_estimator(tmp_path / "large.sock", "-s", tmp_path / "copied") as estimator:
        reply = estimator.ask(REQUEST)
        assert reply["powers"] == {}
        assert f"larger than {MAX_COMPONENT_BYTES} bytes" in reply["msg"]
        assert estimator.peak_resident_kib() <= good + ALLOWED_KIB


@pytest.mark.parametrize(("name", "limit"), [("package.json", MAX_COMPONENT_BYTES), ("model.json", MAX_DOCUMENT_BYTES)])
def test_models_with_too_large_files_are_rejected(tmp_path: Path, name: str, limit: int) -> None:
    content = ABS.stored()[1][name].ljust(limit + 1)
    files = {**ABS.stored()[1], name: content}
    with pytest.raises(ModelError, match=f"{name} is larger than {limit} bytes"):
        load_model(files)
    (tmp_path / "model").mkdir()
    for file, data in files.items():
        (tmp_path / "model" / file).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name} is larger than {limit} bytes"):
        load_model(tmp_path / "model")
    pipeline = files_of(ABS)
    pipeline[next(path for path in pipeline if path.endswith(f"/{name}"))] = content
    with pytest.raises(StoreError, match=rf"{name} has {limit + 1} bytes, at most {limit} are allowed"):
        LocalStore(tmp_path / "store").publish("made", pipeline)


def request_with_long_names(number: int) -> dict[str, Any]:
    """Return a request with hundreds of metrics and long texts, which differ for each `number`."""
    metrics = [*BPF, *(f"{number}-{index}-".ljust(19, "ß") for index in range(450))]
    return watts_request([[1.0] * len(metrics)], metrics, trainer_name=f"T{number}-".ljust(900, "€"))


def test_kinds_of_requests_with_long_names(store: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        for number in range(50):
            estimator.ask(request_with_long_names(number))
        before = estimator.resident_kib()
        for number in range(50, 600):
            estimator.ask(request_with_long_names(number))
        assert estimator.resident_kib() <= before + ALLOWED_KIB
        check_status(estimator)
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_the_status_of_many_kinds_of_requests(store: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        for number in range(500):
            estimator.ask(watts_request(filter=f"mae:{number + 1};" + ";".join(["mape:1000000"] * 70)))
        check_status(estimator)


def check_status(estimator: EstimatorProcess) -> None:
    with connect(estimator.path) as connection:
        connection.sendall(b'{"command":"status"}')
        content = b"".join(iter(lambda: connection.recv(65536), b""))
    assert len(content) < 64 * 2**10
    status = json.loads(content)
    assert status["models_left_out"] > 0
    assert status["models"]
