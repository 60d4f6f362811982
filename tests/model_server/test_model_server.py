"""The model server as Kepler and operators meet it: a real process, real sockets, real stores."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import SHARED
from support.server_process import (
    BPF,
    CAPTURED,
    COUNTERS,
    PATIENCE,
    Answer,
    Made,
    ServerProcess,
    ask,
    curve,
    evaluate,
    free_port,
    linear,
    pipeline,
    serving,
    wait_for,
)

from kepler_core.models.loading import load_model
from kepler_core.selection import read_catalogue
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_core.store.archive import archive_bytes
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import VERSIONS, LocalStore
from kepler_core.store.manifest import sha256
from kepler_core.store.safe_zip import read_zip
from kepler_profiler.similarity import SpecTable
from kepler_servers.http.adapter import BODY_TIMEOUT_SECONDS

DATABASE = SHARED / "data" / "model_db"
EVERY = [*COUNTERS, *BPF]

# numbers as the profiles of other programs have them
MACHINE = {"processor": "intel_xeon_e5_2630v3", "cores": 32.0, "chips": 2, "memory": 62.7, "frequency": 3200.4}
OTHER = {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 512, "frequency": 3500}

WEIGHTS = {"package": linear(30.0, {"bpf_cpu_time_ms": 2.5}), "dram": linear(3.0)}
BEST = Made("LinearRegressionTrainer", mae=2, weights=WEIGHTS)
CURVE = Made("ExponentialRegressionTrainer", mae=9, weights={"package": curve([2.0, 0.001, 30.0])})
BIG = Made("XgboostFitTrainer", mae=0.5, group="CounterOnly", weights=None)
MODELS = (
    Made(mae=3),
    BEST,
    CURVE,
    Made("XgboostFitTrainer", mae=1, weights=None),
    Made("UnsafeTrainer", mae=0.1, weights={"package": linear(-5.0)}, group="Basic"),
    Made("XgboostFitTrainer", node_type=1, mae=7, weights=None),
    Made(node_type=1, mae=8),
    Made(output_type="DynPower", mae=4),
    Made(source="acpi", weights={"platform": linear(170.0)}, mae=6),
)

MINIMAL: dict[str, Any] = {"metrics": list(BPF), "output_type": "AbsPower"}


def made_files() -> dict[str, bytes]:
    files = pipeline(*MODELS, node_types={0: MACHINE, 1: OTHER}) | BIG.files()
    # larger than what sockets keep for a client that does not read
    blob = random.Random(0).randbytes(8 * 2**20)
    files[f"{BIG.path}.zip"] = zip_bytes({"metadata.json": files[f"{BIG.path}/metadata.json"], "blob": blob})
    return files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    made = LocalStore(tmp_path_factory.mktemp("made") / "store")
    made.publish("made", made_files())
    (made.root.parent / "secret").write_text("what it says")
    return made


@pytest.fixture(scope="module")
def server(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(store.root, tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    if not DATABASE.is_dir():
        pytest.skip("the public database (../shared/data/model_db) is not here")
    with serving(DATABASE, tmp_path_factory.mktemp("log") / "database.log") as started:
        yield started


def weights(found: Answer) -> dict[str, Any]:
    """A 200 with weights that the client can use."""
    assert found.status == 200, found.body
    assert found.headers["content-type"] == "application/json"
    answer: dict[str, Any] = json.loads(found.body, parse_constant=pytest.fail)
    trainer, _, suffix = answer["model_name"].partition("_")
    assert trainer in ("SGDRegressorTrainer", "LogarithmicRegressionTrainer", "ExponentialRegressionTrainer")
    assert suffix
    assert all(type(value) in (int, str) for value in answer["machine_spec"].values())
    idle = evaluate(answer, {name: [0.0] for name in EVERY}, "bpf_cpu_time_ms")
    assert idle
    assert all(watts[0] >= 0 for watts in idle.values())
    return answer


def problem(found: Answer, status: int, key: str | None = None) -> str:
    """An error as clients get it."""
    assert found.status == status, found.body[:500]
    assert found.headers["content-type"] == "application/json"
    said = found.json()
    message = said["msg"]
    assert isinstance(message, str)
    assert message
    assert "\n" not in message
    assert len(found.body) < 5000
    assert "what it says" not in message
    if key is not None:
        assert said["key"].startswith(key)
    if status == 404 and "selection" in said:
        assert said["selection"]["candidates"]["considered"] >= 0
    return str(message)


# --- POST /model ---


def test_weights(server: ServerProcess) -> None:
    found = server.post(CAPTURED)
    answer = weights(found)
    assert answer["model_name"] == "SGDRegressorTrainer_0"
    assert {key: answer[key] for key in WEIGHTS} == WEIGHTS
    assert answer["machine_spec"] == {**MACHINE, "cores": 32, "memory": 63, "frequency": 3200}
    assert found.headers["x-kepler-model"] == f"made/{BEST.path}"
    said = answer["selection"]
    assert said["model"] == BEST.path
    assert said["node_type"]["match"] == "nearest"
    # 10 models: a DynPower, an acpi, Basic's and CounterOnly's features; a curve and 2 without weights
    assert [(drop["by"], drop["count"]) for drop in said["candidates"]["dropped"]] == [
        ("output type", 1), ("energy source", 1), ("features", 2), ("weights", 3),
    ]  # fmt: skip
    # the same bytes are answered from what was kept
    assert server.post(CAPTURED) == Answer(
        200, {**found.headers, "date": server.post(CAPTURED).headers["date"]}, found.body
    )


def test_platform_weights(server: ServerProcess) -> None:
    answer = weights(server.post({**CAPTURED, "source": "acpi"}))
    assert set(answer) == {"model_name", "machine_spec", "platform", "selection"}
    assert evaluate(answer, {"bpf_cpu_time_ms": [2000.0]}, "bpf_cpu_time_ms") == {"platform": [172.0]}


def test_weights_for_containers(server: ServerProcess) -> None:
    assert weights(server.post({**CAPTURED, "output_type": "DynPower"}))["selection"]["error"]["mae"] == 4


def test_a_curve_by_name(server: ServerProcess) -> None:
    request = {**CAPTURED, "trainer_name": CURVE.trainer}
    answer = weights(server.post(request))
    assert answer["model_name"] == CURVE.name
    assert evaluate(answer, {"bpf_cpu_time_ms": [0.0]}, "bpf_cpu_time_ms") == {"package": [32.0]}
    turned = {**request, "metrics": CAPTURED["metrics"][::-1]}
    assert "a curve over bpf_cpu_time_ms: right only for a client" in problem(server.post(turned), 404)


def test_an_archive(server: ServerProcess, store: LocalStore) -> None:
    found = server.post({**CAPTURED, "weight": False, "trainer_name": "XgboostFitTrainer"})
    assert found.status == 200
    assert found.headers["content-type"] == "application/zip"
    path = MODELS[3].path
    assert found.body == store.snapshot("made").read(f"{path}.zip")
    assert found.headers["etag"] == f'"{sha256(found.body)}"'
    assert found.headers["x-kepler-model"] == f"made/{path}"
    assert json.loads(found.headers["x-kepler-selection"])["model"] == path
    assert sorted(zipfile.ZipFile(io.BytesIO(found.body)).namelist()) == ["metadata.json"]


@pytest.mark.parametrize("weight", [True, False])
def test_only_the_reasons(server: ServerProcess, weight: bool) -> None:
    request = {**CAPTURED, "weight": weight}
    for flag in ("1", "true"):
        found = server.post(request, f"/model?explain={flag}")
        assert found.status == 200
        assert set(found.json()) == {"selection"}
    full = server.post(request, "/model?explain=0")
    whole = full.json()["selection"] if weight else json.loads(full.headers["x-kepler-selection"])
    assert found.json()["selection"] == whole
    problem(server.post(request, "/model?explain=2"), 400, "explain")
    problem(server.post(request, "/model?explain=1&explain=1"), 400, "explain")
    problem(server.post(request, "/model?expalin=1"), 400, "expalin")


def test_nothing_fits(server: ServerProcess) -> None:
    """HTTP 200 without a model would count as a model that always says 0 W."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"metrics": ["x"]}, "missing: bpf_"),
        ({"metrics": []}, "missing: bpf_"),
        ({"trainer_name": "../../secret"}, "no model of trainer"),
        ({"trainer_name": "a\0b"}, "no model of trainer"),
        ({"pipeline_name": "../../secret"}, "no model of pipeline"),
        ({"pipeline_name": "maed"}, "did you mean made?"),
        ({"filter": "mae:0.001"}, "the one with the lowest mae is"),
        ({"filter": "features:bpf_cpu_time_ms"}, "none of"),
        ({"node_type": 9}, "there: 0, 1"),
        ({"machine_spec": CAPTURED["machine_spec"], "loose_node_type": False}, "the nearest is type"),
        ({"source": "hmc"}, "no model of energy source 'hmc'"),
        ({"output_type": "DynPower", "source": "acpi"}, "source"),
    ]
    for change, why in cases:
        for weight in (True, False):
            message = problem(server.post({**MINIMAL, "weight": weight, **change}), 404)
            assert why in message, change


BAD: list[tuple[Any, str]] = [
    ({"metrics": BPF}, "output_type"),
    ({"output_type": "AbsPower"}, "metrics"),
    ({**MINIMAL, "output_type": "Abs"}, "output_type"),
    ({**MINIMAL, "weight": "true"}, "weight"),
    ({**MINIMAL, "node_type": "0"}, "node_type"),
    ({**MINIMAL, "node_type": 1.5}, "node_type"),
    ({**MINIMAL, "metrics": "bpf_cpu_time_ms"}, "metrics"),
    ({**MINIMAL, "metrics": [1]}, "metrics"),
    ({**MINIMAL, "source": "nobody"}, "source"),
    ({**MINIMAL, "source": "../../secret"}, "source"),
    ({**MINIMAL, "source": "a\0b"}, "source"),
    ({**MINIMAL, "filter": "../../secret:5"}, "filter"),
    ({**MINIMAL, "filter": "a\0b:5"}, "filter"),
    ({**MINIMAL, "filter": "maee:5"}, "filter"),
    ({**MINIMAL, "filter": "mae:NaN"}, "filter"),
    ({**MINIMAL, "filter": "mae"}, "filter"),
    ({**MINIMAL, "machine_spec": {"cores": "96"}}, "machine_spec.cores"),
    ({**MINIMAL, "machine_spec": []}, "machine_spec"),
    ({**MINIMAL, "trainer_name": "x" * 100_000}, "trainer_name"),
    ({**MINIMAL, "pipeline_name": "../" * 50_000}, "pipeline_name"),
    ({**MINIMAL, "metrics": ["x"] * 20_000}, "metrics"),
    (b"", "body"),
    (b"null", "body"),
    (b"[]", "body"),
    (b"\0", "body"),
    (b"\xff\xfe{", "body"),
    (b"<html>", "body"),
    (b"{", "body"),
    (b"[" * 100_000, "body"),
    (b'{"metrics":' * 20_000, ""),
    (b'{"x":' + b"[" * 200_000 + b"]" * 50_000, "body"),
    (json.dumps({**MINIMAL, "machine_spec": {"cores": 7}}).replace("7", "NaN").encode(), ""),
    (json.dumps({**MINIMAL, "machine_spec": {"cores": 7}}).replace("7", "1e999").encode(), ""),
]


@pytest.mark.parametrize(("request_", "key"), BAD, ids=range(len(BAD)))
def test_bad_requests(server: ServerProcess, request_: Any, key: str) -> None:
    problem(server.post(request_), 400, key)


def test_bodies_that_are_too_large(server: ServerProcess) -> None:
    large = json.dumps({**MINIMAL, "trainer_name": "x" * 2**20}).encode()
    problem(server.post(large), 413)
    problem(server.post(large * 10), 413)
    # of unknown length
    connection = server.connect()
    connection.request("POST", "/model", iter([large] * 2), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert b"msg" in response.read()
    connection.close()
    weights(server.post(CAPTURED))


def test_a_chunked_body(server: ServerProcess) -> None:
    body = json.dumps(CAPTURED).encode()
    connection = server.connect()
    connection.request("POST", "/model", iter([body[:7], body[7:100], body[100:]]), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["model_name"] == "SGDRegressorTrainer_0"
    connection.close()


def test_content_types_do_not_matter(server: ServerProcess) -> None:
    """Kepler sends application/json; curl -d a form's."""
    body = json.dumps(CAPTURED).encode()
    for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain; x"):
        weights(server.ask("POST", "/model", body, {"Content-Type": kind}))


def test_two_keys_of_one_name(server: ServerProcess) -> None:
    body = json.dumps(CAPTURED)[:-1] + ',"output_type":"DynPower"}'
    assert weights(server.post(body.encode()))["selection"]["error"]["mae"] == 4


# --- the public database ---


def test_the_captured_request_in_the_public_database(database: ServerProcess) -> None:
    answer = weights(database.post(CAPTURED))
    there = json.loads((DATABASE / "ec2-0.7.11/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.json").read_bytes())
    assert {key: answer[key] for key in there} == there
    assert answer["selection"]["node_type"]["match"] == "nearest"
    assert answer["selection"]["node_type"]["similarity"] > 0.99


def test_each_of_its_machines(database: ServerProcess) -> None:
    for number, found in database.get("/node-types").json()["ec2-0.7.11"].items():
        for weight in (True, False):
            request = {**CAPTURED, "metrics": COUNTERS, "machine_spec": found["machine_spec"], "weight": weight}
            if not weight:
                request["trainer_name"] = ""
            answer = database.post(request)
            assert answer.status == 200
            if weight:
                assert weights(answer)["model_name"] == f"SGDRegressorTrainer_{number}"
            else:
                said = json.loads(answer.headers["x-kepler-selection"])
                assert (said["node_type"]["match"], said["node_type"]["number"]) == ("exact", int(number))
                assert answer.body == (DATABASE / "ec2-0.7.11" / f"{said['model']}.zip").read_bytes()


def test_a_machine_that_it_does_not_have(database: ServerProcess) -> None:
    spec = {"vendor": "amd", "processor": "amd_epyc_7763", "cores": 64, "chips": 1, "memory": 128, "frequency": 3500}
    said = weights(database.post({**CAPTURED, "machine_spec": spec}))["selection"]["node_type"]
    assert said["match"] == "nearest"
    assert said["similarity"] < 0.7
    assert said["attributes"]["processor"] == 0
    message = problem(database.post({**CAPTURED, "machine_spec": spec, "loose_node_type": False}), 404)
    assert "the nearest is type" in message


def test_node_types_by_number(database: ServerProcess) -> None:
    request = {key: value for key, value in CAPTURED.items() if key != "machine_spec"}
    for number in (0, 3):
        said = weights(database.post({**request, "node_type": number}))["selection"]["node_type"]
        assert (said["match"], said["number"]) == ("given", number)


def test_best_models_of_the_public_database(database: ServerProcess) -> None:
    best = database.get("/best-models?energy-source=intel_rapl").json()
    assert best["AbsPower"] == {"CounterOnly": "XgboostFitTrainer_1", "BPFOnly": "XgboostFitTrainer_1"}
    assert set(best) == {"AbsPower", "DynPower"}


# --- what is served is the model ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was trained."""
    folder = tmp_path_factory.mktemp("trained")
    write(Simulation(containers=5, timestamps=150), str(folder / "recording.json.gz"))
    (folder / "small.yaml").write_text(
        "energy_sources: [rapl-sysfs]\nfeature_groups: [BPFOnly]\n"
        "abs_trainers: [SGDRegressorTrainer, GradientBoostingRegressorTrainer]\ndyn_trainers: [SGDRegressorTrainer]\n"
    )
    arguments = ("train", folder / "small.yaml", "-i", folder / "recording.json.gz", "-s", folder / "store")
    done = subprocess.run([sys.executable, "-m", "kepler_core", *map(str, arguments)], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder / "store"


@pytest.fixture(scope="module")
def trained_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(trained, tmp_path_factory.mktemp("log") / "trained.log") as started:
        yield started


def test_the_client_gets_what_the_model_says(trained: Path, trained_server: ServerProcess) -> None:
    entries = {model.path: model for model in read_catalogue(open_store(str(trained)), compare=SpecTable).models}
    for output_type in ("AbsPower", "DynPower"):
        answer = weights(trained_server.post({**CAPTURED, "output_type": output_type}))
        model = entries[answer["selection"]["model"]].load()
        random_rows = np.random.default_rng(1).random((50, len(CAPTURED["metrics"])))
        most = dict(zip(model.features, model.scale, strict=True))
        rows = np.vstack([np.zeros(random_rows.shape[1]), random_rows]) * [
            most.get(m, 1.0) for m in CAPTURED["metrics"]
        ]
        expected = model.predict(rows, CAPTURED["metrics"])
        columns = {name: rows[:, index].tolist() for index, name in enumerate(CAPTURED["metrics"])}
        found = evaluate(answer, columns, CAPTURED["metrics"][0])
        assert set(found) == set(expected)
        for component, watts in expected.items():
            np.testing.assert_allclose(found[component], watts, rtol=0, atol=1e-3)


def test_the_archive_is_the_model(trained: Path, trained_server: ServerProcess) -> None:
    request = {**CAPTURED, "weight": False, "trainer_name": "", "portable": True}
    for trainer in ("GradientBoostingRegressorTrainer", "SGDRegressorTrainer"):
        found = trained_server.post({**request, "trainer_name": trainer})
        assert found.status == 200
        model = load_model(read_zip(found.body, "answer"))
        path = found.headers["x-kepler-model"].partition("/")[2]
        stored = next(m for m in read_catalogue(open_store(str(trained))).models if m.path == path).load()
        rows = np.random.default_rng(2).random((20, 2)) * model.scale
        expected = stored.predict(rows)
        assert stored.metadata["trainer"] == trainer
        for component, watts in model.predict(rows).items():
            np.testing.assert_array_equal(watts, expected[component])


# --- the command line says the same ---


def kepler(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kepler_core", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE, **settings)


@pytest.mark.parametrize(
    "change",
    [{}, {"weight": False, "trainer_name": ""}, {"machine_spec": OTHER}, {"filter": "mae:3", "metrics": EVERY}],
)
def test_select(server: ServerProcess, store: LocalStore, tmp_path: Path, change: dict[str, Any]) -> None:
    request = {**CAPTURED, **change}
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = kepler("select", "-s", store.root, "--request", tmp_path / "request.json", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == server.post(request, "/model?explain=1").json()


def test_select_with_options(server: ServerProcess, store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(OTHER))
    done = kepler("select", "-s", store.root, "--metrics", ",".join(BPF), "--weights", "--source", "rapl",
                  "--machine-spec", tmp_path / "spec.json", "--exact", "--json")  # fmt: skip
    request = {**MINIMAL, "weight": True, "source": "rapl", "machine_spec": OTHER, "loose_node_type": False}
    assert json.loads(done.stdout) == server.post(request, "/model?explain=1").json()
    text = kepler("select", "-s", store.root, "--metrics", ",".join(BPF), "--node-type", "1")
    assert "XgboostFitTrainer_1 of pipeline made, version 1" in text.stdout


def test_select_finds_nothing(server: ServerProcess, store: LocalStore, tmp_path: Path) -> None:
    for change, code, status in (({"metrics": []}, 1, 404), ({"filter": "maee:1"}, 2, 400)):
        (tmp_path / "request.json").write_text(json.dumps({**CAPTURED, **change}))
        done = kepler("select", "-s", store.root, "--request", tmp_path / "request.json")
        assert done.returncode == code
        assert done.stdout == ""
        assert problem(server.post({**CAPTURED, **change}), status) in done.stderr
        assert len(done.stderr.splitlines()) == 1


# --- GET ---


def test_best_models(server: ServerProcess) -> None:
    assert server.get("/best-models").json() == {
        "AbsPower": {
            "Basic": "UnsafeTrainer_0", "CounterOnly": "XgboostFitTrainer_0", "BPFOnly": "XgboostFitTrainer_0",
        },
        "DynPower": {"BPFOnly": "SGDRegressorTrainer_0"},
    }  # fmt: skip
    query = "energy-source=acpi&output-type=AbsPower&feature-group=BPFOnly&node-type=0&filter=mae:6"
    assert server.get(f"/best-models?{query}").json() == {"AbsPower": {"BPFOnly": "SGDRegressorTrainer_0"}}
    assert server.get("/best-models?energy-source=hmc").json() == {"AbsPower": {}, "DynPower": {}}
    assert server.get("/best-models?filter=features:bpf_cpu_time_ms").json() == {"AbsPower": {}, "DynPower": {}}


def test_models(server: ServerProcess) -> None:
    found = server.get("/models").json()
    assert found["total"] == len(MODELS) + 1 == len(found["models"])
    errors = [model["errors"]["mae"] for model in found["models"]]
    assert errors == sorted(errors)
    unsafe = found["models"][0]
    assert unsafe["trainer"] == "UnsafeTrainer"
    assert unsafe["weights"] is False
    assert "W at idle" in unsafe["no_weights"]
    for query, total in (
        ("trainer=XgboostFitTrainer", 3), ("node-type=1", 2), ("energy-source=acpi", 1), ("output-type=DynPower", 1),
        ("feature-group=Basic", 1), ("pipeline=made", 10), ("pipeline=../x", 0), ("filter=mae:2", 4), ("pipeline=", 10),
        ("trainer=SGDRegressorTrainer&filter=mae:4;package_mae:3", 1), ("filter=r2:0.5", 0),
    ):  # fmt: skip
        assert server.get(f"/models?{query}").json()["total"] == total, query


def test_pages_of_models(server: ServerProcess) -> None:
    every = server.get("/models").json()["models"]
    pages = [server.get(f"/models?limit=3&offset={offset}").json() for offset in range(0, 12, 3)]
    assert [model for page in pages for model in page["models"]] == every
    assert {page["total"] for page in pages} == {len(every)}
    assert server.get("/models?offset=1000").json()["models"] == []


@pytest.mark.parametrize(
    ("query", "key"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("limit=1.5", "limit"),
     ("limit=%D9%A3", "limit"), ("offset=-1", "offset"), ("offset=1e3", "offset"), ("limit=" + "9" * 5000, "limit"),
     ("node-type=x", "node-type"), ("node-type=-1", "node-type"), ("output-type=Abs", "output-type"),
     ("filter=maee:1", "filter"), ("filter=mae", "filter"), ("filter=mae:nan", "filter"), ("energy-source=x", "source"),
     ("lmit=1", "lmit"), ("limit=1&limit=1", "limit"), ("%00=1", ""), ("%ff=%fe", ""), ("filter=%ff", "filter"),
     ("energy-source=%00", ""), ("a" * 5000, "")],
)  # fmt: skip
def test_bad_parameters(server: ServerProcess, query: str, key: str) -> None:
    message = problem(server.get(f"/models?{query}"), 400)
    assert len(message) < 1000
    if key in ("filter", "energy-source", "source", "output-type", "node-type"):
        problem(server.get(f"/best-models?{query}"), 400)


def test_one_model(server: ServerProcess, store: LocalStore) -> None:
    snapshot = store.snapshot("made")
    at = f"/models/made/{BEST.path}"
    metadata = server.get(at)
    assert metadata.headers["content-type"] == "application/json"
    assert metadata.json() == json.loads(snapshot.read(f"{BEST.path}/metadata.json"))
    found = weights(server.get(f"{at}.json"))
    assert found["model_name"] == "SGDRegressorTrainer_0"
    assert {key: found[key] for key in WEIGHTS} == WEIGHTS
    archive = server.get(f"{at}.zip")
    assert archive.headers["content-type"] == "application/zip"
    assert archive.body == snapshot.read(f"{BEST.path}.zip")
    assert server.get(f"/models/made/{BIG.path}.zip").body == snapshot.read(f"{BIG.path}.zip")
    assert "no weights" in problem(server.get(f"/models/made/{MODELS[3].path}.json"), 404)
    assert "W at idle" in problem(server.get(f"/models/made/{MODELS[4].path}.json"), 404)


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/models/", "/models/made", "/models/x/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0",
     "/models/made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_9", "/models/made/rapl-sysfs/AbsPower/BPFOnly/.zip",
     "/models/../../secret", "/models/made/../../../secret/x", "/models/..%2f..%2fsecret/a/b/c/d.zip",
     "/models/made/rapl-sysfs/AbsPower/BPFOnly/..%2f..%2f..%2f..%2f..%2fsecret.zip", "//models", "/model/",
     "/models/%00/%00/%00/%00/%00", "/models/made/a/b/c/metadata.json.json", "/" + "x" * 5000, "/%2e%2e/%2e%2e/secret"],
)  # fmt: skip
def test_paths_that_are_not_there(server: ServerProcess, path: str) -> None:
    found = server.get(path)
    assert len(problem(found, 404)) < 1000
    assert b"what it says" not in found.body


@pytest.mark.parametrize("path", ["/%ff", "/models/%ff/%fe/a/b/c", "/model%ff", "/models/made/a/b/c/%c3%28.zip"])
def test_paths_that_are_no_text(server: ServerProcess, path: str) -> None:
    found = server.get(path)
    assert found.status in (400, 404)
    problem(found, found.status)


def test_node_types(server: ServerProcess) -> None:
    assert server.get("/node-types").json() == {
        "made": {
            "0": {"machine_spec": {**MACHINE, "cores": 32, "memory": 63, "frequency": 3200}, "members": ["node-0"]},
            "1": {"machine_spec": OTHER, "members": ["node-1"]},
        }
    }


def test_health(server: ServerProcess, store: LocalStore) -> None:
    for path in ("/healthz", "/readyz"):
        found = server.get(path).json()
        assert found["status"] == "ok"
        assert found["models"] == len(MODELS) + 1
        assert found["pipelines"] == {"made": {"version": 1, "models": len(MODELS) + 1}}
        assert found["broken"] == {}
        assert found["store"] == str(store.root)
        assert found["store_problem"] is None


def test_metrics_have_the_weights_that_are_served(server: ServerProcess) -> None:
    found = server.metrics()
    seen: dict[str, int] = dict.fromkeys(
        (
            "kepler_model_weight_watts",
            "kepler_model_feature_scale",
            "kepler_model_bias_watts",
            "kepler_model_curve_weight",
        ),
        0,
    )
    served: dict[str, Any] = {}
    for (name, labels), value in found.items():
        if name not in seen:
            continue
        seen[name] += 1
        label = dict(labels)
        at = "/".join(label[key] for key in ("pipeline", "source", "output_type", "feature_group", "model"))
        if at not in served:
            served[at] = server.get(f"/models/{at}.json").json()
        own = served[at][label["component"]]["All_Weights"]
        if name == "kepler_model_bias_watts":
            expected = own["Bias_Weight"]
        elif name == "kepler_model_curve_weight":
            expected = own["CurveFit_Weights"][int(label["position"])]
        else:
            variable = own["Numerical_Variables"][label["feature"]]
            expected = variable["weight" if name.endswith("watts") else "scale"]
        assert value == expected
    # 2 components of each of 4 linear models, and platform; the curve
    assert seen == {
        "kepler_model_weight_watts": 9, "kepler_model_feature_scale": 10, "kepler_model_bias_watts": 9,
        "kepler_model_curve_weight": 3,
    }  # fmt: skip
    errors = {
        frozenset(dict(labels).items()): value
        for (name, labels), value in found.items()
        if name == "kepler_model_error"
    }
    best = [value for labels, value in errors.items() if ("model", BEST.name) in labels and ("error", "mae") in labels]
    assert sorted(best) == [1, 2, 2], "dram's, package's, and the model's"


def total(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return sum(value for (n, have), value in found.items() if n == name and labels.items() <= dict(have).items())


def test_the_same_bytes_again(server: ServerProcess) -> None:
    """What was answered before is answered, and counted, as it was."""

    def said(found: Answer) -> tuple[int, dict[str, str], bytes]:
        return found.status, {k: v for k, v in found.headers.items() if k != "date"}, found.body

    for weight in (True, False):
        request = {**CAPTURED, "weight": weight, "metrics": [*CAPTURED["metrics"], f"only-here-{weight}"]}
        before = server.metrics()
        first = said(server.post(request))
        assert first[0] == 200
        assert int(first[1]["content-length"]) == len(first[2])
        for _ in range(3):
            assert said(server.post(request)) == first
        after = server.metrics()
        for name in ("requests_total", "request_seconds_count"):
            name = f"kepler_model_server_{name}"
            assert total(after, name, endpoint="model") - total(before, name, endpoint="model") == 4
        name = "kepler_model_server_selections_total"
        assert total(after, name) - total(before, name) == 4
        body = json.dumps(request).encode()
        # another question with these bytes is another question
        assert list(server.ask("POST", "/model?explain=1", body).json()) == ["selection"]
        assert server.ask("POST", "/model?other=1", body).status == 400
        assert server.ask("PUT", "/model", body).status == 405


def test_metrics_count_requests(server: ServerProcess) -> None:
    before = server.metrics()
    for _ in range(3):
        server.post(CAPTURED)
    server.post(b"x")
    server.post({**CAPTURED, "metrics": []})
    after = server.metrics()
    requests = "kepler_model_server_requests_total"

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert [more(requests, endpoint="model", status=status) for status in ("200", "400", "404", "500")] == [3, 1, 1, 0]
    assert more(requests, endpoint="metrics") == 1
    assert more("kepler_model_server_request_seconds_count", endpoint="model") == 5
    assert more("kepler_model_server_selections_total", node_type_match="nearest") == 3
    assert total(after, "kepler_model_server_models", pipeline="made") == len(MODELS) + 1
    assert total(after, "kepler_model_server_pipeline_broken") == 0
    assert total(after, "kepler_model_server_store_up") == 1


# --- HTTP ---


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_wrong_methods(server: ServerProcess, method: str) -> None:
    for path, allowed in (("/model", "POST"), ("/healthz", "GET")):
        if path == "/healthz" and method in ("GET", "HEAD"):
            continue
        found = server.ask(method, path)
        assert found.status == 405
        assert allowed in found.headers["allow"]
        if method != "HEAD":
            problem(found, 405)
    assert server.ask("POST", "/models", b"{}").status == 405


def test_head(server: ServerProcess) -> None:
    connection = server.connect()
    for path in ("/healthz", "/models", "/metrics", f"/models/made/{BEST.path}.zip", "/nothing"):
        found = ask(connection, "HEAD", path)
        assert found.body == b""
        assert found.status == (404 if path == "/nothing" else 200)
    # nothing was left in the connection
    weights(ask(connection, "POST", "/model", json.dumps(CAPTURED).encode()))
    connection.close()


def test_keep_alive(server: ServerProcess) -> None:
    connection = server.connect()
    body = json.dumps(CAPTURED).encode()
    ask(connection, "GET", "/healthz")
    first = connection.sock
    for request in (body, b"x", body, b"{}", body):
        status = ask(connection, "POST", "/model", request).status
        assert status == (200 if request == body else 400)
        assert ask(connection, "GET", "/nothing").status == 404
    assert connection.sock is first
    assert ask(connection, "GET", "/healthz", headers={"Connection": "close"}).status == 200
    assert connection.sock is None
    connection.close()


def post_bytes(request: dict[str, Any], close: bool = False) -> bytes:
    body = json.dumps(request).encode()
    end = b"Connection: close\r\n" if close else b""
    return b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), end, body)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(2**16):
        parts.append(part)
    return b"".join(parts)


def test_pipelined_requests(server: ServerProcess) -> None:
    with server.raw() as connection:
        connection.sendall(
            post_bytes(CAPTURED)
            + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            + post_bytes({**CAPTURED, "output_type": "x"})
            + post_bytes(CAPTURED, close=True)
        )
        answers = read_all(connection)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400", b"200"]


RUBBISH = [
    b"\r\n\r\n", b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    b"POST /model HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: y\r\n" * 500 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 600_000 + b"\r\n\r\n",
    b"GET /models?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /models?\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \xff\xfe\xe9\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
def test_what_is_not_http(server: ServerProcess, rubbish: bytes) -> None:
    with server.raw() as connection:
        try:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        except OSError:  # it has closed the connection, before or after our last byte
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    weights(server.post(CAPTURED))


def test_a_client_that_expects_100(server: ServerProcess) -> None:
    """curl does for large bodies."""
    body = json.dumps({**CAPTURED, "trainer_name": "", "metrics": [*CAPTURED["metrics"], *["x" * 500] * 20]}).encode()
    with server.raw() as connection:
        connection.sendall(
            b"POST /model HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        first = connection.recv(2**16)
        assert first.startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert b"HTTP/1.1 200" in first + read_all(connection)


HALVES = [
    b"POST /mod",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Le",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 250000\r\n\r\n" + b" " * 100_000,
    b"POST /model HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    b"GET /models/x",
    f"GET /models/made/{BIG.path}.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode(),  # and never reads
    b"",
]


def test_slow_clients_hold_up_nobody(server: ServerProcess) -> None:
    slow = [server.raw() for _ in range(200)]
    try:
        for index, connection in enumerate(slow):
            connection.sendall(HALVES[index % len(HALVES)])
        kept = server.connect()
        for _ in range(20):
            weights(server.post(CAPTURED))
            weights(ask(kept, "POST", "/model", json.dumps(CAPTURED).encode()))
            assert server.get("/readyz").status == 200
            assert server.get(f"/models/made/{BEST.path}.zip").status == 200
            assert server.get("/metrics").status == 200
        kept.close()
    finally:
        for connection in slow:
            connection.close()
    weights(server.post(CAPTURED))


def test_bodies_that_do_not_come(server: ServerProcess) -> None:
    halves = [half for half in HALVES if half.startswith(b"POST") and b"\r\n\r\n" in half]
    assert len(halves) == 3
    with ExitStack() as opened:
        slow = [opened.enter_context(server.raw()) for _ in range(3 * len(halves))]
        for index, connection in enumerate(slow):
            connection.sendall(halves[index % len(halves)])
        # one that takes its time, but not too much of it
        late = opened.enter_context(server.raw())
        request = post_bytes(CAPTURED, close=True)
        late.sendall(request[:-1])
        weights(server.post(CAPTURED))
        time.sleep(BODY_TIMEOUT_SECONDS / 2)
        late.sendall(request[-1:])
        assert read_all(late).startswith(b"HTTP/1.1 200")
        for connection in slow:
            connection.settimeout(PATIENCE)
            answer = connection.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 408"), answer[:300]
            assert b"was not there within 10 s" in answer
    weights(server.post(CAPTURED))
    assert total(server.metrics(), "kepler_model_server_requests_total", status="408") == len(slow)


def test_clients_that_leave_early(server: ServerProcess) -> None:
    for request in (*HALVES, post_bytes(CAPTURED), post_bytes({**MINIMAL, "metrics": EVERY})):
        for _ in range(5):
            connection = server.raw()
            connection.sendall(request)
            # no goodbye: a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
    weights(server.post(CAPTURED))


def test_many_at_once(server: ServerProcess) -> None:
    """Each gets the answer to its own question."""
    requests = [CAPTURED, {**CAPTURED, "output_type": "DynPower"}, {**CAPTURED, "source": "acpi"},
                {**CAPTURED, "machine_spec": OTHER}, {**CAPTURED, "metrics": []}]  # fmt: skip
    bodies = [json.dumps(request).encode() for request in requests]
    expected = [server.post(body).body for body in bodies]

    def client(seed: int) -> None:
        connection = server.connect()
        for index in range(40):
            which = (index * seed + index) % len(bodies)
            assert ask(connection, "POST", "/model", bodies[which]).body == expected[which]
        connection.close()

    in_threads([partial(client, seed) for seed in range(16)])


def in_threads(jobs: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    assert not errors, errors[0]


# --- the live catalogue ---


class Living:
    """A server and its store, which changes."""

    def __init__(self, store: LocalStore, server: ServerProcess) -> None:
        self.store = store
        self.server = server

    def publish(self, name: str, *models: Made, bias: float | None = None) -> int:
        if not models:
            assert bias is not None
            models = (Made(weights={"package": linear(bias)}),)
        return self.store.publish(name, pipeline(*models))

    def ask(self, name: str, **change: Any) -> Answer:
        return self.server.post({**MINIMAL, "weight": True, "pipeline_name": name, **change})

    def bias(self, name: str) -> float | None:
        """The bias that is served, None for no model."""
        found = self.ask(name)
        if found.status == 404:
            return None
        return float(weights(found)["package"]["All_Weights"]["Bias_Weight"])

    def wait_for_bias(self, name: str, bias: float | None) -> None:
        wait_for(lambda: self.bias(name) == bias, f"{name} with {bias} is not served: {self.server.log}")

    def wait_broken(self, name: str) -> str:
        wait_for(lambda: name in self.health()["broken"], f"{name} is not called broken")
        health = self.health()
        assert health["status"] == "degraded"
        assert total(self.server.metrics(), "kepler_model_server_pipeline_broken", pipeline=name) == 1
        assert any(name in line and "ERROR" in line for line in self.server.log.splitlines()), self.server.log
        return str(health["broken"][name])

    def health(self) -> Any:
        return self.server.get("/healthz").json()

    def put_version(self, name: str, change: Callable[[Path], None]) -> None:
        """Make a changed copy of version 1 current, past the store's own publishing."""
        versions = self.store.root / VERSIONS / name
        shutil.copytree(versions / "1", versions / "2")
        change(versions / "2")
        os.symlink(os.path.join(VERSIONS, name, "2"), self.store.root / f".{name}")
        os.replace(self.store.root / f".{name}", self.store.root / name)


def flip(path: Path, position: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


BREAKS: dict[str, Callable[[Path], None]] = {
    "flipped-metadata": lambda folder: flip(folder / f"{Made().path}/metadata.json"),
    "flipped-zip": lambda folder: flip(folder / f"{Made().path}.zip"),
    "flipped-weights": lambda folder: flip(folder / f"{Made().path}.json"),
    "no-file": lambda folder: (folder / f"{Made().path}.zip").unlink(),
    "no-zip": lambda folder: (folder / f"{Made().path}.zip").write_bytes(b"not a zip"),
    "no-manifest": lambda folder: (folder / "manifest.json").unlink(),
    "bad-manifest": lambda folder: (folder / "manifest.json").write_bytes(b"{"),
}


DAMAGED = (Made(mae=1), Made("LinearRegressionTrainer", mae=2))


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    """Every test has a pipeline of its own in it."""
    store = LocalStore(tmp_path_factory.mktemp("living") / "store")
    store.publish("first", pipeline(Made()))
    store.publish("damaged", pipeline(*DAMAGED))
    for name in ("going", "busy", "killed", *BREAKS):
        store.publish(name, pipeline(Made(weights={"package": linear(1.0)})))
    with serving(store.root, tmp_path_factory.mktemp("log") / "living.log") as server:
        yield Living(store, server)


def test_a_new_pipeline_and_a_new_version(living: Living) -> None:
    assert living.bias("new") is None
    living.publish("new", bias=1.0)
    living.wait_for_bias("new", 1.0)
    living.publish("new", bias=2.0)
    living.wait_for_bias("new", 2.0)
    assert living.ask("new").json()["selection"]["version"] == 2
    assert living.health()["pipelines"]["new"] == {"version": 2, "models": 1}
    living.store.roll_back("new", 1)
    living.wait_for_bias("new", 1.0)
    assert living.health()["pipelines"]["new"]["version"] == 1


def test_a_pipeline_that_is_removed(living: Living) -> None:
    assert living.bias("going") == 1.0
    (living.store.root / "going").unlink()
    living.wait_for_bias("going", None)
    assert "going" not in living.health()["pipelines"]
    assert "going" not in living.server.get("/node-types").json()
    assert total(living.server.metrics(), "kepler_model_server_models", pipeline="going") == 0


def test_publishing_under_load(living: Living) -> None:
    assert living.bias("busy") == 1.0
    body = json.dumps({**MINIMAL, "weight": True, "pipeline_name": "busy"}).encode()
    archive = json.dumps({**MINIMAL, "pipeline_name": "busy"}).encode()
    done = threading.Event()
    seen: set[int] = set()

    def client(number: int) -> None:
        connection = living.server.connect()
        while not done.is_set():
            if number % 4:
                answer = weights(ask(connection, "POST", "/model", body))
                version = answer["selection"]["version"]
                assert answer["package"]["All_Weights"]["Bias_Weight"] == version
            else:
                found = ask(connection, "POST", "/model", archive)
                assert found.status == 200
                files = read_zip(found.body, "answer")
                version = json.loads(found.headers["x-kepler-selection"])["version"]
                assert json.loads(files["weight.json"])["package"]["All_Weights"]["Bias_Weight"] == version
            seen.add(version)
        connection.close()

    def publisher() -> None:
        try:
            for version in range(2, 9):
                assert living.publish("busy", bias=float(version)) == version
                if version in (3, 8):
                    wait_for(lambda v=version: v in seen, f"version {version} is never served")  # type: ignore[misc]
        finally:
            done.set()

    in_threads([publisher, *(partial(client, number) for number in range(16))])
    assert {1, 3, 8} <= seen


def test_broken_versions(living: Living) -> None:
    for name, change in BREAKS.items():
        assert living.bias(name) == 1.0
        living.put_version(name, change)
    for name in BREAKS:
        assert living.wait_broken(name)
        assert living.bias(name) == 1.0, "the last good version stays"
        assert living.health()["pipelines"][name]["version"] == 1
    assert living.bias("first") == 10.0
    for name in BREAKS:
        living.store.roll_back(name, 1)
    wait_for(lambda: not set(BREAKS) & set(living.health()["broken"]), "they are still called broken")
    for name in BREAKS:
        assert living.bias(name) == 1.0


def test_pipelines_that_were_copied_by_hand(living: Living) -> None:
    """Without a manifest, one file after the other."""
    root = living.store.root
    (root / "copied").mkdir()
    assert "half copied" in living.wait_broken("copied")
    assert living.bias("copied") is None
    files = pipeline(Made(weights={"package": linear(5.0)}))
    for name in sorted(files, key=lambda name: name == "metadata.json"):
        (root / "copied" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "copied" / name).write_bytes(files[name])
    living.wait_for_bias("copied", 5.0)
    wait_for(lambda: "copied" not in living.health()["broken"], "it is still called broken")
    # of a model without a folder the zip is all there is
    zipped = {name: content for name, content in files.items() if not name.startswith(f"{Made().path}/")}
    (root / "zipped").mkdir()
    for name, content in {**zipped, f"{Made().path}.zip": b"not a zip"}.items():
        (root / "zipped" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "zipped" / name).write_bytes(content)
    assert "zip" in living.wait_broken("zipped")
    (root / "zipped" / f"{Made().path}.zip").write_bytes(zipped[f"{Made().path}.zip"])
    living.wait_for_bias("zipped", 5.0)


def test_what_was_never_good_is_skipped(living: Living) -> None:
    root = living.store.root
    (root / "empty").mkdir()
    (root / "list").mkdir()
    (root / "list" / "metadata.json").write_bytes(b"[]")
    (root / "list" / "node_type_index.json").write_bytes(b"[" * 100_000)
    (root / "dangling").symlink_to("nowhere")
    names = ("empty", "list", "dangling")
    for name in names:
        assert living.wait_broken(name)
    assert living.bias("first") == 10.0
    (root / "dangling").unlink()
    wait_for(lambda: "dangling" not in living.health()["broken"], "it is gone, but still called broken")


def test_a_link_to_itself(living: Living) -> None:
    link = living.store.root / "a-loop"
    link.symlink_to("a-loop")
    try:
        living.publish("after-a-loop", bias=1.0)
        living.wait_for_bias("after-a-loop", 1.0)
        assert living.wait_broken("a-loop")
    finally:
        link.unlink()


def test_an_archive_that_is_damaged_after_the_start(living: Living) -> None:
    best, next_best = DAMAGED
    assert living.bias("damaged") == 10.0
    folder = living.store.path("damaged")
    flip(folder / f"{best.path}.zip")
    good = (folder / f"{next_best.path}.zip").read_bytes()
    found = living.ask("damaged", weight=False)
    assert found.status == 200
    assert found.body == good
    assert "SHA-256" in living.wait_broken("damaged")
    flip(folder / f"{next_best.path}.zip")
    assert "SHA-256" in problem(living.server.get(f"/models/damaged/{next_best.path}.zip"), 503)
    # the same question may be answered with what was kept; another one needs the file
    kept = living.ask("damaged", weight=False)
    assert kept.status in (404, 503) or kept.body == good
    found = living.ask("damaged", weight=False, metrics=EVERY)
    assert found.status in (404, 503)
    problem(found, found.status)
    for model in (best, next_best):
        flip(folder / f"{model.path}.zip")
    living.wait_for_bias("damaged", 10.0)
    wait_for(lambda: "damaged" not in living.health()["broken"], "it is whole again, but still called broken")
    living.publish("damaged", bias=3.0)
    living.wait_for_bias("damaged", 3.0)
    wait_for(lambda: "damaged" not in living.health()["broken"], "it is still called broken")


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


def test_a_publisher_that_is_killed(living: Living) -> None:
    assert living.bias("killed") == 1.0
    for lines in (1, 2, 3):
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(living.store.root)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
            process.kill()
        assert living.store.snapshot("killed").problems() == {}
        assert living.bias("killed") == 1.0
    assert "killed" not in living.health()["broken"]
    living.publish("killed", bias=2.0)
    living.wait_for_bias("killed", 2.0)


def test_names_that_are_not_ascii(living: Living) -> None:
    """A feature group may have any name that a folder can have."""
    living.publish("foreign", Made(group="Größe", weights={"package": linear(7.0)}))
    wait_for(lambda: "foreign" in living.health()["pipelines"], "it is not served")
    for change in ({}, {"weight": False}):
        assert living.ask("foreign", **change).status == 200
    at = "/models/foreign/rapl-sysfs/AbsPower/Gr%C3%B6%C3%9Fe/SGDRegressorTrainer_0"
    for suffix in ("", ".json", ".zip"):
        assert living.server.get(at + suffix).status == 200


def test_the_log_says_what_is_served(living: Living) -> None:
    assert "pipeline first, version 1: 1 models, 1 node types" in living.server.log


def test_a_store_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with serving(store.root, tmp_path / "log", ready_path="/metrics") as server:
        assert not store.root.exists(), "reading makes nothing"
        found = server.get("/readyz")
        assert (found.status, found.json()["status"]) == (503, "degraded")
        assert str(store.root) in found.json()["store_problem"]
        assert server.get("/healthz").status == 200
        assert str(store.root) in problem(server.post(CAPTURED), 503)
        assert server.get("/models").json() == {"total": 0, "models": []}
        assert server.get("/best-models").json() == {"AbsPower": {}, "DynPower": {}}
        assert total(server.metrics(), "kepler_model_server_store_up") == 0
        store.publish("made", pipeline(Made()))
        wait_for(lambda: server.post(CAPTURED).status == 200, "it is not served")
        assert server.get("/readyz").json()["status"] == "ok"
        assert total(server.metrics(), "kepler_model_server_store_up") == 1
        # a file system that is not mounted for a while is no reason to forget what was read
        store.root.rename(tmp_path / "away")
        wait_for(lambda: server.get("/healthz").json()["store_problem"] is not None, "nobody says that it is gone")
        weights(server.post(CAPTURED))
        (tmp_path / "away").rename(store.root)
        wait_for(lambda: server.get("/healthz").json()["status"] == "ok", "it is still called gone")


# --- start and stop ---


def test_sigterm_lets_requests_finish(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log") as server:
        request = post_bytes(CAPTURED, close=True)
        begun = []
        for _ in range(8):
            connection = server.raw()
            connection.sendall(request[:-200])
            begun.append(connection)
        reading = []
        for _ in range(4):
            kept = server.connect()
            kept.request("GET", f"/models/made/{BIG.path}.zip")
            response = kept.getresponse()
            assert response.read(1000)
            reading.append((kept, response))
        idle = server.connect()
        ask(idle, "GET", "/healthz")
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                server.raw().close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refused, "the port is still open")
        for connection in begun:
            connection.sendall(request[-200:])
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
            connection.close()
        expected = store.snapshot("made").read(f"{BIG.path}.zip")
        for kept, response in reading:
            assert len(response.read()) == len(expected) - 1000
            kept.close()
        idle.close()
        assert server.process.wait(PATIENCE) == 0


def test_sigint_stops_too(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0


def test_two_workers(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log", "--workers", "2") as server:
        before = total(server.metrics(), "kepler_model_server_requests_total", endpoint="model", status="200")
        for _ in range(40):
            weights(server.post(CAPTURED))
        # whichever worker is asked
        for _ in range(6):
            found = server.metrics()
            requests = total(found, "kepler_model_server_requests_total", endpoint="model", status="200")
            assert requests - before == 40
            assert total(found, "kepler_model_server_request_seconds_count", endpoint="model") == 40
            assert total(found, "kepler_model_server_models", pipeline="made") == len(MODELS) + 1
            assert total(found, "kepler_model_server_store_up") == 1
        store.publish("second", pipeline(Made(weights={"package": linear(77.0)})))
        try:
            request = {**MINIMAL, "weight": True, "pipeline_name": "second"}
            wait_for(
                lambda: all(server.post(request).status == 200 for _ in range(10)), "not all workers serve the new one"
            )
        finally:
            (store.root / "second").unlink()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_initial_pipelines(tmp_path: Path) -> None:
    """One from a file; one from a URL that is not there yet, which holds up nothing."""
    source = LocalStore(tmp_path / "source")
    site = tmp_path / "site"
    site.mkdir()
    for name in ("local", "remote"):
        source.publish(name, pipeline(Made(weights={"package": linear(11.0)})))
        (site / f"{name}.zip").write_bytes(archive_bytes(source.snapshot(name)))
    port = free_port()
    urls = f"file://{site / 'local.zip'} , http://127.0.0.1:{port}/remote.zip,"
    store = LocalStore(tmp_path / "store")
    with serving(store.root, tmp_path / "log", environ={"INITIAL_PIPELINE_URL": urls}) as server:
        living = Living(store, server)
        living.wait_for_bias("local", 11.0)
        wait_for(lambda: f"http://127.0.0.1:{port}/remote.zip" in server.log, "nobody says that it is missing")
        assert living.bias("remote") is None
        with ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(site))) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            living.wait_for_bias("remote", 11.0)
            web.shutdown()
        assert store.versions("local") == store.versions("remote") == [1]
    # what is in the store already is not published again
    urls = f"file://{site / 'local.zip'},file://{tmp_path / 'nothing.zip'}"
    with serving(store.root, tmp_path / "log2", environ={"INITIAL_PIPELINE_URL": urls}) as server:
        wait_for(lambda: "nothing.zip" in server.log, "nobody says that it is missing")
        assert Living(store, server).bias("remote") == 11.0
    assert store.versions("local") == [1]


def test_initial_pipelines_do_not_lock_the_store(tmp_path: Path) -> None:
    """Processes that are started while one is written must not inherit the lock of the store."""
    source = LocalStore(tmp_path / "source")
    names = [f"p{number}" for number in range(60)]
    for name in names:
        source.publish(name, pipeline(Made()))
        (tmp_path / f"{name}.zip").write_bytes(archive_bytes(source.snapshot(name)))
    store = LocalStore(tmp_path / "store")
    urls = ",".join(f"file://{tmp_path / name}.zip" for name in names)
    with serving(store.root, tmp_path / "log", environ={"INITIAL_PIPELINE_URL": urls}, ready_path="/metrics"):
        wait_for(lambda: store.pipelines() == sorted(names), "they are not all imported")
        done = kepler("store", "rollback", "-s", store.root, "p0", "1")
        assert done.returncode == 0, done.stderr


def test_where_settings_come_from(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "kepler.config"
    folder.mkdir()
    port = free_port()
    lines = [f"MODEL_PATH={store.root}", "MODEL_SERVER_PORT=1", "MODEL_SERVER_MODEL_REQ_PATH=/lines", "ERROR_KEY=mae"]
    (folder / "MODEL_CONFIG").write_text("\n".join(lines))
    (folder / "MODEL_SERVER_PORT").write_text(f"{port}\n")
    (folder / "MODEL_SERVER_MODEL_REQ_PATH").write_text("/file")
    (folder / "ERROR_KEY").write_text("dram_mae")
    environ = {"CONFIG_PATH": str(folder), "MODEL_SERVER_MODEL_REQ_PATH": "/environment"}
    with serving(None, tmp_path / "log", environ=environ, port=port, port_option=False) as server:
        found = server.post(CAPTURED, "/environment")
        assert weights(found)["selection"]["error"] == {"dram_mae": 1, "compared_by": "dram_mae on the same data"}
        for path in ("/model", "/file", "/lines"):
            problem(server.post(CAPTURED, path), 404)
        assert "/environment" in server.get("/openapi.json").json()["paths"]
    other = free_port()
    environ = {"CONFIG_PATH": str(folder), "MODEL_SERVER_PORT": "2", "MODEL_PATH": str(tmp_path / "nothing")}
    with serving(store.root, tmp_path / "log2", environ=environ, port=other) as server:
        weights(server.post(CAPTURED, "/file"))


def refuses(*arguments: str | Path, **environ: str) -> str:
    """Exit code 2 and one line."""
    clean = {key: value for key, value in os.environ.items() if key != "MODEL_PATH"}
    done = kepler("serve", "model-server", "--host", "127.0.0.1", *arguments, env={**clean, **environ})
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refuses("--store", tmp_path, "--port", str(port))


@pytest.mark.parametrize("port", ["abc", "70000", "-1", "81.5", "nan", "inf"])
def test_settings_that_cannot_be_right(tmp_path: Path, port: str) -> None:
    assert "MODEL_SERVER_PORT" in refuses("--store", tmp_path, MODEL_SERVER_PORT=port)


def test_other_settings_that_cannot_be_right(tmp_path: Path) -> None:
    assert "MODEL_PATH" in refuses()
    said = refuses("--store", tmp_path, "--port", str(free_port()), MODEL_SERVER_MODEL_REQ_PATH="model")
    assert "MODEL_SERVER_MODEL_REQ_PATH" in said
    assert "no-such-host" in refuses("--store", tmp_path, "--host", "no-such-host.invalid")


def test_a_worker_that_dies_is_replaced(store: LocalStore, tmp_path: Path) -> None:
    server = ServerProcess(store.root, tmp_path / "log")
    try:
        server.wait_ready()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)

        def answers() -> bool:
            try:
                return server.post(CAPTURED).status == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_for(answers, "nobody answers any more")
    finally:
        assert server.stop() == 0
