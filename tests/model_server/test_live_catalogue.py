"""Tests of the model server while its store changes, is damaged or is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.live_store import LiveStore, flip
from support.model_server import ALL_FEATURES, MINIMAL, checked_error, checked_weights, in_threads, total
from support.process import wait_for
from support.server_process import ServerProcess, ask, serving
from support.small_pipelines import CAPTURED, SmallModel, linear, pipeline

from kepler_core.store.archive import read_zip
from kepler_core.store.local import LocalStore

MODEL_PATH = SmallModel().path

BREAKS: dict[str, Callable[[Path], None]] = {
    "flipped-metadata": lambda folder: flip(folder / f"{MODEL_PATH}/metadata.json"),
    "flipped-zip": lambda folder: flip(folder / f"{MODEL_PATH}.zip"),
    "flipped-weights": lambda folder: flip(folder / f"{MODEL_PATH}.json"),
    "no-file": lambda folder: (folder / f"{MODEL_PATH}.zip").unlink(),
    "no-zip": lambda folder: (folder / f"{MODEL_PATH}.zip").write_bytes(b"not a zip"),
    "no-manifest": lambda folder: (folder / "manifest.json").unlink(),
    "bad-manifest": lambda folder: (folder / "manifest.json").write_bytes(b"{"),
}
"""For each pipeline: a function that damages version 2 of the pipeline. It gets the folder of this version."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStore]:
    """A model store, and a server that serves the store. Each test changes only pipelines that no other test uses."""
    store = LocalStore(tmp_path_factory.mktemp("live") / "store")
    store.publish("first", pipeline(SmallModel()))
    for name in ("going", "busy", "killed", *BREAKS):
        store.publish(name, pipeline(SmallModel(weights={"package": linear(1.0)})))
    with serving(store.root, tmp_path_factory.mktemp("log") / "live.log") as server:
        yield LiveStore(store, server)


# --- publishing ---


def test_new_pipeline_and_new_version(live: LiveStore) -> None:
    assert live.bias("new") is None
    live.publish("new", bias=1.0)
    live.wait_for_bias("new", 1.0)
    live.publish("new", bias=2.0)
    live.wait_for_bias("new", 2.0)
    assert live.ask("new").json()["selection"]["version"] == 2
    assert live.health()["pipelines"]["new"] == {"version": 2, "models": 1}
    live.store.roll_back("new", 1)
    live.wait_for_bias("new", 1.0)
    assert live.health()["pipelines"]["new"]["version"] == 1


def test_removed_pipeline(live: LiveStore) -> None:
    assert live.bias("going") == 1.0
    (live.store.root / "going").unlink()
    live.wait_for_bias("going", None)
    assert "going" not in live.health()["pipelines"]
    assert "going" not in live.server.get("/node-types").json()
    assert total(live.server.metrics(), "kepler_model_server_models", pipeline="going") == 0


def served_version(server: ServerProcess, done: threading.Event, archive: bool) -> Iterator[int]:
    """Request a model of the pipeline `busy` again and again until `done` is set, and yield the served versions.

    Check that all parts of an answer come from the same version of the pipeline.
    """
    connection = server.connect()
    body = json.dumps({**MINIMAL, "weight": not archive, "pipeline_name": "busy"}).encode()
    while not done.is_set():
        answer = ask(connection, "POST", "/model", body)
        if archive:
            assert answer.status == 200
            version = json.loads(answer.headers["x-kepler-selection"])["version"]
            weights = json.loads(read_zip(answer.body, "answer")["weight.json"])
        else:
            weights = checked_weights(answer)
            version = weights["selection"]["version"]
        assert weights["package"]["All_Weights"]["Bias_Weight"] == version
        yield version
    connection.close()


def test_publishing_under_load(live: LiveStore) -> None:
    assert live.bias("busy") == 1.0
    done = threading.Event()
    versions: set[int] = set()

    def client(archive: bool) -> None:
        for version in served_version(live.server, done, archive):
            versions.add(version)

    def publisher() -> None:
        try:
            for version in range(2, 9):
                assert live.publish("busy", bias=float(version)) == version
                if version in (3, 8):
                    wait_for(partial(versions.__contains__, version), f"version {version} is never served")
        finally:
            done.set()

    in_threads([publisher, *(partial(client, number % 4 == 0) for number in range(16))])
    assert {1, 3, 8} <= versions


PUBLISHER = """
import sys
from kepler_core.store.local import LocalStore
store = LocalStore(sys.argv[1])
files = {name: (store.path("killed") / name).read_bytes() for name in store.snapshot("killed").names}
files.pop("manifest.json")
files |= {f"more/{n}": bytes(50_000) for n in range(40)}
print("begun", flush=True)
while True:
    store.publish("killed", files)
    print("one", flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_killed_publisher(live: LiveStore, lines: int) -> None:
    assert live.bias("killed") == 1.0
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(live.store.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()
    assert live.store.snapshot("killed").problems() == {}
    assert live.bias("killed") == 1.0
    assert "killed" not in live.health()["broken"]


def test_publishing_after_killed_publishers(live: LiveStore) -> None:
    live.publish("killed", bias=2.0)
    live.wait_for_bias("killed", 2.0)


def test_names_that_are_not_ascii(live: LiveStore) -> None:
    """Models are served even if the name of their feature group has characters that are not ASCII."""
    live.publish("foreign", SmallModel(group="Größe", weights={"package": linear(7.0)}))
    wait_for(lambda: "foreign" in live.health()["pipelines"], "it is not served")
    assert live.ask("foreign").status == 200
    assert live.ask("foreign", weight=False).status == 200
    url = "/models/foreign/rapl-sysfs/AbsPower/Gr%C3%B6%C3%9Fe/SGDRegressorTrainer_0"
    for suffix in ("", ".json", ".zip"):
        assert live.server.get(url + suffix).status == 200
    assert live.server.get("/models?feature-group=Gr%C3%B6%C3%9Fe").json()["total"] == 1


def test_log_lists_the_pipelines(live: LiveStore) -> None:
    assert "pipeline first, version 1: 1 models, 1 node types" in live.server.log


# --- damage ---


def test_last_good_version_is_served_while_the_current_one_is_broken(live: LiveStore) -> None:
    for name, change in BREAKS.items():
        assert live.bias(name) == 1.0
        live.put_version(name, change)
    for name in BREAKS:
        assert live.wait_broken(name)
        assert live.bias(name) == 1.0
        assert live.health()["pipelines"][name]["version"] == 1
    assert live.bias("first") == 10.0
    for name in BREAKS:
        live.store.roll_back(name, 1)
    live.wait_not_broken(*BREAKS)
    for name in BREAKS:
        assert live.bias(name) == 1.0


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_pipeline_that_is_copied_file_by_file(live: LiveStore) -> None:
    """A pipeline that a user copies into the store has no manifest. It is served as soon as its files are complete."""
    folder = live.store.root / "copied"
    folder.mkdir()
    assert "half copied" in live.wait_broken("copied")
    assert live.bias("copied") is None
    files = pipeline(SmallModel(weights={"package": linear(5.0)}))
    write_files(folder, dict(sorted(files.items(), key=lambda item: item[0] == "metadata.json")))
    live.wait_for_bias("copied", 5.0)
    live.wait_not_broken("copied")


def test_pipeline_whose_model_is_only_a_zip(live: LiveStore) -> None:
    files = pipeline(SmallModel(weights={"package": linear(5.0)}))
    zipped = {name: content for name, content in files.items() if not name.startswith(f"{MODEL_PATH}/")}
    folder = live.store.root / "zipped"
    write_files(folder, {**zipped, f"{MODEL_PATH}.zip": b"not a zip"})
    assert "zip" in live.wait_broken("zipped")
    (folder / f"{MODEL_PATH}.zip").write_bytes(zipped[f"{MODEL_PATH}.zip"])
    live.wait_for_bias("zipped", 5.0)


def test_pipelines_without_a_good_version_are_skipped(live: LiveStore) -> None:
    root = live.store.root
    (root / "empty").mkdir()
    (root / "list").mkdir()
    (root / "list" / "metadata.json").write_bytes(b"[]")
    (root / "list" / "node_type_index.json").write_bytes(b"[" * 100_000)
    (root / "dangling").symlink_to("nowhere")
    for name in ("empty", "list", "dangling"):
        assert live.wait_broken(name)
    assert live.bias("first") == 10.0
    (root / "dangling").unlink()
    live.wait_not_broken("dangling")


def test_link_to_itself(live: LiveStore) -> None:
    link = live.store.root / "a-loop"
    link.symlink_to("a-loop")
    try:
        live.publish("after-a-loop", bias=1.0)
        live.wait_for_bias("after-a-loop", 1.0)
        assert live.wait_broken("a-loop")
    finally:
        link.unlink()


BEST_TWO = (SmallModel(mae=1), SmallModel("LinearRegressionTrainer", mae=2))


def publish_two(live: LiveStore, name: str) -> tuple[Path, Path]:
    """Publish a pipeline with two models. Return the paths of both zip files; the better model's path comes first."""
    live.publish(name, *BEST_TWO)
    live.wait_for_bias(name, 10.0)
    best, second = (live.store.path(name) / f"{model.path}.zip" for model in BEST_TWO)
    return best, second


def test_next_best_model_is_served_for_a_damaged_zip(live: LiveStore) -> None:
    best, second = publish_two(live, "damaged")
    flip(best)
    answer = live.ask("damaged", weight=False)
    assert answer.status == 200
    assert answer.body == second.read_bytes()
    assert "SHA-256" in live.wait_broken("damaged")


def test_all_zips_are_damaged(live: LiveStore) -> None:
    best, second = publish_two(live, "all-damaged")
    flip(best)
    good = second.read_bytes()
    assert live.ask("all-damaged", weight=False).body == good
    flip(second)
    message = checked_error(live.server.get(f"/models/all-damaged/{BEST_TWO[1].path}.zip"), 503)
    assert "SHA-256" in message
    # The server may still have the answer to the first request in its cache. A request with other metrics is not in
    # the cache, so the server must read the damaged file.
    cached = live.ask("all-damaged", weight=False)
    assert cached.status in (404, 503) or cached.body == good
    answer = live.ask("all-damaged", weight=False, metrics=ALL_FEATURES)
    assert answer.status in (404, 503)
    checked_error(answer, answer.status)


def test_repaired_zips_are_served_again(live: LiveStore) -> None:
    best, _ = publish_two(live, "repaired")
    flip(best)
    live.ask("repaired", weight=False)
    live.wait_broken("repaired")
    flip(best)
    live.wait_for_bias("repaired", 10.0)
    live.wait_not_broken("repaired")


def test_new_version_replaces_a_damaged_one(live: LiveStore) -> None:
    best, _ = publish_two(live, "replaced")
    flip(best)
    live.ask("replaced", weight=False)
    live.wait_broken("replaced")
    live.publish("replaced", bias=3.0)
    live.wait_for_bias("replaced", 3.0)
    live.wait_not_broken("replaced")


# --- the whole store ---


def test_store_that_is_missing_at_the_start(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "parent" / "store")
    with serving(store.root, tmp_path / "log", ready_path="/metrics") as server:
        assert store.exists(), "the folder of the store is created"
        assert f"store {store.root}: the folder did not exist; created an empty one" in server.log
        health = server.get("/healthz").json()
        assert (health["status"], health["models"], health["store_problem"]) == ("ok", 0, None)
        assert health["not_ready"] == f"the store {store.root} has no model yet"
        checked_error(server.post(CAPTURED), 404)
        assert server.get("/models").json() == {"total": 0, "models": []}
        assert total(server.metrics(), "kepler_model_server_store_up") == 1
        store.publish("made", pipeline(SmallModel()))
        wait_for(lambda: server.post(CAPTURED).status == 200, "it is not served")
        assert server.get("/readyz").status == 200


def test_store_whose_folder_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = LocalStore(tmp_path / "file" / "store")
    with serving(store.root, tmp_path / "log", ready_path="/metrics") as server:
        assert f"store {store.root}: the folder does not exist and cannot be created" in server.log
        readiness = server.get("/readyz")
        assert (readiness.status, readiness.json()["status"]) == (503, "degraded")
        assert str(store.root) in readiness.json()["store_problem"]
        assert server.get("/healthz").status == 200
        assert str(store.root) in checked_error(server.post(CAPTURED), 503)
        assert total(server.metrics(), "kepler_model_server_store_up") == 0


def test_store_that_is_away_for_a_while(tmp_path: Path) -> None:
    """While the folder of the store is missing, the server still serves the models that it has already read."""
    store = LocalStore(tmp_path / "store")
    store.publish("made", pipeline(SmallModel()))
    with serving(store.root, tmp_path / "log") as server:
        store.root.rename(tmp_path / "away")
        wait_for(lambda: server.get("/healthz").json()["store_problem"] is not None, "no problem is reported")
        assert server.get("/healthz").json()["status"] == "degraded"
        assert server.get("/readyz").status == 200
        checked_weights(server.post(CAPTURED))
        (tmp_path / "away").rename(store.root)
        wait_for(lambda: server.get("/healthz").json()["status"] == "ok", "the problem is still reported")
