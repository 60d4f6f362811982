"""Tests of valid training requests: HTTP answers, jobs, idempotency keys and the command `kepler-model submit`."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.process import wait_for
from support.trainer_server import TrainerFolder, TrainerServer, children_of, request

from kepler_core.simulate import Simulation, write
from kepler_core.store.archive import read_archive

# --- answers ---


def test_the_answer_is_the_trained_pipeline(server: TrainerServer, folder: TrainerFolder) -> None:
    answer = server.train(request(name="direct"))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["x-kepler-pipeline"] == "direct; version=1"
    files = read_archive(answer.body, "the answer")
    assert any(name.endswith("LinearRegressionTrainer_0.zip") for name in files)
    assert folder.versions("direct") == [1]
    metadata = json.loads(files["metadata.json"])
    assert metadata["isolator"] == "MinIdleIsolator"
    assert metadata["pipeline"]["energy_sources"] == ["acpi"]


def test_a_request_with_a_whole_pipeline(server: TrainerServer) -> None:
    body = {
        "pipeline": {
            "name": "whole", "energy_sources": ["acpi"], "feature_groups": ["BPFOnly"],
            "abs_trainers": ["SGDRegressorTrainer"], "validation": {"scheme": "last"},
        },
        "prom_response": request()["prome_response"],
        "idle_prom_response": request()["prome_response"],
        "machine_spec": {"processor": "intel_xeon_e5_2630v3", "cores": 32},
    }  # fmt: skip
    answer = server.train(body)
    assert answer.status == 200, answer.body
    files = read_archive(answer.body, "the answer")
    metadata = json.loads(files["metadata.json"])
    assert metadata["pipeline"]["validation"]["scheme"] == "last"
    assert metadata["idle_recordings"]
    (model,) = [
        json.loads(data) for name, data in files.items() if name.endswith("SGDRegressorTrainer_0/metadata.json")
    ]
    assert model["machine_spec"]["cores"] == 32


NODE_WATTS, VM_IDLE_WATTS = 100.0, 7.0


def vm_recording(cpu_times: list[float]) -> dict[str, Any]:
    """Return a recording of a virtual machine on a node of 100 W.

    `cpu_times` has the CPU time of the virtual machine at each timestamp, in ms per second. The virtual machine
    draws 7 W, plus 1 W for each ms of CPU time per second.
    """

    def counter(rates: list[float], **labels: str) -> dict[str, Any]:
        values, total = [], 1000.0
        for index, rate in enumerate(rates):
            values.append([1_700_000_000 + 10 * index, repr(total)])
            total += 10 * rate
        return {"metric": {"instance": "node-a", "job": "vm", **labels}, "values": values}

    vm = {"pid": "1", "vm_id": "vm-1"}
    n = len(cpu_times)
    return {
        "kepler_node_package_joules_total": [
            counter([NODE_WATTS] * n, source="rapl-sysfs", package="0", mode="dynamic")
        ],
        "kepler_vm_package_joules_total": [
            counter([VM_IDLE_WATTS] * n, **vm, mode="idle"),
            counter(cpu_times, **vm, mode="dynamic"),
        ],
        "kepler_process_bpf_cpu_time_ms_total": [counter(cpu_times, **vm)],
        "kepler_process_bpf_page_cache_hit_total": [counter([2 * time for time in cpu_times], **vm)],
    }


def test_the_idle_recording_of_a_vm_is_observed_at_the_level_of_the_vm(server: TrainerServer) -> None:
    trainer = {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": ["LinearRegressionTrainer"]}
    answer = server.train(
        request(
            name="vm",
            energy_source="rapl",
            trainer={**trainer, "idle_prom_response": vm_recording([0.0] * 60)},
            prome_response=vm_recording([float(5 + index % 20) for index in range(120)]),
            use_vm_metrics=True,
        )
    )
    assert answer.status == 200, answer.body
    files = read_archive(answer.body, "the answer")
    assert json.loads(files["metadata.json"])["idle_recordings"]
    profile = json.loads(files["profiles/0.json"])
    assert profile["power"]["rapl-sysfs"]["package"]["idle"] == pytest.approx(VM_IDLE_WATTS)


# --- jobs ---


def test_a_job_describes_its_training(server: TrainerServer, trained: str) -> None:
    job = server.job(trained)
    assert [stage["stage"] for stage in job["stages"]] == ["reading", "preparing", "fitting", "publishing", "packing"]
    assert job["progress"] == {"models": len(job["models"]), "trained": len(job["models"]), "failed": 0}
    assert job["models"]
    assert all(model["mae"] >= 0 for model in job["models"])
    assert job["version"] == 1
    assert job["report"]["version"] == 1
    assert job["submitted"] <= job["started"] <= job["finished"]


def test_data_sets_without_data_count_as_failed(server: TrainerServer) -> None:
    """If the recording lacks one of the pipeline's feature groups, the server's metrics count one failed model."""
    before = _failed_models(server)
    pipeline = {
        "name": "lacking", "energy_sources": ["acpi"], "feature_groups": ["BPFOnly", "CounterOnly", "BPFIRQ"],
        "abs_trainers": ["SGDRegressorTrainer"],
    }  # fmt: skip
    body = {"pipeline": pipeline, "prom_response": request()["prome_response"]}
    url = server.submit(body)
    job = server.until(url, "done")
    assert len(job["report"]["failed"]) == 2
    assert job["progress"] == {"models": 1, "trained": 1, "failed": 2}
    (listed,) = (entry for entry in server.get("/jobs?limit=1000").json()["jobs"] if entry["url"] == url)
    assert listed["progress"] == job["progress"]
    assert _failed_models(server) - before == 2


def _failed_models(server: TrainerServer) -> float:
    labels = frozenset({("outcome", "failed")})
    return server.metrics().get(("kepler_offline_trainer_models_total", labels), 0)


def test_a_job_that_is_done_has_a_zip_and_is_listed(server: TrainerServer, trained: str) -> None:
    job = server.job(trained)
    result = server.get(job["result"])
    assert result.status == 200
    assert zipfile.ZipFile(io.BytesIO(result.body)).testzip() is None
    page = server.get("/jobs?state=done&limit=1000").json()
    assert job["id"] in [listed["id"] for listed in page["jobs"]]


def test_a_client_that_disconnects_does_not_end_the_job(server: TrainerServer) -> None:
    body = json.dumps(request(name="left")).encode()
    with server.raw() as connection:
        head = f"POST /train HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        wait_for(lambda: any(j["pipeline"] == "left" for j in server.get("/jobs").json()["jobs"]), "no job")
    (job,) = [listed for listed in server.get("/jobs").json()["jobs"] if listed["pipeline"] == "left"]
    server.until(job["url"], "done")


def test_unknown_jobs_and_wrong_queries(server: TrainerServer, trained: str) -> None:
    for method, path in (("GET", "/jobs/x"), ("DELETE", "/jobs/x"), ("GET", "/jobs/x/result"), ("GET", "/jobs/%2e%2e")):
        assert server.ask(method, path).status == 404
    assert server.ask("DELETE", trained).status == 409
    for query in ("state=dne", "limit=0", "limit=x", "offset=-1", "x=1", "state=done&state=done"):
        assert server.get(f"/jobs?{query}").status == 400
    assert "did you mean done" in server.get("/jobs?state=dne").json()["msg"]
    assert server.train(request(), "/train?async=maybe").status == 400


# --- idempotency keys ---


def test_a_repeated_request_with_the_same_key_is_the_same_job(
    server: TrainerServer, folder: TrainerFolder, trained: str
) -> None:
    inputs = folder.inputs()
    assert server.submit(request(name="trained"), Idempotency_Key="trained") == trained
    repeated = server.train(request(name="trained"), Idempotency_Key="trained")
    assert repeated.status == 200
    assert repeated.headers["x-kepler-job"] == trained.rpartition("/")[2]
    message = server.rejected(request(name="other"), 422, "Idempotency-Key", Idempotency_Key="trained")
    assert "which has a different request" in message
    folder.check_nothing_stored(inputs)


def test_concurrent_requests_with_the_same_key_are_one_job(server: TrainerServer) -> None:
    with ThreadPoolExecutor(4) as clients:
        submits = [clients.submit(server.submit, request(name="twice"), Idempotency_Key="twice") for _ in range(4)]
        (url,) = {submit.result() for submit in submits}
    assert server.until(url, "done")["version"] == 1


def test_plain_and_gzipped_bodies_are_the_same_request(server: TrainerServer, trained: str) -> None:
    body = json.dumps(request(name="trained")).encode()
    packed = gzip.compress(body)
    two_members = gzip.compress(body[:5000]) + gzip.compress(body[5000:])
    for content, headers in (
        (body, {}), (packed, {}), (two_members, {}), (packed, {"Content_Encoding": "gzip"}),
        (packed, {"Content_Encoding": "x-gzip"}),
    ):  # fmt: skip
        assert server.submit(content, Idempotency_Key="trained", **headers) == trained
    assert server.submit(packed, "/train?async=1", Idempotency_Key="trained") == trained


def test_a_key_with_a_space_is_rejected(server: TrainerServer) -> None:
    assert server.rejected(request(), 400, "Idempotency-Key", Idempotency_Key="a b")


# --- submit ---


@pytest.fixture
def submit(server: TrainerServer, tmp_path: Path) -> list[str]:
    """The command line that submits a small recording to the shared server, as a list of words."""
    write(Simulation(containers=3, timestamps=60, accelerator=False), str(tmp_path / "r.json.gz"))
    return [
        sys.executable, "-m", "kepler_core", "submit", "quickstart", "--input", str(tmp_path / "r.json.gz"),
        "--name", "submitted", "--set", "energy_sources=[acpi]", "--set", "dyn_trainers=[]", "--set",
        "feature_groups=[BPFOnly]", "--server", f"http://127.0.0.1:{server.port}",
    ]  # fmt: skip


def test_submit_queues_a_job_and_waits_for_one(submit: list[str], tmp_path: Path) -> None:
    queued = subprocess.run([*submit, "--json"], check=True, capture_output=True, text=True)
    assert json.loads(queued.stdout)["state"] == "queued"
    waited = subprocess.run(
        [*submit, "--wait", "-o", str(tmp_path / "out.zip")], check=False, capture_output=True, text=True
    )
    assert waited.returncode == 0, waited.stderr
    assert "version 2" in waited.stdout
    read_archive((tmp_path / "out.zip").read_bytes(), "out.zip")


def test_submit_reports_rejected_requests_and_unreachable_servers(submit: list[str]) -> None:
    wrong = subprocess.run([*submit, "--set", "isolator=mim"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "did you mean min" in wrong.stderr
    unreachable = subprocess.run(
        [*submit, "--server", "http://127.0.0.1:1/", "--wait"], check=False, capture_output=True, text=True
    )
    assert unreachable.returncode == 1
    assert "Connection refused" in unreachable.stderr


# --- modules that the HTTP process imports ---


def test_the_http_process_imports_no_training_libraries(server: TrainerServer, trained: str) -> None:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(server.process.pid)}
    (worker,) = [pid for pid, command in commands.items() if b"resource_tracker" not in command]
    mapped = Path(f"/proc/{worker}/maps").read_text()
    for module in ("pandas", "sklearn", "scipy", "onnxruntime"):
        assert f"/{module}/" not in mapped


def test_metrics(server: TrainerServer, trained: str) -> None:
    metrics = server.metrics()
    assert metrics[("kepler_offline_trainer_jobs", frozenset({("state", "done")}))] >= 1
    assert metrics[("kepler_offline_trainer_received_bytes_total", frozenset())] > 1000
