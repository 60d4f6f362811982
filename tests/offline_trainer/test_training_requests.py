"""Tests of requests that the offline trainer rejects, and of recordings that do not suffice to train a model."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from typing import Any

import pytest
from support.server_process import SHORT_BODIES, status_of_half_closed
from support.trainer_server import TrainerFolder, TrainerServer, request

from kepler_core.simulate import Simulation, recording

MIB = 2**20

BAD_NAMES = ["../../x", "/etc/x", "", "n" * 300, "a\0b", "ä", "a/b", ".hidden", "a\nb", "a b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_safe_path_is_rejected(
    server: TrainerServer, folder: TrainerFolder, trained: str, name: str
) -> None:
    inputs, files = folder.inputs(), set(folder.root.rglob("*"))
    assert "is not a name" in server.rejected(request(name=name), 400, "name")
    folder.check_nothing_stored(inputs)
    assert {path for path in folder.root.rglob("*") if "sqlite" not in path.name} == {
        path for path in files if "sqlite" not in path.name
    }


TRAINER = {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": []}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": None}, "name", "missing"),
    ({"name": 5}, "name", "5 is not text"),
    ({"energy_source": None}, "energy_source", "missing"),
    ({"energy_source": ["rapl"]}, "energy_source", "not text"),
    ({"energy_source": "rappl"}, "energy_source", "did you mean rapl"),
    ({"energy_source": "../x"}, "energy_source", "unknown"),
    ({"trainer": None}, "trainer", "missing"),
    ({"trainer": []}, "trainer", "not a JSON object"),
    ({"trainer": "LinearRegressionTrainer"}, "trainer", "not a JSON object"),
    ({"trainer": {}}, "trainer", "names no trainer"),
    ({"trainer": {"abs_trainers": "LinearRegressionTrainer"}}, "trainer.abs_trainers", "not a list"),
    ({"trainer": {"abs_trainers": [5]}}, "trainer.abs_trainers[0]", "neither a plugin's name"),
    ({"trainer": {"abs_trainers": ["LinearRegresionTrainer"]}}, "trainer.abs_trainers[0]", "LinearRegressionTrainer"),
    ({"trainer": {"dyn_trainers": ["os.system"]}}, "trainer.dyn_trainers[0]", "unknown"),
    ({"trainer": {"abs_trainer": []}}, "trainer.abs_trainer", "did you mean abs_trainers"),
    ({"trainer": {**TRAINER, "isolator": "MinIdelIsolator"}}, "trainer.isolator", "did you mean MinIdleIsolator"),
    ({"trainer": {**TRAINER, "isolator": "kepler_plugins.isolators.min_idle:MinIdleIsolator"}}, "trainer.isolator", ""),
    ({"trainer": {**TRAINER, "isolator": 5}}, "trainer.isolator", "neither"),
    ({"trainer": {**TRAINER, "isolator_args": []}}, "trainer.isolator_args", "expected a mapping"),
    ({"trainer": {**TRAINER, "isolator_args": {"a": 1}}}, "trainer.isolator_args.a", "takes none"),
    ({"trainer": {**TRAINER, "idle_prom_response": []}}, "idle_prom_response", "not a recording"),
    ({"trainer": {**TRAINER, "idle_prom_response": {}}, "idle_prom_response": {}}, "trainer.idle_prom_response", ""),
    ({"prome_response": None}, "prom_response", "missing"),
    ({"prome_response": []}, "prome_response", "not a recording"),
    ({"prome_response": "x"}, "prome_response", "not a recording"),
    ({"prome_response": {"m": 5}}, "prome_response", "m: "),
    ({"prome_response": {"m": [{"metric": {}}]}}, "prome_response", "values"),
    ({"prom_response": {}}, "prom_response", "one of them is enough"),
    ({"use_vm_metrics": "yes"}, "use_vm_metrics", "not true or false"),
    ({"use_vm_metric": True}, "use_vm_metric", "did you mean use_vm_metrics"),
    ({"machine_spec": {"core": 5}}, "machine_spec", "did you mean cores"),
    ({"pipeline": {"name": "x"}}, "name", "a key of the pipeline"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "message"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)])
def test_missing_wrong_and_unknown_keys_are_named(
    server: TrainerServer, folder: TrainerFolder, trained: str, changes: dict[str, Any], key: str, message: str
) -> None:
    inputs = folder.inputs()
    assert message in server.rejected(request(**changes), 400, key)
    folder.check_nothing_stored(inputs)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def with_json(value: bytes, **changes: Any) -> bytes:
    """Return a training request as JSON. The JSON text `value` replaces the string "@" in the request."""
    return json.dumps(request(**changes)).encode().replace(b'"@"', value)


PIPELINE = {"name": None, "energy_source": None, "trainer": None}
"""Keys that are not allowed in a request with the key `pipeline`. The value None removes a key from the request."""
ARGUMENT = {**TRAINER, "abs_trainers": [{"name": "LinearRegressionTrainer", "args": {"x": "@"}}]}


@pytest.mark.parametrize("levels", [20, 64, 100, 300, 800, 5000])
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trainer": ARGUMENT}, "trainer.abs_trainers"),
        ({"trainer": {**TRAINER, "isolator_args": {"x": "@"}}}, "trainer.isolator"),
        ({"trainer": {**TRAINER, "isolator": "@"}}, "trainer.isolator"),
        ({"name": "@"}, "name"),
        ({"machine_spec": {"processor": "@"}}, "machine_spec"),
        ({"use_vm_metrics": "@"}, "use_vm_metrics"),
        ({"unknown": "@"}, "unknown"),
        ({"prome_response": {"m": "@"}}, "prome_response"),
        ({"prome_response": {"m": [{"metric": {"a": "@"}, "values": []}]}}, "prome_response"),
        ({**PIPELINE, "pipeline": {"name": "x", "third_party": "@"}}, "pipeline"),
        ({**PIPELINE, "pipeline": {"name": "x", "extractor": ARGUMENT["abs_trainers"][0]}}, "pipeline"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_nested_values_are_rejected_and_the_process_goes_on(
    server: TrainerServer, folder: TrainerFolder, trained: str, changes: dict[str, Any], key: str, levels: int
) -> None:
    inputs = folder.inputs()
    answer = server.train(with_json(nested(levels), **changes), Prefer="respond-async")
    assert answer.status == 400, answer.body
    assert answer.json()["key"].startswith((key, "body"))
    assert len(answer.body) < 500
    folder.check_nothing_stored(inputs)


@pytest.mark.parametrize("value", [b"9" * 400, b"9" * 5000, b"1e400", b"1e300", b"-9007199254740993", b'"\xff"'])
def test_values_that_are_out_of_bounds_are_rejected(server: TrainerServer, trained: str, value: bytes) -> None:
    server.rejected(with_json(value, trainer=ARGUMENT), 400)
    server.rejected(with_json(value, machine_spec={"cores": "@"}), 400)
    server.rejected(with_json(value, use_vm_metrics="@"), 400)


def test_long_lists_are_rejected_at_once(server: TrainerServer, trained: str) -> None:
    started = time.monotonic()
    pipeline: dict[str, Any] = {"name": "x", "abs_trainers": ["LinearRegressionTrainer"]}
    for changes, key in (
        ({"third_party": [f"m{number}" for number in range(60_000)]}, "pipeline.third_party"),
        ({"abs_trainers": [5] * 200_000}, "pipeline.abs_trainers[0]"),
        ({"feature_groups": ["x" * 500_000]}, "pipeline.feature_groups[0]"),
        ({"x" * 500_000: 1}, None),
    ):
        body = {"pipeline": {**pipeline, **changes}, "prom_response": request()["prome_response"]}
        assert len(server.rejected(body, 400, key)) < 1000
    assert "besides the recordings" in server.rejected(request(**{"x" * 2**20: 1}), 400, "body")
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"{} {}", b"[" * 100_000, b'{"name":' * 5000,
        b'{"pipeline": 5, "prom_response": {}}', b'{"pipeline": {"name": "x"}, "prom_response": {}}',
        b'{"pipeline": {"name": "x", "validaton": {}}, "prom_response": {}}',
        b'{"name": "x", "trainer": {"abs_trainers": [' + b"[" * 5000 + b'', b'{"name": "\xff"}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_rejected(
    server: TrainerServer, folder: TrainerFolder, trained: str, body: bytes
) -> None:
    inputs = folder.inputs()
    server.rejected(body, 400)
    folder.check_nothing_stored(inputs)


def test_damaged_gzip_and_other_encodings_are_rejected(
    server: TrainerServer, folder: TrainerFolder, trained: str
) -> None:
    inputs = folder.inputs()
    packed = gzip.compress(json.dumps(request()).encode())
    assert "ends too early" in server.rejected(packed[:-20], 400)
    wrong_size = bytearray(packed)
    wrong_size[-1] ^= 1
    assert "damaged" in server.rejected(bytes(wrong_size), 400)
    wrong_checksum = bytearray(packed)
    wrong_checksum[-6] ^= 1
    assert "damaged" in server.rejected(bytes(wrong_checksum), 400)
    assert "damaged" in server.rejected(packed[:2000] + b"x" * 100 + packed[2100:], 400)
    assert "damaged" in server.rejected(packed + b"more", 400)
    assert "not gzip" in server.rejected(json.dumps(request()).encode(), 400, Content_Encoding="gzip")
    assert "not known" in server.rejected(packed, 415, Content_Encoding="br")
    folder.check_nothing_stored(inputs)


def test_too_large_bodies_and_bombs_are_rejected(server: TrainerServer, folder: TrainerFolder, trained: str) -> None:
    inputs = folder.inputs()
    bomb = gzip.compress(b" " * (64 * MIB), 9)
    assert "more than" in server.rejected(bomb, 413)
    assert "more than" in server.rejected(b" " * (5 * MIB), 413)
    folder.check_nothing_stored(inputs)


def test_gzip_that_holds_nothing_is_rejected_while_it_arrives(
    server: TrainerServer, folder: TrainerFolder, trained: str
) -> None:
    inputs = folder.inputs()
    empty = gzip.compress(b"")
    body = gzip.compress(json.dumps(request()).encode())
    started = time.monotonic()
    for packed in (
        empty * (32 * MIB // len(empty)),
        body + empty * (32 * MIB // len(empty)),
        gzip.compress(b" " * 40) * (32 * MIB // 23),
        body + bytes(32 * MIB),
        empty[:10] + b"\0\0\0\xff\xff" * (32 * MIB // 5) + empty[10:],
    ):
        blocks = [packed[start : start + MIB] for start in range(0, len(packed), MIB)]
        connection = server.connect()
        with contextlib.suppress(BrokenPipeError):  # the server rejects the body before it is complete
            connection.request("POST", "/train", blocks, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 400
        assert "hold only" in json.loads(response.read())["msg"]
        connection.close()
    assert time.monotonic() - started < 60.0
    folder.check_nothing_stored(inputs)


def test_bodies_shorter_than_their_content_length(server: TrainerServer) -> None:
    for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("DELETE", "/jobs/x"), ("POST", "/train")):
        for end in SHORT_BODIES:
            assert status_of_half_closed(server.port, method, path, end) == 400, (method, path, end)


def test_a_body_that_stops_halfway_leaves_nothing_behind(
    server: TrainerServer, folder: TrainerFolder, trained: str
) -> None:
    inputs, jobs = folder.inputs(), server.get("/jobs").json()["total"]
    body = json.dumps(request(name="half")).encode()
    for head in (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"):
        for wait in (False, True):
            with server.raw() as connection:
                connection.sendall(f"POST /train HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
                connection.sendall(body[:3000] if "Length" in head else b"800\r\n" + body[:2048] + b"\r\n")
                if wait:
                    time.sleep(0.3)
                    connection.shutdown(socket.SHUT_WR)
                    try:
                        answer = connection.recv(4096)
                    except OSError:
                        answer = b""
                    assert not answer or answer.split()[1] in (b"400", b"408"), answer
    folder.check_nothing_stored(inputs)
    assert server.get("/jobs").json()["total"] == jobs


def test_an_untrainable_recording_is_reported_with_findings(server: TrainerServer) -> None:
    short = recording(Simulation(containers=3, timestamps=8, accelerator=False))
    no_power = {name: series for name, series in request()["prome_response"].items() if "joules" not in name}
    empty = {name: [{**item, "values": []} for item in series] for name, series in request()["prome_response"].items()}
    for data in ({}, {"some_metric": []}, empty, no_power, short):
        answer = server.train(request(name="nothing", prome_response=data))
        assert answer.status == 422, answer.body
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["findings"]["trainable"] is False
        assert answer.json()["msg"]


def test_an_untrainable_job_fails_with_the_same_answer(server: TrainerServer) -> None:
    short = recording(Simulation(containers=3, timestamps=8, accelerator=False))
    url = server.submit(request(name="nothing", prome_response=short))
    job = server.until(url, "failed")
    assert job["error"]["status"] == 422
    assert "usable timestamps" in json.dumps(job["error"]["findings"])
    assert server.get(f"{url}/result").status == 422


def test_malformed_samples_are_named(server: TrainerServer) -> None:
    data = request()["prome_response"]
    for all_series in data.values():
        for series in all_series:
            series["values"][5] = [1700000000, [1]]
    answer = server.train(request(name="wrong", prome_response=data))
    assert answer.status == 400
    assert f"{next(iter(data))}[0].values" in answer.json()["msg"]
