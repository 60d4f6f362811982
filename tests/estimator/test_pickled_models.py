"""Tests of linear weights that the estimator uses in place of pickles: from URLs, stores and model servers."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.estimator_clients import watts_request
from support.estimator_process import running_estimator
from support.http_files import http_files
from support.old_model_server import KEYS_0_6, KEYS_0_7, old_model_server
from support.server_process import serving
from support.small_pipelines import SmallModel, curve, linear, pipeline

from kepler_core.models.linear_weights import read_linear_weights
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore
from kepler_servers.estimator.model_providers import MAX_WHY_BYTES, ModelOffer, stand_in_remark

MACHINE = {"processor": "x", "cores": 96, "chips": 2, "memory": 64, "frequency": 3000}
MINE = {**MACHINE, "cores": 48}
WEIGHTS = {"package": linear(30.0, {"bpf_cpu_time_ms": 10.0}), "dram": linear(3.0, {"bpf_cpu_time_ms": 0.0})}
REQUEST = watts_request([[1000, 7], [0, 0]])
"""A request with bpf_cpu_time_ms and bpf_page_cache_hit. The first row is a busy node, the second is an idle node."""
POWERS = {"package": [40.0, 30.0], "dram": [3.0, 3.0]}
"""The watts that `WEIGHTS` give for `REQUEST`."""
XGBOOST = SmallModel("XgboostFitTrainer", mae=1, weights=None)
LINEAR = SmallModel(mae=5, weights=WEIGHTS)
CURVE = SmallModel("LogarithmicRegressionTrainer", weights={"package": curve([1.0, 1.0, 1.0], scale=5.0)})
KEY = "NODE_COMPONENTS_INIT_URL"
STANDS_IN = f"linear weights of {LINEAR.name} stand in for {XGBOOST.name}"
"""Message of a reply if the estimator uses the weights of `LINEAR` in place of the better model `XGBOOST`."""


def poison(folder: Path) -> bytes:
    """Return a pickle that creates the file `loaded` in the folder when it is loaded."""
    return f"cos\nsystem\n(S'touch {folder}/loaded'\ntR.".encode()


def write_database(folder: Path, *models: SmallModel, weights_in_zip: bool = False) -> Path:
    """Write a pipeline in the layout of kepler-model-db, and return the folder that contains its models.

    Each model is a zip file with pickles. The model's weights are beside the zip file or, if `weights_in_zip` is
    true, in the zip file.
    """
    for name, content in pipeline(*models, node_types={0: MACHINE}).items():
        if name.count("/") < 4 and not name.endswith(".zip") and not (weights_in_zip and name.count("/") == 3):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    for model in models:
        files = {name.rpartition("/")[2]: content for name, content in model.files().items()}
        content = {"metadata.json": files["metadata.json"], "scaler.pkl": poison(folder), "package.pkl": poison(folder)}
        components = {"package": {"model_file": "package.pkl", "fe_files": ["scaler.pkl"]}}
        content[f"{model.name}.json"] = json.dumps(components).encode()
        if weights_in_zip and model.weights is not None:
            content["weight.json"] = files["weight.json"]
        path = folder / f"{model.path}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zip_bytes(content))
    return folder / "rapl-sysfs" / "AbsPower" / "BPFOnly"


def ask(tmp_path: Path, *arguments: str | Path, request: Mapping[str, Any] = REQUEST, **environ: str) -> dict[str, Any]:
    """Return the reply of an estimator on the machine `MINE`.

    If the estimator uses weights in place of a model, check that it has logged this once.
    """
    (tmp_path / "machine.json").write_text(json.dumps(MINE))
    arguments = (*arguments, "--machine-spec", tmp_path / "machine.json")
    with running_estimator(tmp_path / "e.sock", *arguments, environ=environ) as estimator:
        reply = estimator.ask(request)
        assert estimator.ask(request) == reply
        if "stand in" in reply["msg"]:
            assert estimator.log.count(reply["msg"]) == 1
    assert not list(tmp_path.rglob("loaded")), "a pickle was loaded"
    return reply


@pytest.mark.parametrize("weights_in_zip", [True, False])
@pytest.mark.parametrize("scheme", ["http", "file", "path"])
def test_the_archive_of_a_linear_model(tmp_path: Path, scheme: str, weights_in_zip: bool) -> None:
    folder = write_database(tmp_path / "db", LINEAR, weights_in_zip=weights_in_zip)
    with http_files(folder.parents[2]) as server:
        base = {"http": f"{server}/rapl-sysfs/AbsPower/BPFOnly", "file": folder.as_uri(), "path": str(folder)}[scheme]
        reply = ask(tmp_path, **{KEY: f"{base}/SGDRegressorTrainer_0.zip"})
    assert reply == {"powers": POWERS, "msg": "", "core_ratio": 0.5}


@pytest.mark.parametrize("weights_in_zip", [True, False])
@pytest.mark.parametrize("named", [f"{XGBOOST.name}.zip", f"{CURVE.name}.zip", f"{CURVE.name}.json"])
def test_linear_weights_of_the_same_node_type_stand_in(tmp_path: Path, named: str, weights_in_zip: bool) -> None:
    folder = write_database(tmp_path / "db", LINEAR, XGBOOST, CURVE, weights_in_zip=weights_in_zip)
    if not (folder / named).exists():
        (folder / named).write_text(json.dumps(CURVE.weights))
    reply = ask(tmp_path, **{KEY: f"{folder.as_uri()}/{named}"})
    message = f"linear weights of SGDRegressorTrainer_0 stand in for {named.partition('.')[0]}"
    assert reply == {"powers": POWERS, "msg": message, "core_ratio": 0.5}


def test_weights_beside_an_archive_of_another_file_name(tmp_path: Path) -> None:
    """The estimator finds the weights of an archive by the name in its metadata, not by the name of its file."""
    folder = write_database(tmp_path / "db", LINEAR)
    (folder / f"{LINEAR.name}.json").write_text(json.dumps(WEIGHTS))
    (folder / f"{LINEAR.name}.zip").rename(folder / "best.zip")
    reply = ask(tmp_path, **{KEY: f"{folder.as_uri()}/best.zip"})
    assert reply == {"powers": POWERS, "msg": "", "core_ratio": 0.5}


def test_names_in_metadata_that_are_no_names(tmp_path: Path) -> None:
    folder = write_database(tmp_path / "db", LINEAR)
    with zipfile.ZipFile(folder / "odd.zip", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"model_name": "a\nb_0", "features": ["bpf_cpu_time_ms"]}))
        archive.writestr("weight.json", json.dumps(WEIGHTS))
    reply = ask(tmp_path, **{KEY: f"{folder.as_uri()}/odd.zip"})
    assert reply["msg"].endswith("odd.zip: metadata.json: 'a\\nb_0' is not a name")


def test_a_url_that_no_file_can_have(tmp_path: Path) -> None:
    reply = ask(tmp_path, **{KEY: f"{tmp_path.as_uri()}/a%00b.json"})
    assert reply == {"powers": {}, "msg": f"{KEY}: {tmp_path.as_uri()}/a%00b.json: embedded null byte"}


def test_a_url_may_name_the_weights(tmp_path: Path) -> None:
    folder = write_database(tmp_path / "db", LINEAR)
    assert ask(tmp_path, **{KEY: f"{folder.as_uri()}/SGDRegressorTrainer_0.json"}) == {
        "powers": POWERS, "msg": "", "core_ratio": 0.5
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps({**WEIGHTS, "machine_spec": {"cores": 24}}))
    for key, output_type in ((KEY, "AbsPower"), ("PROCESS_COMPONENTS_INIT_URL", "DynPower")):
        reply = ask(tmp_path, request={**REQUEST, "output_type": output_type}, **{key: str(tmp_path / "mine.json")})
        assert reply == {"powers": POWERS, "msg": "", "core_ratio": 2.0}


def test_weights_for_another_kind_of_power_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"platform": linear(100.0)}))
    reply = ask(tmp_path, **{KEY: str(tmp_path / "w.json")})
    assert (reply["powers"], "weights for platform" in reply["msg"]) == ({}, True)
    reply = ask(tmp_path, request={**REQUEST, "source": "acpi"}, NODE_TOTAL_INIT_URL=str(tmp_path / "w.json"))
    assert reply["powers"] == {"platform": [101.0, 100.0]}


def test_the_reply_says_what_to_do_if_there_are_only_pickles(tmp_path: Path) -> None:
    folder = write_database(tmp_path / "db", XGBOOST, CURVE)
    reply = ask(tmp_path, **{KEY: f"{folder.as_uri()}/{XGBOOST.name}.zip"})
    assert reply["powers"] == {}
    assert "only pickles, which Kepler Core never loads" in reply["msg"]
    assert "use the archive or the weights (.json) of an SGDRegressorTrainer model" in reply["msg"]
    reply = ask(tmp_path, "-s", tmp_path)
    assert "only pickles, no weights" in reply["msg"]
    assert "kepler-model train" in reply["msg"]


@pytest.mark.parametrize("trainer", ["", XGBOOST.trainer])
def test_a_store_with_pickles(tmp_path: Path, trainer: str) -> None:
    write_database(tmp_path / "db", LINEAR, XGBOOST)
    for store in (tmp_path, tmp_path / "imported"):
        if store != tmp_path:
            LocalStore(store).publish("imported", pipeline(LINEAR, XGBOOST, node_types={0: MACHINE}))
        reply = ask(tmp_path, "-s", store, request={**REQUEST, "trainer_name": trainer})
        message = STANDS_IN
        assert reply == {"powers": POWERS, "msg": message, "core_ratio": 0.5}


@pytest.mark.parametrize("trainer", ["", XGBOOST.trainer, LINEAR.trainer])
def test_the_model_server_of_kepler_core(tmp_path: Path, trainer: str) -> None:
    write_database(tmp_path / "store" / "db", LINEAR, XGBOOST)
    with serving(tmp_path / "store", tmp_path / "s.log") as server:
        url = f"http://127.0.0.1:{server.port}"
        reply = ask(tmp_path, "--model-server", url, request={**REQUEST, "trainer_name": trainer})
    message = "" if trainer == LINEAR.trainer else STANDS_IN
    assert reply == {"powers": POWERS, "msg": message, "core_ratio": 0.5}


def check_messages(tmp_path: Path, *arguments: str | Path, messages: Mapping[str, str]) -> None:
    """Request watts of a model by each trainer in `messages`. Check the replies, and the estimator's status.

    `messages` has the expected message for each trainer. All requests are sent twice.
    """
    with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
        for trainer in (*messages, *messages):
            reply = estimator.ask({**REQUEST, "trainer_name": trainer})
            assert (reply["powers"], reply["msg"]) == (POWERS, messages[trainer])
        shown = {model["trainer"]: model["why"].get("stands_in_for", "") for model in estimator.status()["models"]}
    assert shown.keys() == messages.keys()
    for trainer, message in messages.items():
        name = shown[trainer].rpartition("/")[2]
        assert message == (f"{message.partition(' stand in for ')[0]} stand in for {name}" if name else "")


@pytest.mark.parametrize("provider", ["store", "model server"])
@pytest.mark.parametrize("trainers", [("", LINEAR.trainer), (LINEAR.trainer, "")])
def test_each_request_gets_its_own_message_for_the_same_weights(
    tmp_path: Path, provider: str, trainers: tuple[str, str]
) -> None:
    write_database(tmp_path / "store" / "db", LINEAR, XGBOOST)
    messages = {trainer: "" if trainer else STANDS_IN for trainer in trainers}
    if provider == "store":
        check_messages(tmp_path, "-s", tmp_path / "store", messages=messages)
        return
    with serving(tmp_path / "store", tmp_path / "s.log") as server:
        check_messages(tmp_path, "--model-server", f"http://127.0.0.1:{server.port}", messages=messages)


@pytest.mark.parametrize("trainers", [("", "OneTrainer", LINEAR.trainer), (LINEAR.trainer, "OneTrainer", "")])
def test_each_request_to_an_old_model_server_gets_its_own_message(tmp_path: Path, trainers: tuple[str, ...]) -> None:
    text = "linear weights of SGDRegressorTrainer_0 stand in for "
    messages = {"": f"{text}the models of kepler-model-server", "OneTrainer": f"{text}OneTrainer", LINEAR.trainer: ""}
    with old_model_server(None, {**WEIGHTS, "model_name": LINEAR.name}) as old:
        check_messages(tmp_path, "--model-server", old.url, messages={name: messages[name] for name in trainers})


def test_the_message_tells_models_of_the_same_name_apart() -> None:
    weights = read_linear_weights(json.dumps(WEIGHTS).encode()).encoded
    remark = stand_in_remark(weights, "a/rapl-sysfs/M_0", "b/rapl-sysfs/M_0")
    assert remark == "linear weights of a/rapl-sysfs/M_0 stand in for b/rapl-sysfs/M_0"
    assert stand_in_remark(weights, "a/rapl-sysfs/M_0", "a/rapl-sysfs/M_0") == ""


def test_a_loaded_model_keeps_no_long_explanation() -> None:
    for characters, kept in ((10, True), (MAX_WHY_BYTES, False)):
        offer = ModelOffer("a server", "M_0", "digest", {"model": "x" * characters}, {}, {})
        assert bool(offer.without_files().why) == kept


@pytest.mark.parametrize("keys", [KEYS_0_6, KEYS_0_7, None], ids=["0.6", "0.7", "lenient"])
def test_an_old_model_server(tmp_path: Path, keys: frozenset[str] | None) -> None:
    archive = zip_bytes({"metadata.json": b'{"model_name":"XgboostFitTrainer_0"}', "a.pkl": poison(tmp_path / "db")})
    with old_model_server(archive, {**WEIGHTS, "machine_spec": MACHINE}, keys) as old:
        reply = ask(tmp_path, "--model-server", old.url)
    wanted = "the models of kepler-model-server" if keys else XGBOOST.name
    message = f"linear weights of SGDRegressorTrainer stand in for {wanted}"
    assert reply == {"powers": POWERS, "msg": message, "core_ratio": 0.5}
    last = old.requests[-1]
    assert (last["weight"], last["trainer_name"]) == (True, "SGDRegressorTrainer")
    assert len(old.requests) == {KEYS_0_6: 3, KEYS_0_7: 2, None: 2}[keys]


@pytest.mark.parametrize("keys", [KEYS_0_7, None], ids=["0.7", "lenient"])
def test_an_old_model_server_without_linear_weights(tmp_path: Path, keys: frozenset[str] | None) -> None:
    archive = zip_bytes({"metadata.json": b'{"model_name":"XgboostFitTrainer_0"}'})
    for weights in (None, CURVE.weights):
        with old_model_server(archive, weights, keys) as old:
            reply = ask(tmp_path, "--model-server", old.url)
        assert reply["powers"] == {}
        reason = "weights of a curve" if weights else "SGDRegressorTrainer model"
        assert reason in reply["msg"]


def test_hostile_weights_of_a_model_server(tmp_path: Path) -> None:
    spec = {"cores": "many"}
    with old_model_server(None, {**WEIGHTS, "machine_spec": spec, "mae": "x", "selection": 5}) as old:
        assert ask(tmp_path, "--model-server", old.url)["powers"] == POWERS
    for weights in (
        {"package": linear(1e308, {"x": 1e308})},
        {"package": 5},
        {"package": linear(1, {"x" * 5000: 1})},
        {"package": linear(1, {"cpu_cycles": 1})},
    ):
        with old_model_server(None, weights) as old:
            reply = ask(tmp_path, "--model-server", old.url)
        assert reply["powers"] == {}
        assert len(reply["msg"]) < 1500
