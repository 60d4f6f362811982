"""Tests of downloads from slow servers: downloads end at their deadline, and SIGTERM ends every wait for a download."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from support.estimator_clients import REQUEST, connect
from support.estimator_process import EstimatorProcess
from support.process import wait_for
from support.slow_servers import GENEROUS, SLOW_SERVERS, slow_server

from kepler_core.errors import StoreError
from kepler_core.selection import ModelRequest
from kepler_core.store import open_store, time_limits
from kepler_core.store.download import download
from kepler_servers.estimator import remote_providers
from kepler_servers.estimator.model_providers import UnreachableError
from kepler_servers.estimator.remote_providers import ModelServerProvider

SECONDS = 1.0


@pytest.mark.parametrize("kind", SLOW_SERVERS)
def test_a_download_ends_at_its_deadline(kind: str) -> None:
    pieces, repeat = SLOW_SERVERS[kind]
    with slow_server(*pieces, repeat=repeat) as server:
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"the download is not complete within 1 s|redirects"):
            download(f"{server.url}/x.zip", seconds=SECONDS)
        assert time.monotonic() - started < GENEROUS
        wait_for(lambda: server.open_connections == 0, "the connection stays open")
        wait_for(lambda: not any("deadline" in t.name for t in threading.enumerate()), "the thread stays")


@pytest.mark.parametrize("kind", SLOW_SERVERS)
def test_a_model_server_is_passed_over_at_the_deadline(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_providers, "SERVER_TIMEOUT_SECONDS", SECONDS)
    pieces, repeat = SLOW_SERVERS[kind]
    with slow_server(*pieces, repeat=repeat) as server:
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            ModelServerProvider(f"{server.url}/model").offer(ModelRequest("AbsPower", ("a",), "rapl-sysfs"))
        assert time.monotonic() - started < GENEROUS
        wait_for(lambda: server.open_connections == 0, "the connection stays open")


def test_a_remote_store_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(time_limits, "READ_SECONDS", SECONDS)
    pieces, repeat = SLOW_SERVERS["a-byte-at-a-time-of-the-body"]
    with slow_server(*pieces, repeat=repeat) as server:
        started = time.monotonic()
        with pytest.raises(StoreError, match="not complete within 1 s"):
            open_store(f"{server.url}/store").snapshot("made")
        assert time.monotonic() - started < GENEROUS


@pytest.mark.parametrize("provider", ["url", "model-server", "store"])
@pytest.mark.parametrize("kind", ["a-silent-server", "a-byte-at-a-time-of-the-head"])
def test_sigterm_ends_the_estimator_while_it_waits_for_a_server(tmp_path: Path, provider: str, kind: str) -> None:
    if provider == "store":
        pytest.importorskip("aiohttp")
    pieces, repeat = SLOW_SERVERS[kind]
    with slow_server(*pieces, repeat=repeat) as server:
        arguments = {
            "url": (),
            "model-server": ("--model-server", server.url),
            "store": ("--store", f"{server.url}/store"),
        }[provider]
        environ = {"NODE_COMPONENTS_INIT_URL": f"{server.url}/x.zip"} if provider == "url" else {}
        estimator = EstimatorProcess(tmp_path / "e.sock", *arguments, environ=environ)
        try:
            estimator.wait_ready()
            with connect(estimator.path) as waiting:
                waiting.sendall(json.dumps(REQUEST).encode())
                wait_for(server.connected.is_set, "the server is not asked")
                estimator.process.terminate()
                wait_for(lambda: estimator.process.poll() is not None, "the estimator still runs", GENEROUS)
                assert b'"powers":{}' in waiting.recv(4096)
        finally:
            code = estimator.stop()
        assert code == 0, estimator.log
        estimator.check_log()
        assert not estimator.path.exists()
