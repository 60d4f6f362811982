"""A model store for the model server's tests, and checks of the server's answers."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kepler_core.store.layout import zip_bytes
from support.process import PATIENCE
from support.server_process import Answer, Samples
from support.small_pipelines import BPF, COUNTERS, SmallModel, curve, evaluate, linear, pipeline

ALL_FEATURES = [*COUNTERS, *BPF]

# The numbers have fractions, as in machine descriptions that other programs have written.
MACHINE = {"processor": "intel_xeon_e5_2630v3", "cores": 32.0, "chips": 2, "memory": 62.7, "frequency": 3200.4}
OTHER_MACHINE = {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 512, "frequency": 3500}

WEIGHTS = {"package": linear(30.0, {"bpf_cpu_time_ms": 2.5}), "dram": linear(3.0)}
BEST = SmallModel("LinearRegressionTrainer", mae=2, weights=WEIGHTS)
CURVE = SmallModel("ExponentialRegressionTrainer", mae=9, weights={"package": curve([2.0, 0.001, 30.0])})
WITHOUT_WEIGHTS = SmallModel("XgboostFitTrainer", mae=1, weights=None)
NEGATIVE_WEIGHTS = SmallModel("UnsafeTrainer", mae=0.1, weights={"package": linear(-5.0)}, group="Basic")
LARGE_ZIP = SmallModel("XgboostFitTrainer", mae=0.5, group="CounterOnly", weights=None)
"""A model whose zip is larger than the buffers of a socket. If a client does not read the zip, the server must wait."""
MODELS = (
    SmallModel(mae=3),
    BEST,
    CURVE,
    WITHOUT_WEIGHTS,
    NEGATIVE_WEIGHTS,
    SmallModel("XgboostFitTrainer", node_type=1, mae=7, weights=None),
    SmallModel(node_type=1, mae=8),
    SmallModel(output_type="DynPower", mae=4),
    SmallModel(source="acpi", weights={"platform": linear(170.0)}, mae=6),
    LARGE_ZIP,
)

MINIMAL: dict[str, Any] = {"metrics": list(BPF), "output_type": "AbsPower"}
"""A request for a model. The request has only the required keys."""

SECRET = "content of a file outside the store"
"""Content of a file outside of the store. No answer of the server may contain this text."""


def store_files() -> dict[str, bytes]:
    """Return the files of the pipeline that the model server of the tests serves."""
    files = pipeline(*MODELS, node_types={0: MACHINE, 1: OTHER_MACHINE})
    blob = random.Random(0).randbytes(8 * 2**20)
    zipped = {"metadata.json": files[f"{LARGE_ZIP.path}/metadata.json"], "blob": blob}
    files[f"{LARGE_ZIP.path}.zip"] = zip_bytes(zipped)
    return files


def checked_weights(answer: Answer) -> dict[str, Any]:
    """Check that an answer has status 200 and weights that Kepler can use. Return the weights."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    weights: dict[str, Any] = json.loads(answer.body, parse_constant=pytest.fail)
    trainer, _, suffix = weights["model_name"].partition("_")
    assert trainer in ("SGDRegressorTrainer", "LogarithmicRegressionTrainer", "ExponentialRegressionTrainer")
    assert suffix
    assert all(type(value) in (int, str) for value in weights["machine_spec"].values())
    idle = evaluate(weights, {name: [0.0] for name in ALL_FEATURES}, "bpf_cpu_time_ms")
    assert idle
    assert all(watts[0] >= 0 for watts in idle.values())
    return weights


def checked_error(answer: Answer, status: int, key: str | None = None) -> str:
    """Check that an error answer has the status `status` and the form that clients expect. Return its message."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    message = error["msg"]
    assert isinstance(message, str)
    assert message
    assert "\n" not in message
    assert len(answer.body) < 5000
    assert SECRET not in message
    if key is not None:
        assert error["key"].startswith(key)
    if status == 404 and "selection" in error:
        assert error["selection"]["candidates"]["considered"] >= 0
    return message


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of the samples of the metric `name` that have the labels `labels`."""
    return sum(
        value
        for (sample_name, sample_labels), value in samples.items()
        if sample_name == name and labels.items() <= dict(sample_labels).items()
    )


def post_bytes(request: dict[str, Any], close: bool = False) -> bytes:
    """Return the bytes of an HTTP request for a model."""
    body = json.dumps(request).encode()
    end = b"Connection: close\r\n" if close else b""
    return b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), end, body)


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes that a connection receives until the server closes it."""
    parts = []
    while part := connection.recv(2**16):
        parts.append(part)
    return b"".join(parts)


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run all jobs at the same time in threads. Raise the first error of a job."""
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


def kepler_process(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, seconds: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run `kepler-model` as a process of its own, and fail if it takes longer than `seconds`."""
    command = [sys.executable, "-m", "kepler_core", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds, env=environ)
