"""An estimator as a real process, a client that behaves as Kepler does, and small stores of linear models."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from kepler_core.store.layout import pipeline_files
from kepler_core.store.local import LocalStore
from support.server_process import BPF, PATIENCE, wait_for

KEPLERS_READ = 4096

# Settings of the machine that the tests run on must not reach the estimators that they start.
_KEYS = (
    "MODEL_PATH", "MODEL_CONFIG", "MODEL_SERVER_URL", "MODEL_SERVER_ENABLE", "MODEL_SERVER_MODEL_REQ_PATH",
    "NODE_TOTAL_INIT_URL", "NODE_COMPONENTS_INIT_URL", "CONTAINER_TOTAL_INIT_URL", "CONTAINER_COMPONENTS_INIT_URL",
    "PROCESS_TOTAL_INIT_URL", "PROCESS_COMPONENTS_INIT_URL", "ERROR_KEY", "CONFIG_PATH", "HTTP_PROXY", "http_proxy",
)  # fmt: skip

MACHINE: dict[str, Any] = {"vendor": "genuineintel", "processor": "made_up", "cores": 32, "chips": 2, "memory": 128}


# --- models whose watts are known ---


@attrs.frozen
class LinearModel:
    """A model of Kepler Core: per component bias + Σ weight · feature."""

    trainer: str = "SGDRegressorTrainer"
    source: str = "rapl-sysfs"
    output_type: str = "AbsPower"
    group: str = "BPFOnly"
    mae: float = 1.0
    features: tuple[str, ...] = BPF
    watts: Mapping[str, tuple[float, Mapping[str, float]]] = attrs.field(
        factory=lambda: {
            "package": (50.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001}),
            "core": (0.0, {}),
            "uncore": (0.0, {}),
            "dram": (8.0, {"bpf_page_cache_hit": 0.002}),
        }
    )
    """Component -> bias, weights per unit of each feature."""

    @property
    def name(self) -> str:
        return f"{self.trainer}_0"

    def stored(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Its metadata and its files."""
        metadata: dict[str, Any] = {
            "model_name": self.name,
            "trainer": self.trainer,
            "model_class": "weights",
            "model_file": "model.json",
            "features": list(self.features),
            "feature_group": self.group,
            "fe_files": [],
            "source": self.source,
            "output_type": self.output_type,
            "node_type": 0,
            "machine_spec": MACHINE,
            "mae": self.mae,
            "mape": 10 * self.mae,
        }
        files: dict[str, bytes] = {}
        components: dict[str, Any] = {}
        for component, (bias, weights) in self.watts.items():
            components[component] = {"ceiling": 1e5, "format": "weights", "file": f"{component}.json"}
            # a scale of 4 is exact, and shows that features are scaled
            scaled = {name: 4.0 * weight for name, weight in weights.items()}
            files[f"{component}.json"] = json.dumps({"type": "linear", "weights": scaled, "bias": bias}).encode()
        layout = {"layout": 1, "features": list(self.features), "scale": [4.0] * len(self.features)}
        files["model.json"] = json.dumps({**layout, "components": components}).encode()
        files["metadata.json"] = json.dumps(metadata).encode()
        return metadata, files

    def expected(self, metrics: Sequence[str], values: Sequence[Sequence[float]]) -> dict[str, list[float]]:
        """Its watts, computed in double precision."""
        rows = [dict(zip(metrics, row, strict=True)) for row in values]
        return {
            component: [bias + sum(weight * row[name] for name, weight in weights.items()) for row in rows]
            for component, (bias, weights) in self.watts.items()
        }


ABS = LinearModel()
DYN = LinearModel(
    output_type="DynPower",
    watts={
        "package": (0.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001}),
        "dram": (0.0, {"bpf_page_cache_hit": 0.002}),
    },
)
PLATFORM = LinearModel(source="acpi", watts={"platform": (100.0, {"bpf_cpu_time_ms": 0.02})})
ALL = (ABS, DYN, PLATFORM)


def files_of(*models: LinearModel, machine: Mapping[str, Any] = MACHINE) -> dict[str, bytes]:
    """The files of a pipeline of these models, all of one machine."""
    return pipeline_files(
        [model.stored() for model in models],
        {"name": "made"},
        {"0": {"attrs": dict(machine), "members": ["made-up"]}},
    )


def publish(store: Path, *models: LinearModel, name: str = "made", machine: Mapping[str, Any] = MACHINE) -> None:
    """A new version of a pipeline with these models."""
    LocalStore(store).publish(name, files_of(*models, machine=machine))


# --- clients ---


def connect(path: Path | str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # before there is a time limit: with one, it does not wait while the backlog is full
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    connection.settimeout(PATIENCE)
    return connection


def ask_as_kepler(path: Path | str, request: Mapping[str, Any] | bytes) -> bytes:
    """What Kepler does: connect, write without a delimiter, read once, close."""
    with connect(path) as connection:
        connection.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
        return connection.recv(KEPLERS_READ)


def ask(path: Path | str, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
    """The reply that Kepler gets, which must be a JSON object with powers as it reads them."""
    return parsed(ask_as_kepler(path, request))


def parsed(content: bytes) -> dict[str, Any]:
    """A reply, checked for all that would hurt Kepler."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in a reply")

    reply = json.loads(content, parse_constant=refuse)
    assert isinstance(reply, dict), content[:200]
    assert isinstance(reply["powers"], dict), content[:200]
    for values in reply["powers"].values():
        assert all(value >= 0 for value in values), content[:200]
    return reply


def watts_request(
    rows: Sequence[Sequence[float]] = ((100, 200),),
    metrics: Sequence[str] = BPF,
    output_type: str = "AbsPower",
    source: str = "intel_rapl",
    **more: Any,
) -> dict[str, Any]:
    return {
        "metrics": list(metrics),
        "values": [list(row) for row in rows],
        "output_type": output_type,
        "source": source,
        "system_features": ["cpu_architecture"],
        "system_values": ["Haswell"],
        "trainer_name": "",
        "filter": "",
        **more,
    }


class GoodClient:
    """Threads that ask and ask, and keep whatever was not the right answer."""

    def __init__(
        self, path: Path, request: Mapping[str, Any], right: Sequence[Mapping[str, Any]], threads: int
    ) -> None:
        self._path = path
        self._request = json.dumps(request).encode()
        self._right = [dict(powers) for powers in right]
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self.wrong: list[str] = []
        self.answers = 0
        self.seen: set[int] = set()
        """Which of the right answers came."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> GoodClient:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                content = ask_as_kepler(self._path, self._request)
                powers = parsed(content)["powers"]
                at = self._right.index(powers) if powers in self._right else -1
                problem = "" if at >= 0 else f"wrong: {content[:300]!r}"
            except Exception as error:  # whatever it is, the test has to hear of it
                problem, at = repr(error), -1
            with self._counting:
                self.answers += 1
                self.seen.add(at)
                if problem and len(self.wrong) < 10:
                    self.wrong.append(problem)
            # leaves the processor to others now and then
            time.sleep(0.002)

    def wait(self, count: int = 3) -> None:
        """Until it got so many more answers."""
        start = self.answers
        wait_for(lambda: self.answers >= start + count, "the good client gets no answers")

    def check(self) -> None:
        assert self.answers
        assert self.wrong == []


# --- the process ---


class EstimatorProcess:
    """`kepler-model serve estimator --socket …`."""

    def __init__(
        self, path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        assert len(str(path)) < 108, "longer than the path of a socket can be"
        self.path = path
        self.log_path = log or path.with_suffix(f".{time.monotonic_ns()}.log")
        clean = {key: value for key, value in os.environ.items() if key not in _KEYS}
        clean["CONFIG_PATH"] = str(path.parent / "no-such-folder")
        command = [sys.executable, "-m", "kepler_core", "serve", "estimator", "--socket", str(path)]
        with self.log_path.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, **(environ or {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Until it says that it listens."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return "listening on" in self.log

        wait_for(ready, "the estimator does not listen")

    def ask(self, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
        return ask(self.path, request)

    def status(self) -> dict[str, Any]:
        with connect(self.path) as connection:
            connection.sendall(b'{"command":"status"}')
            content = b""
            while piece := connection.recv(65536):
                content += piece
        found: dict[str, Any] = json.loads(content)
        return found

    def origins(self) -> list[str]:
        """Where the models in use are from."""
        return sorted({model["origin"] for model in self.status()["models"] if "origin" in model})

    def wait_answer(self, request: Mapping[str, Any], powers: Mapping[str, Any]) -> None:
        """Until the reply has these powers."""
        wait_for(lambda: self.ask(request)["powers"] == powers, f"never answered {powers}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def check_log(self) -> None:
        """It may complain of others, but nothing of its own may have gone wrong."""
        for word in ("Traceback", "defect of the estimator", "Logging error"):
            assert word not in self.log, self.log[-3000:]


@contextmanager
def estimating(
    path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> Iterator[EstimatorProcess]:
    """An estimator that listens, and is stopped and its log checked at the end."""
    estimator = EstimatorProcess(path, *arguments, environ=environ)
    try:
        estimator.wait_ready()
        yield estimator
    finally:
        code = estimator.stop()
    estimator.check_log()
    assert code == 0, estimator.log
    assert not os.path.lexists(path)
