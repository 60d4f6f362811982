"""A model server as a real process, and small stores for it to serve."""

from __future__ import annotations

import http.client
import json
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

from kepler_core.selection import Catalogue
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.store import Snapshot
from kepler_core.store.layout import zip_bytes
from kepler_profiler.similarity import SpecTable
from support.process import PATIENCE, ProcessUnderTest, wait_for  # noqa: F401  (others import them from here)

CAPTURED: dict[str, Any] = {
    "metrics": [
        "bpf_cpu_time_ms", "bpf_net_tx_irq", "bpf_net_rx_irq", "bpf_block_irq", "bpf_page_cache_hit",
        "cpu_architecture",
    ],
    "output_type": "AbsPower",
    "source": "intel_rapl",
    "node_type": 0,
    "weight": True,
    "trainer_name": "SGDRegressorTrainer",
    "filter": "",
    "machine_spec": {
        "vendor": "genuineintel", "processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2,
        "memory": 381, "frequency": 3500, "threads_per_core": 2,
    },
}  # fmt: skip
"""What Kepler sends (captured)."""

BPF = ("bpf_cpu_time_ms", "bpf_page_cache_hit")
COUNTERS = ("cache_miss", "cpu_cycles", "cpu_instructions")
GROUPS = {"BPFOnly": BPF, "CounterOnly": COUNTERS, "Basic": (*COUNTERS, *BPF)}


# --- made-up pipelines ---


def linear(bias: float = 10.0, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One component's linear weights, each feature divided by 1000."""
    found = {"bpf_cpu_time_ms": 1.0} if weights is None else weights
    return {
        "All_Weights": {
            "Categorical_Variables": {},
            "Numerical_Variables": {name: {"scale": 1000.0, "weight": weight} for name, weight in found.items()},
            "Bias_Weight": bias,
        }
    }


def curve(weights: Sequence[float], feature: str = "bpf_cpu_time_ms", scale: float = 1.0) -> dict[str, Any]:
    """One component's curve over a feature."""
    return {
        "All_Weights": {
            "Categorical_Variables": {},
            "Numerical_Variables": {feature: {"scale": scale}},
            "CurveFit_Weights": list(weights),
        }
    }


@attrs.frozen
class Made:
    """A made-up model."""

    trainer: str = "SGDRegressorTrainer"
    node_type: int = 0
    source: str = "rapl-sysfs"
    output_type: str = "AbsPower"
    group: str = "BPFOnly"
    mae: float = 1.0
    features: tuple[str, ...] | None = None
    weights: Mapping[str, Any] | None = attrs.field(factory=lambda: {"package": linear(), "dram": linear(2.0)})
    data: str | None = None
    """Which data it was measured on; None: nobody says."""
    constant_mae: float | None = None
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """Further metadata."""

    @property
    def name(self) -> str:
        return f"{self.trainer}_{self.node_type}"

    @property
    def path(self) -> str:
        return f"{self.source}/{self.output_type}/{self.group}/{self.name}"

    def files(self) -> dict[str, bytes]:
        """Its files in a pipeline."""
        metadata: dict[str, Any] = {
            "model_name": self.name,
            "trainer": self.trainer,
            "output_type": self.output_type,
            "features": list(self.features or GROUPS.get(self.group, BPF)),
            "mae": self.mae,
            "mape": 10 * self.mae,
            "package_mae": self.mae,
            "dram_mae": self.mae / 2,
        }
        if self.data is not None:
            metadata["lineage"] = {"data": self.data}
            package: dict[str, Any] = {"r2": 1 - self.mae / 100, "constant_mae": self.constant_mae}
            if self.mae >= 0:
                package["mae"] = self.mae
            metadata["validation"] = {"timestamps": 100, "components": {"package": package}}
        content = {"metadata.json": json.dumps({**metadata, **self.more}).encode()}
        if self.weights is not None:
            content["weight.json"] = json.dumps(self.weights).encode()
        files = {f"{self.path}/{name}": data for name, data in content.items()}
        files[f"{self.path}.zip"] = zip_bytes(content)
        if self.weights is not None:
            files[f"{self.path}.json"] = content["weight.json"]
        return files


def pipeline(*models: Made, node_types: Mapping[int, Mapping[str, Any]] | None = None) -> dict[str, bytes]:
    """All files of a pipeline."""
    types = {0: {}} if node_types is None else node_types
    index = {str(number): {"attrs": spec, "members": [f"node-{number}"]} for number, spec in types.items()}
    files = {"metadata.json": b'{"name":"made"}', "node_type_index.json": json.dumps(index).encode()}
    for model in models:
        files |= model.files()
    return files


def catalogue(*models: Made, error_key: str = "mae", **pipelines: dict[str, bytes]) -> Catalogue:
    """A catalogue of the pipeline `made` of these models, or of several pipelines' files."""
    if models:
        pipelines["made"] = pipeline(*models)
    found, types = [], {}
    for name, files in sorted(pipelines.items()):
        snapshot = Snapshot(name, 1, name, None, frozenset(files), files.__getitem__)
        of_pipeline, types[name] = read_pipeline_models(snapshot)
        found += of_pipeline
    return Catalogue(found, types, {}, compare=SpecTable, error_key=error_key, location="made up")


# --- what the client does with weights ---


def evaluate(answer: Mapping[str, Any], columns: Mapping[str, Sequence[float]], first: str) -> dict[str, list[float]]:
    """Watts per component and row, by the client's formulas (WIRE.md §2). `first` is the first feature
    that the client lists: whatever a curve was fitted over, it is drawn over that one."""
    trainer = answer["model_name"].split("_")[0]
    rows = len(next(iter(columns.values())))
    names = ["platform"] if "platform" in answer else ["package", "core", "uncore", "dram"]
    watts: dict[str, list[float]] = {}
    for component in (name for name in names if name in answer):
        found = answer[component]["All_Weights"]
        fit = found.get("CurveFit_Weights")
        values = []
        for row in range(rows):
            x = columns[first][row]
            if trainer == "LogarithmicRegressionTrainer":
                a, b, c = fit
                value = a * _log(b * x + 1) + c
            elif trainer == "ExponentialRegressionTrainer":
                a, b, c = fit
                value = a * _exp(b * x) + c
            elif trainer == "LogisticRegressionTrainer":
                height, x0, k, offset = fit
                value = offset + height / (1 + _exp(-k * (x - x0)))
            else:
                assert trainer == "SGDRegressorTrainer", "the client panics"
                value = found["Bias_Weight"]
                for feature, variable in found["Numerical_Variables"].items():
                    if variable["scale"] != 0 and feature in columns:
                        value += variable["weight"] * columns[feature][row] / variable["scale"]
            values.append(value)
        watts[component] = values
    return watts


# Go's functions return what Python's raise errors for.


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    if x > 0:
        return math.log(x)
    return -math.inf if x == 0 else math.nan


def check_one_line(error: Exception, longest: int = 1000) -> None:
    """A message as users get it."""
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) <= longest


# --- processes ---


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess(ProcessUnderTest):
    """`kepler-model serve model-server …` on a free port of this machine."""

    SERVER = "model-server"

    def __init__(
        self,
        store: Path | str | None,
        log: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        port: int | None = None,
        port_option: bool = True,
    ) -> None:
        self.port = free_port() if port is None else port
        command = ["serve", self.SERVER, "--host", "127.0.0.1", *arguments]
        if store is not None:
            command += ["--store", str(store)]
        if port_option:
            command += ["--port", str(self.port)]
        super().__init__(command, log, environ)

    def wait_ready(self, path: str = "/readyz") -> None:
        """Wait until the path, which tells whether the server can be used, answers 200."""

        def ready() -> bool:
            try:
                return self.get(path).status == 200
            except OSError:
                return False

        self.wait_until(ready, "the server is not ready")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, request: Any, path: str = "/model") -> Answer:
        """The request as JSON, or as the bytes given."""
        return self.ask("POST", path, request if isinstance(request, bytes) else json.dumps(request).encode())

    def raw(self) -> socket.socket:
        """A connection to be misused."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of /metrics, by its name and labels."""
        text = self.get("/metrics").body.decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def serving(
    store: Path | str | None,
    log: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    port: int | None = None,
    port_option: bool = True,
    ready_path: str = "/readyz",
) -> Iterator[ServerProcess]:
    """A server that is ready, and is stopped and its log checked at the end."""
    server = ServerProcess(store, log, *arguments, environ=environ, port=port, port_option=port_option)
    try:
        server.wait_ready(ready_path)
        yield server
    finally:
        code = server.stop()
    server.check_log()
    assert code == 0, server.log


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection that is kept."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
