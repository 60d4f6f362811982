"""Tests of the estimator with model servers that send damaged answers, endless answers, or no answer."""

from __future__ import annotations

import http.server
import io
import json
import os
import pickle
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.estimator_clients import DYN_WATTS, OTHER_WATTS, REQUEST, WATTS, connect, watts_request
from support.estimator_process import EstimatorProcess
from support.linear_models import ABS, ALL, OTHER, LinearModel, publish
from support.process import wait_for

from kepler_core.store.layout import zip_bytes


class _HostileHandler(http.server.BaseHTTPRequestHandler):
    """HTTP handler of a hostile model server. The last part of the path is the name of a behaviour in `BEHAVIOURS`."""

    protocol_version = "HTTP/1.0"
    over: threading.Event
    """Event that is set at the end of the test. It stops endless answers."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):  # the OSError means that the estimator has closed the connection
            BEHAVIOURS[self.path.strip("/").split("/")[-1]](self)

    do_GET = do_POST

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def _model_zip(**files: bytes) -> bytes:
    """Return the zip archive of a valid model in which some files are replaced."""
    stored = ABS.stored()[1]
    replaced = {name.replace("_json", ".json").replace("_pkl", ".pkl"): data for name, data in files.items()}
    return zip_bytes({**stored, **replaced})


def _raw_zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


class _Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("touch pickle-was-loaded",)


def _endless(handler: _HostileHandler) -> None:
    handler.send(b"")
    while not handler.over.is_set():
        handler.wfile.write(b"\0" * 2**20)


def _silent(handler: _HostileHandler) -> None:
    handler.over.wait(120)


def _drip(handler: _HostileHandler) -> None:
    handler.send(b"", Content_Length="1000000")
    while not handler.over.wait(1.0):
        handler.wfile.write(b"P")
        handler.wfile.flush()


_METADATA = ABS.stored()[1]["metadata.json"]

BEHAVIOURS: dict[str, Callable[[_HostileHandler], None]] = {
    "garbage": lambda h: h.send(os.urandom(5000)),
    "empty": lambda h: h.send(b""),
    "error": lambda h: h.send(b"<html>" * 1000, 500),
    "not_found_deep": lambda h: h.send(b'{"msg":' * 50_000, 404),
    "redirect_to_file": lambda h: h.send(b"", 302, Location="file:///etc/passwd"),
    "redirect_circle": lambda h: h.send(b"", 302, Location=h.path),
    "closes": lambda h: h.connection.close(),
    "not_http": lambda h: h.wfile.write(b"\x16\x03\x01" * 500),  # type: ignore[arg-type, return-value]
    "long_header": lambda h: h.send(b"", X_Kepler_Selection="x" * 200_000),
    "cut": lambda h: h.send(_model_zip()[:200], Content_Length=str(len(_model_zip()))),
    "bomb": lambda h: h.send(_raw_zip(("metadata.json", _METADATA), ("package.json", bytes(400 * 2**20)))),
    "climbs": lambda h: h.send(_raw_zip(("metadata.json", _METADATA), ("../../escaped.json", b"{}"))),
    "no_metadata": lambda h: h.send(zip_bytes({"model.json": b"{}"})),
    "half_metadata": lambda h: h.send(_model_zip(metadata_json=b'{"features":')),
    "deep_metadata": lambda h: h.send(_model_zip(metadata_json=b'{"a":' * 200_000)),
    "metadata_list": lambda h: h.send(_model_zip(metadata_json=b"[]")),
    "pickles": lambda h: h.send(zip_bytes({"metadata.json": _METADATA, "m.pkl": pickle.dumps(_Exploit())})),
    "pickles_named": lambda h: h.send(_model_zip(package_json=pickle.dumps(_Exploit()))),
    "half_model": lambda h: h.send(_model_zip(model_json=b'{"layout":1')),
    "deep_model": lambda h: h.send(_model_zip(model_json=b'{"layout":' * 200_000)),
    "weights_not_finite": lambda h: h.send(_model_zip(package_json=b'{"type":"linear","weights":{},"bias":1e999}')),
    "selection_deep": lambda h: h.send(b"PK", X_Kepler_Selection='{"a":' * 5000),
    # The slow behaviours come last. All estimators start at once, so the estimators with slow servers wait while
    # tests of faster behaviours run.
    "endless": _endless,
    "silent": _silent,
    "drip": _drip,
}


@contextmanager
def hostile_server(port: int = 0) -> Iterator[str]:
    over = threading.Event()
    handler = type("Handler", (_HostileHandler,), {"over": over})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()


def logs_warning_about(estimator: EstimatorProcess, name: str) -> bool:
    """Return whether the estimator has logged a warning or error with the model server's URL, which ends in `name`."""
    warning = re.compile(rf"(WARNING|ERROR) .*/{name}\b")
    return any(warning.search(line) for line in estimator.log.splitlines())


@pytest.fixture(scope="module")
def estimators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EstimatorProcess]]:
    """One estimator for each hostile behaviour. The estimator's model server has this behaviour; its store is good."""
    folder = tmp_path_factory.mktemp("hostile_servers")
    publish(folder / "store", *ALL)
    with hostile_server() as url, ExitStack() as stack:
        by_behaviour = {}
        for number, name in enumerate(BEHAVIOURS):
            arguments = ("-s", folder / "store", "--model-server", f"{url}/{name}")
            by_behaviour[name] = EstimatorProcess(folder / f"{number}.sock", *arguments)
            stack.callback(by_behaviour[name].stop)
        for estimator in by_behaviour.values():
            estimator.wait_ready()
            for request in (REQUEST, watts_request(output_type="DynPower")):
                with connect(estimator.path) as connection:
                    # The request makes the estimator search for a model. The reply is not needed.
                    connection.sendall(json.dumps(request).encode())
        yield by_behaviour


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_hostile_model_server_is_passed_over(estimators: dict[str, EstimatorProcess], name: str) -> None:
    estimator = estimators[name]
    assert estimator.status()["origins"], "the loop must answer meanwhile"
    estimator.wait_answer(REQUEST, WATTS)
    estimator.wait_answer(watts_request(output_type="DynPower"), DYN_WATTS)
    assert [provider for provider in estimator.providers_in_use() if not provider.startswith("store ")] == []
    estimator.check_log()
    assert not Path("pickle-was-loaded").exists()
    assert logs_warning_about(estimator, name), "the log must say why the model server is not used"


_LATER_BEHAVIOURS = [
    "garbage",
    "empty",
    "error",
    "closes",
    "half_metadata",
    "pickles",
    "half_model",
    "weights_not_finite",
]


class _SwitchingHandler(_HostileHandler):
    """HTTP handler of a model server that serves `model`, or behaves in a hostile way while `model` is None."""

    model: LinearModel | None = ABS
    request_counts: Counter[str]

    def do_POST(self) -> None:
        type(self).request_counts[self.path] += 1
        if self.model is None:
            super().do_POST()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send(zip_bytes(self.model.stored()[1]), X_Kepler_Model="made/of/a/server")


def test_the_last_good_model_stays_while_its_server_is_hostile(tmp_path: Path) -> None:
    handler = type("Handler", (_SwitchingHandler,), {"over": threading.Event(), "request_counts": Counter()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, ExitStack() as stack:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        stack.callback(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}"
        estimators = {name: EstimatorProcess(tmp_path / f"{name}.sock", "--model-server", f"{url}/{name}",
                                             "--refresh", "1") for name in _LATER_BEHAVIOURS}  # fmt: skip
        for estimator in estimators.values():
            stack.callback(estimator.stop)
        for name, estimator in estimators.items():
            estimator.wait_ready()
            estimator.wait_answer(REQUEST, WATTS)
            assert estimator.providers_in_use() == [f"model server {url}/{name}"]
        handler.model = None
        handler.request_counts.clear()
        wait_for(
            lambda: all(handler.request_counts[f"/{name}"] >= 2 for name in _LATER_BEHAVIOURS),
            "the estimators did not retry",
        )
        powers = {name: estimator.ask(REQUEST)["powers"] for name, estimator in estimators.items()}
        assert powers == dict.fromkeys(_LATER_BEHAVIOURS, WATTS)
        handler.model = OTHER
        for estimator in estimators.values():
            estimator.wait_answer(REQUEST, OTHER_WATTS)
        for name, estimator in estimators.items():
            assert logs_warning_about(estimator, name), "the log must say why the answer was not used"
            estimator.check_log()
