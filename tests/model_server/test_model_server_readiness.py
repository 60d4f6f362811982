"""Tests of `GET /best-models` and `GET /readyz` before and after the model server can answer requests for models.

Deployments start Kepler as soon as `GET /best-models` has status 200, and Kepler requests a model only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from support.model_server import checked_error
from support.process import wait_for
from support.server_process import ServerProcess, free_port, serving
from support.small_pipelines import SmallModel, pipeline
from support.web_server import web_server

from kepler_core.store.archive import archive_bytes
from kepler_core.store.local import LocalStore
from kepler_servers.model_server.initial_locations import initial_locations


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A folder with the zip archives of the pipelines of the public model database."""
    source = LocalStore(tmp_path / "source")
    folder = tmp_path / "database"
    folder.mkdir()
    for name in ("ec2-0.7.11", "specpower-0.7.11", "std_v0.7.11"):
        source.publish(name, pipeline(SmallModel()))
        (folder / f"{name}.zip").write_bytes(archive_bytes(source.snapshot(name)))
    return folder


def check_not_ready(server: ServerProcess, reason: str) -> None:
    """Check that `/best-models` and `/readyz` answer with status 503, and with the reason in JSON."""
    best = server.get("/best-models")
    assert reason in checked_error(best, 503)
    assert int(best.headers["retry-after"]) > 0
    ready = server.get("/readyz")
    assert ready.status == 503
    assert reason in ready.json()["not_ready"]


def check_ready(server: ServerProcess) -> None:
    """Check that `/best-models` and `/readyz` answer with status 200."""
    assert server.get("/best-models").json()["AbsPower"] == {"BPFOnly": "SGDRegressorTrainer_0"}
    ready = server.get("/readyz")
    assert (ready.status, ready.json()["not_ready"]) == (200, None)


def test_an_empty_store_is_not_ready_until_a_pipeline_is_published(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with serving(store.root, tmp_path / "log", ready_path="/healthz") as server:
        check_not_ready(server, f"the store {store.root} has no model yet")
        store.publish("made", pipeline(SmallModel()))
        wait_for(lambda: server.get("/best-models").status == 200, "it is not ready")
        check_ready(server)


def test_a_store_with_broken_pipelines_only_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "store" / "broken").mkdir(parents=True)
    with serving(tmp_path / "store", tmp_path / "log", ready_path="/healthz") as server:
        check_not_ready(server, "no pipeline of the store")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_server_is_ready_after_the_initial_pipelines(tmp_path: Path, database: Path, workers: str) -> None:
    """The server is not ready before it has imported the initial pipelines, although its store has a model.

    The imported models may fit better than the stored model.
    """
    store = LocalStore(tmp_path / "store")
    store.publish("old", pipeline(SmallModel()))
    port = free_port()
    environ = {"INITIAL_PIPELINE_URL": f"http://127.0.0.1:{port}/ec2-0.7.11.zip"}
    arguments = ("--workers", workers)
    with serving(store.root, tmp_path / "log", *arguments, environ=environ, ready_path="/healthz") as server:
        wait_for(lambda: "initial pipelines are missing" in server.log, "the first try does not fail")
        for _ in range(4):  # repeat the request, because any of the worker processes may answer
            check_not_ready(server, "the initial pipelines are being imported")
        with web_server(database, port):
            server.wait_ready("/best-models")
        wait_for(lambda: all("ec2-0.7.11" in pipelines(server) for _ in range(4)), "a worker process does not have it")


def pipelines(server: ServerProcess) -> Mapping[str, object]:
    """Return the pipelines that the server serves."""
    served: Mapping[str, object] = server.get("/readyz").json()["pipelines"]
    return served


def test_pipelines_that_cannot_be_imported_do_not_stop_the_server_for_ever(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish("old", pipeline(SmallModel()))
    url = f"http://127.0.0.1:{free_port()}/missing.zip"
    environ = {"INITIAL_PIPELINE_URL": url}
    with serving(store.root, tmp_path / "log", environ=environ, ready_path="/healthz") as server:
        check_not_ready(server, "the initial pipelines are being imported")
        server.wait_ready("/best-models")
        check_ready(server)
        failures = [line for line in server.log.splitlines() if url in line]
        assert len(failures) == 3
        assert all(line.count(url) == 1 for line in failures), "the URL is in the message twice"


@pytest.mark.parametrize(
    ("folder", "suffix", "imported"),
    [
        (".", "", {"ec2-0.7.11", "specpower-0.7.11"}),
        ("v0.7", "", {"ec2-0.7.11", "specpower-0.7.11"}),
        ("v0.7", "/v0.7/", {"ec2-0.7.11", "specpower-0.7.11"}),
        ("trained", "/trained", {"std_v0.7.11"}),
    ],
)
def test_mirrors_of_the_public_database(
    tmp_path: Path, database: Path, folder: str, suffix: str, imported: set[str]
) -> None:
    served = tmp_path / "web" / folder
    served.mkdir(parents=True)
    for name in imported:
        (database / f"{name}.zip").rename(served / f"{name}.zip")
    port = free_port()
    environ = {"MODEL_TOPURL": f"http://127.0.0.1:{port}{suffix}"}
    with (
        web_server(tmp_path / "web", port),
        serving(tmp_path / "store", tmp_path / "log", environ=environ, ready_path="/best-models") as server,
    ):
        assert set(pipelines(server)) == imported


def test_initial_pipeline_urls_replace_the_database() -> None:
    assert initial_locations(" a.zip, ,b.zip", "http://mirror") == (("a.zip",), ("b.zip",))
    assert initial_locations(None, None) == ()
    first, second = initial_locations(None, "http://mirror/v0.7")
    assert first == ("http://mirror/v0.7/ec2-0.7.11.zip", "http://mirror/v0.7/std_v0.7.11.zip")
    assert second[0] == "http://mirror/v0.7/specpower-0.7.11.zip"
